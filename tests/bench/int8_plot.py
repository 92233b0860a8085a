"""Draw where the int8 error comes from, layer by layer, from the JSON that int8_table wrote.

Run as `python -m tests.bench.int8_plot bench-out/int8_table.json docs/int8-layers.png`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from runtime.files import atomic_path


def draw(table: dict[str, Any], rows: list[str], model: str, out: Path) -> None:
    """Two panels: the share of the predicted landmark noise of each layer, and the measured relative error."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (upper, lower) = pyplot.subplots(2, 1, figsize=(12, 7), sharex=True)
    first = table[model][rows[-1]]["layers"]
    places = range(len(first))
    upper.bar(places, [100 * layer["share"] for layer in first], color="#4477aa")
    upper.set_ylabel("share of predicted\nlandmark noise, %")
    upper.set_title(f"{model}: where the int8 error comes from")
    for row, colour in zip(rows, ("#bbbbbb", "#ee6677", "#228833", "#4477aa"), strict=False):
        errors = [100 * layer["relative"] for layer in table[model][row]["layers"]]
        lower.plot(places, errors, marker="o", markersize=3, color=colour, label=row)
    lower.set_ylabel("error of the layer's output,\n% of its root mean square")
    lower.set_xticks(list(places), [layer["name"] for layer in first], rotation=90, fontsize=7)
    lower.legend()
    for axis in (upper, lower):
        axis.grid(axis="y", alpha=0.3)
    figure.tight_layout()
    with atomic_path(out) as place:
        figure.savefig(place, format="png", dpi=110, metadata={"Software": ""})
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> None:
    """Read the table, write the picture."""
    parser = argparse.ArgumentParser(description="per-layer int8 error")
    parser.add_argument("table", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="ghostone")
    parser.add_argument("--rows", default="ablation:min-max only,ablation:equalised only,fast,best")
    arguments = parser.parse_args(argv)
    table = json.loads(arguments.table.read_text())
    rows = [row for row in arguments.rows.split(",") if row in table.get(arguments.model, {})]
    if not rows:
        parser.error(f"{arguments.table}: none of the rows {arguments.rows} is measured for {arguments.model}")
    draw(table, rows, arguments.model, arguments.out)


if __name__ == "__main__":
    main()
