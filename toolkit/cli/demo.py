"""`toolkit demo`: see the whole road once, on faces that come with the toolkit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.errors import UsageError
from toolkit.cli import console

EPOCHS = 30


def run(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything the demo makes.")] = Path("demo-out"),
    epochs: Annotated[int, typer.Option(min=1, max=1000, help="Length of the training.")] = EPOCHS,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="Instead of training: a published model (.onnx, .pth) or a checkpoint."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="With --model: labelled faces to calibrate and measure on.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier demo in the same folder.")] = False,
) -> None:
    """Run the whole road on built-in synthetic faces, in minutes, and say where the results are.

    Ends with accuracy and speed of every artefact, report.html and annotated pictures. With --model the road starts
    from a model of your own.

    [bold]Examples[/bold]

      toolkit demo

      toolkit demo --epochs 2 -o /tmp/quick-look

      toolkit demo --model PFLD_GhostOne_112_1_opt_sim.onnx --data ../wflw -o ghostone-demo
    """
    from toolkit.cli.train import Terminal
    from toolkit.demo import demo_recipe, run_demo, run_model_demo

    if (model is None) != (data is None):
        raise UsageError("--model and --data belong together: a model, and labelled faces for it")
    if model is not None and data is not None:
        stages = run_model_demo(out, model, data, console.say, force)
    else:
        stages = run_demo(out, epochs, Terminal(demo_recipe(epochs), out / "run"), force)
    rows = [(stage.name, stage.result, f"{stage.seconds:.0f} s") for stage in stages]
    console.show(console.table("demo", ("stage", "result", "time"), rows, numeric_from=2))
    print("look at:")
    for stage in stages:
        for path in stage.files:
            print(f"  {path}")
