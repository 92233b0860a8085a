"""The gap behind each layer as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from export.compare import Comparison
from runtime.files import write_atomic
from runtime.lazy import require

_FLOOR = 1e-9


def draw_layers(result: Comparison, path: Path | str) -> None:
    """Relative gap behind each layer on a logarithmic axis, with the limit and the first bad layer."""
    require("matplotlib", "drawing the comparison")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    gaps = result.layers
    finite = [gap.relative for gap in gaps if np.isfinite(gap.relative)]
    top = 10 * max([*finite, 1.0])
    heights = [min(max(gap.relative, _FLOOR), top) for gap in gaps]
    places = np.arange(len(gaps))
    figure: Any = Figure(figsize=(max(6.0, 0.22 * len(gaps) + 2), 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.bar(places, heights, color=["tab:red" if gap.bad else "tab:blue" for gap in gaps])
    if gaps:
        axes.axhline(gaps[0].limit, color="black", linestyle="--", linewidth=1, label=f"limit {gaps[0].limit:g}")
        axes.legend(loc="upper left")
    axes.set_yscale("log")
    axes.set_xticks(places, [gap.name for gap in gaps], rotation=90, fontsize=6)
    axes.set_ylabel("largest difference / largest value")
    axes.set_title(f"{Path(result.first).name} against {Path(result.second).name}, {result.faces}", fontsize=9)
    write_atomic(path, lambda stream: figure.savefig(stream, format="png", dpi=110, metadata={"Software": None}))
