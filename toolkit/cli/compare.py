"""`toolkit compare`: two artefacts of one model, layer by layer, on faces."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.errors import ExitCode, UsageError
from toolkit.cli import console

if TYPE_CHECKING:
    from export.compare import Comparison, LayerGap

_AROUND_BAD = 3


def run(
    first: Annotated[Path, typer.Argument(help="A checkpoint, fused checkpoint or ONNX file.")],
    second: Annotated[Path, typer.Argument(help="The one that is taken as right.")],
    data: str | None = typer.Option(
        None, "--data", help="Faces: a data set, a list, a pack or synth:N (default: 16 synthetic faces)."
    ),
    split: str | None = typer.Option(None, "--split", help="train or test, where --data holds both."),
    count: int | None = typer.Option(None, "--count", help="How many faces, evenly spread over --data."),
    spec: str | None = typer.Option(
        None, "--spec", help="What the input means, for ONNX files without a spec: a preset or a spec file (.json)."
    ),
    limit_px: float | None = typer.Option(
        None, "--limit-px", help="Largest landmark difference in input pixels (default: 0.01, fp16 0.5, int8 5)."
    ),
    layer_limit: float | None = typer.Option(
        None, "--layer-limit", help="Largest difference behind a layer, as a share of its largest value."
    ),
    same_input: bool = typer.Option(
        False, "--same-input", help="Feed both what the first one's spec says, to compare the weights alone."
    ),
    layers: bool = typer.Option(True, "--layers/--no-layers", help="Compare layer by layer, or the landmarks only."),
    full: bool = typer.Option(False, "--full", help="Show every layer, not only those around the first bad one."),
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the difference behind each layer into this PNG.")
    ] = None,
    as_json: bool = typer.Option(False, "--json", help="Print JSON instead of tables."),
) -> None:
    """Hold two artefacts of one model against each other: their specs, every common layer, their landmarks.

    Differences of the specs come first, for they are the usual cause. Exit code 1 when a landmark moves by more than
    the limit; the first layer that differs is named then.

    [bold]Examples[/bold]

      toolkit compare model.onnx model.ckpt

      toolkit compare model.int8.onnx model.onnx --data ../wflw --split test --count 64 --limit-px 3

      toolkit compare a.ckpt b.ckpt --plot layers.png --full
    """
    for flag, value in (("--limit-px", limit_px), ("--layer-limit", layer_limit)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UsageError(f"{flag} must be a positive number, found {value:g}")
    if plot is not None and not layers:
        raise UsageError("--plot draws layers; drop --no-layers")
    if plot is not None and plot.suffix.lower() != ".png":
        raise UsageError(f"--plot {plot}: expected a name that ends in .png")
    from runtime.backends.c import is_c_folder
    from runtime.files import require_file

    for path in (first, second):
        if not is_c_folder(path):
            require_file(path)
    from export.artefact import open_artefacts
    from export.compare import compare
    from export.probes import open_probes

    a, b = open_artefacts((first, second), spec)
    probes = open_probes(data, count, split)
    with console.progress("layers", len(a.layers) if layers else None) as advance:
        result = compare(
            a,
            b,
            probes,
            limit_px=limit_px,
            layer_limit=layer_limit,
            same_input=same_input,
            layers=layers,
            progress=lambda name: advance(note=name),
        )
    if plot is not None:
        from export.compare_plot import draw_layers

        draw_layers(result, plot)
    if as_json:
        print(json.dumps(_facts(result), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        _show(result, full)
    if not result.passed:
        raise typer.Exit(ExitCode.CHECK_FAILED)


def _facts(result: Comparison) -> dict[str, Any]:
    facts = {"passed": result.passed, **asdict(result)}
    for layer, gap in zip(facts["layers"], result.layers, strict=True):
        layer["bad"] = gap.bad
    plain: dict[str, Any] = _finite(facts)
    return plain


def _finite(value: Any) -> Any:
    """JSON knows no infinity: the text says it."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _show(result: Comparison, full: bool) -> None:
    if result.spec_differences:
        print("The specs differ, which alone moves landmarks:")
        for line in result.spec_differences:
            print(f"  {line}")
    for note in result.notes:
        console.say(note)
    shown = list(result.layers) if full else _around_bad(result)
    rows = [
        (gap.name, f"{gap.difference:.3g}", f"{gap.scale:.3g}", f"{gap.relative:.2e}", _verdict(gap, result))
        for gap in shown
    ]
    if rows:
        title = f"{len(result.layers)} layers" if full else f"{len(rows)} of {len(result.layers)} layers"
        columns = ["layer", "max difference", "largest value", "relative", ""]
        console.show(console.table(f"{title}, limit {result.layers[0].limit:g} relative", columns, rows))
    points = result.points
    numbers = [
        ("mean", f"{points.mean_px:.3g}", f"{points.mean_percent:.3g}"),
        ("largest", f"{points.max_px:.3g}", f"{points.max_percent:.3g}"),
    ]
    columns = ["landmark difference", "px of the input", f"% of {points.size}"]
    console.show(console.table(f"{result.first} against {result.second}, {result.faces}", columns, numbers))
    print(f"largest at point {points.worst_point} of {points.worst_face}")
    if result.passed:
        print(f"equal within {result.limit_px:g} px")
        return
    where = f"; first bad layer: {result.first_bad}" if result.first_bad else ""
    print(f"DIFFERENT: {points.max_px:.3g} px, the limit is {result.limit_px:g} px{where}")


def _around_bad(result: Comparison) -> list[LayerGap]:
    """The layers next to the first bad one; where all are good, the largest gaps in running order."""
    gaps = list(result.layers)
    names = [gap.name for gap in gaps]
    if result.first_bad in names:
        at = names.index(str(result.first_bad))
        return gaps[max(0, at - _AROUND_BAD) : at + _AROUND_BAD + 1]
    largest = sorted(gaps, key=lambda gap: gap.relative)[-_AROUND_BAD:]
    return [gap for gap in gaps if gap in largest]


def _verdict(gap: LayerGap, result: Comparison) -> str:
    if gap.name == result.first_bad:
        return "first bad layer"
    return "over the limit" if gap.bad else ""
