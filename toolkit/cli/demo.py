"""`toolkit demo`: see the whole road once, on faces that come with the toolkit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli import console

EPOCHS = 30


def run(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything the demo makes.")] = Path("demo-out"),
    epochs: Annotated[int, typer.Option(min=1, max=1000, help="Length of the training.")] = EPOCHS,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier demo in the same folder.")] = False,
) -> None:
    """Run the whole road on built-in synthetic faces, in minutes, and say where the results are.

    [bold]Examples[/bold]

      toolkit demo

      toolkit demo --epochs 2 -o /tmp/quick-look
    """
    from toolkit.cli.train import Terminal
    from toolkit.demo import demo_recipe, run_demo

    stages = run_demo(out, epochs, Terminal(demo_recipe(epochs), out / "run"), force)
    rows = [(stage.name, stage.result, f"{stage.seconds:.0f} s") for stage in stages]
    console.show(console.table("demo", ("stage", "result", "time"), rows, numeric_from=2))
    print("look at:")
    for stage in stages:
        for path in stage.files:
            print(f"  {path}")
