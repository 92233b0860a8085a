"""`toolkit report`: the page that explains a bundle to people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    bundle: Annotated[Path, typer.Argument(help="A bundle directory; see toolkit export.")],
    evaluation: Annotated[
        Path | None, typer.Option("--eval", help="Accuracy: a file written by toolkit eval --save.")
    ] = None,
    bench: Annotated[Path | None, typer.Option("--bench", help="Speed: bench.json of toolkit bench.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to write. (default: report.html in the bundle)")
    ] = None,
) -> None:
    """Write report.html: what the model is, how it was made, how accurate and how fast, how to run it.

    One file, no network, no scripts. The page lies beside the proof and is no part of it: verify neither needs nor
    trusts it.

    [bold]Examples[/bold]

      toolkit report bundle

      toolkit report bundle --eval results.json --bench bench-out/bench.json -o model.html
    """
    from toolkit.report import write_report

    print(write_report(bundle, evaluation, bench, out))
