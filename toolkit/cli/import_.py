"""`toolkit import`: weights of another project become a checkpoint with a spec."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from runtime.errors import UsageError
from toolkit.cli import console

if TYPE_CHECKING:
    from export.importer import Imported

_CHOICES = {"channels": ("bgr", "rgb"), "coordinates": ("centre", "corner"), "crop_rounding": ("none", "pixel")}


def run(
    file: Annotated[Path, typer.Argument(help="A state dict (.pth, .pt, .tar) or an ONNX file of the family.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The checkpoint to write; by default NAME.ckpt here.")
    ] = None,
    spec: str | None = typer.Option(
        None, "--spec", help="What the input means: a preset such as upstream-ghostone, or a spec file (.json)."
    ),
    architecture: str | None = typer.Option(None, "--architecture", help="pfld, ghostnet, ghostnet-slim or ghostone."),
    width: float | None = typer.Option(None, "--width", help="Width factor; read from the weights when not given."),
    points: int | None = typer.Option(None, "--points", help="Landmarks; read from the weights when not given."),
    input_size: int | None = typer.Option(None, "--input-size", help="Input side; read from the weights likewise."),
    channels: str | None = typer.Option(None, "--channels", help="Channel order the model was trained on: bgr or rgb."),
    mean: str | None = typer.Option(None, "--mean", help="Mean subtracted from x/255: 0.5 or 0.485,0.456,0.406."),
    std: str | None = typer.Option(None, "--std", help="What x/255 minus mean is divided by: 0.5 or three numbers."),
    crop_scale: float | None = typer.Option(None, "--crop-scale", help="Side of the crop in landmark boxes, e.g. 1.2."),
    crop_rounding: str | None = typer.Option(None, "--crop-rounding", help="none (default), or pixel as upstream did."),
    coordinates: str | None = typer.Option(
        None, "--coordinates", help="What output 0 means: centre (edge of the crop) or corner (upstream's files)."
    ),
    layout: str | None = typer.Option(None, "--layout", help="Point order: wflw98, ibug68 or plainN."),
    normaliser: str | None = typer.Option(None, "--normaliser", help="What errors are divided by: inter-ocular, ..."),
    key: str | None = typer.Option(None, "--key", help="Where in a PyTorch file the weights are, e.g. pfld_backbone."),
    proof_data: str | None = typer.Option(
        None, "--proof-data", help="Faces for the proof: a data set or synth:N (default: 16 synthetic faces)."
    ),
    count: int | None = typer.Option(None, "--count", help="How many faces of --proof-data to use."),
    force: bool = typer.Option(False, "--force", help="Replace an existing checkpoint."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Bring an existing model in: identify its weights, give them a spec, prove the copy, write a checkpoint.

    Architecture, width, points, branches and input size are read from the weights; flags only cross-check them.
    What the input means cannot be read from weights: published files are recognised, any other file needs --spec
    or --channels, --mean, --std, --crop-scale and --coordinates. The import ends with a proof: an ONNX file's
    outputs must be equal to 1e-5 on faces, or nothing is written.

    [bold]Examples[/bold]

      toolkit import PFLD_GhostOne_112_1_opt_sim.onnx

      toolkit import checkpoint.pth.tar --spec upstream-ghostone -o ghostone.ckpt

      toolkit import mine.pth --channels rgb --mean 0 --std 1 --crop-scale 1.1 --coordinates centre -o mine.ckpt
    """
    flags = {
        "preset": spec,
        "architecture": architecture,
        "width": width,
        "points": points,
        "input_size": input_size,
        "channels": _choice("channels", channels),
        "mean": _three("--mean", mean),
        "std": _three("--std", std),
        "crop_scale": crop_scale,
        "crop_rounding": _choice("crop_rounding", crop_rounding),
        "coordinates": _choice("coordinates", coordinates),
        "layout": layout,
        "normaliser": normaliser,
    }
    from runtime.files import require_file

    require_file(file)
    from export.importer import SpecFlags, import_file

    result = import_file(
        file,
        out or _default_name(file),
        SpecFlags(**cast(Any, flags)),
        key=key,
        faces=proof_data,
        count=count,
        force=force,
    )
    for note in result.notes:
        console.say(note)
    if as_json:
        print(json.dumps(_facts(result), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        _show(result)


def _default_name(file: Path) -> str:
    """The file's own name in the current folder: a/checkpoint.pth.tar -> checkpoint.ckpt."""
    name = file.name
    while (suffix := Path(name).suffix.lower()) in (".onnx", ".pth", ".pt", ".tar", ".bin", ".pkl"):
        name = name[: -len(suffix)]
    return f"{name}.ckpt"


def _choice(name: str, value: str | None) -> str | None:
    if value is not None and value not in _CHOICES[name]:
        flag = "--" + name.replace("_", "-")
        raise UsageError(f"{flag} {value!r}: expected {' or '.join(_CHOICES[name])}")
    return value


def _three(flag: str, text: str | None) -> tuple[float, float, float] | None:
    """One number for all channels, or three in the model's channel order."""
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3):
        raise UsageError(f"{flag} {text!r}: expected one number, or three with commas between them")
    first, second, third = values * 3 if len(values) == 1 else values
    return first, second, third


def _facts(result: Imported) -> dict[str, Any]:
    facts = asdict(result)
    facts |= {"path": str(result.path), "spec": result.spec.to_dict(), "notes": list(result.notes)}
    return facts


def _show(result: Imported) -> None:
    spec, proof = result.spec, result.proof
    mean, std = (", ".join(f"{v:g}" for v in values) for values in (spec.mean, spec.std))
    rounding = ", whole pixels" if spec.crop.rounding == "pixel" else ""
    rows = [
        ("source", f"{result.source} (sha256 {result.source_sha256[:16]}...)"),
        ("model", f"{spec.architecture}, width {spec.width:g}, {result.kind}, {result.weights} weights"),
        ("points", f"{spec.points} ({spec.layout}), coordinates {spec.coordinates}, errors over {spec.normaliser}"),
        ("input", f"{spec.input_size} px, {spec.channels.upper()}, (x/255 - [{mean}]) / [{std}]"),
        ("crop", f"{spec.crop.scale:g} x {spec.crop.box} box{rounding}"),
        ("proof", f"{proof.what}, {proof.faces}"),
    ]
    if proof.difference is not None:
        rows.append(("difference", f"{proof.difference:.2g} of the crop (limit {proof.limit:g})"))
    rows.append(("checkpoint", f"{result.path} (sha256 {result.sha256[:16]}...)"))
    console.show(console.table("Imported", ("what", "value"), rows, numeric_from=2))
    if result.kind == "multi-branch":
        console.say(f"next: toolkit verify {result.path}   proves that fusing its branches changes nothing")
