"""`toolkit export`: the road from a checkpoint to a proven bundle."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli import console

if TYPE_CHECKING:
    from runtime.bundle import Manifest


class Exporter(str, Enum):
    """PyTorch's two ways to an ONNX graph."""

    dynamo = "dynamo"
    torchscript = "torchscript"


def run(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, multi-branch or fused; see toolkit import.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle's directory; must not exist yet.")],
    fp16: Annotated[bool, typer.Option("--fp16", help="Also a float16 model, input and output float32.")] = False,
    calib: Annotated[
        str | None,
        typer.Option("--calib", help="Faces to measure ranges on: a WFLW root, a list file, or synth:N."),
    ] = None,
    probes: Annotated[
        str | None,
        typer.Option(
            "--probes", help="Faces that travel in the bundle and carry its proofs; synthetic ones unless named here."
        ),
    ] = None,
    opset: Annotated[int, typer.Option("--opset", help="ONNX operator set, 17 to 21; 17 suits TensorRT 8.6.")] = 18,
    exporter: Annotated[
        Exporter, typer.Option("--exporter", help="torchscript is the older one, for old set-ups; both give one graph.")
    ] = Exporter.dynamo,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest instead of the table.")] = False,
) -> None:
    """Fuse, export, simplify and convert a checkpoint; measure every link; write all of it or nothing.

    A link that breaks its limit stops the export with exit code 1, and the output directory is not made.

    [bold]Examples[/bold]

      toolkit export runs/first/best.ckpt -o bundle

      toolkit export ghostone.ckpt --fp16 --calib data/WFLW -o bundle

      toolkit export ghostone.ckpt --opset 17 --exporter torchscript -o for_jetpack6
    """
    from export.probes import DEFAULT_SOURCE
    from export.road import Options, export_bundle

    options = Options(
        opset=opset, exporter=exporter.value, fp16=fp16, probes=probes or DEFAULT_SOURCE, audit=calib, force=force
    )
    steps = 3 + fp16
    with console.progress("export", steps) as advance:
        manifest = export_bundle(checkpoint, output, options, lambda note: advance(note=note))
    if as_json:
        print(json.dumps(json.loads(manifest.to_bytes()), indent=2))
    else:
        show_links(manifest, f"{output}: every link within its limit")


def show_links(manifest: Manifest, title: str) -> None:
    """One row per measured number."""
    rows = []
    for artefact in manifest.artefacts:
        head = (artefact.file, f"{artefact.bytes:,}", artefact.sha256[:16])
        for index, check in enumerate(artefact.checks or (None,)):
            measured = ("-",) * 4
            if check is not None:
                measured = (check.name, f"{check.value:.4g}", f"{check.limit:.4g}", check.metric)
            rows.append((*(head if index == 0 else ("", "", "")), *measured))
    console.show(
        console.table(title, ["file", "bytes", "sha256", "check", "value", "limit", "metric"], rows, numeric_from=9)
    )
    for artefact in manifest.artefacts:
        for layer, reason in dict(artefact.settings.get("kept in float32", {})).items():
            console.say(f"{artefact.file}: {layer} stays float32: {reason}")
