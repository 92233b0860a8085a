"""`toolkit export`: the road from a checkpoint to a proven bundle."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.errors import UsageError
from toolkit.cli import console

if TYPE_CHECKING:
    from export.links_c import CRequest
    from runtime.bundle import Manifest


class Exporter(str, Enum):
    """PyTorch's two ways to an ONNX graph."""

    dynamo = "dynamo"
    torchscript = "torchscript"


class Int8(str, Enum):
    """How long calibration may take, or the steps that the checkpoint was trained with."""

    fast = "fast"
    best = "best"
    qat = "qat"


_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class CPrecision(str, Enum):
    """Which network becomes C."""

    fp32 = "fp32"
    int8 = "int8"


def run(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, multi-branch or fused; see toolkit import.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle's directory; must not exist yet.")],
    fp16: Annotated[bool, typer.Option("--fp16", help="Also a float16 model, input and output float32.")] = False,
    int8: Annotated[
        Int8 | None,
        typer.Option(
            "--int8",
            help="Also an int8 model: fast calibrates about 2 minutes, best about 20; qat takes the steps that "
            "toolkit train --qat left in the checkpoint.",
        ),
    ] = None,
    calib: Annotated[
        str | None,
        typer.Option(
            "--calib",
            help="Faces to calibrate on, no labels needed: a WFLW root, a list, photos with boxes.csv, or synth:N.",
        ),
    ] = None,
    calib_count: Annotated[
        int | None, typer.Option("--calib-count", help="How many of them, chosen by coverage. (default: 512)")
    ] = None,
    calib_cache: Annotated[
        Path | None,
        typer.Option(
            "--calib-cache",
            help="File that keeps what calibration found; an equal run reads it, a stale one is an error.",
        ),
    ] = None,
    eval_data: Annotated[
        str | None,
        typer.Option("--eval-data", help="Labelled faces; the int8 model must not lose more than --max-drop."),
    ] = None,
    max_drop: Annotated[
        str | None, typer.Option("--max-drop", help="Largest relative NME increase on --eval-data. (default: 1%)")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the calibration.", min=0, max=2**31)] = 0,
    c: Annotated[
        bool, typer.Option("--c", help="Also C sources without dependencies, float32 and, with --int8, int8.")
    ] = False,
    c_precision: Annotated[
        CPrecision | None, typer.Option("--c-precision", help="Only this one of them. (default: what there is)")
    ] = None,
    c_prefix: Annotated[
        str | None, typer.Option("--c-prefix", help="What the names in the C start with. (default: lm)")
    ] = None,
    c_isa: Annotated[
        str | None,
        typer.Option(
            "--c-isa",
            help="Instruction sets to hold kernels for, comma-separated, or micro: the least memory. (default: all)",
        ),
    ] = None,
    max_ram: Annotated[
        str | None, typer.Option("--max-ram", help="Refuse C that needs more working memory: 300000, 256K, 2M.")
    ] = None,
    dispatch: Annotated[
        bool,
        typer.Option(
            "--dispatch", help="C for x86-64 that chooses its instruction set when it starts; compile it plainly."
        ),
    ] = False,
    single_header: Annotated[
        bool,
        typer.Option(
            "--single-header", help="C in one file: landmarks.h, compiled where LM_IMPLEMENTATION is defined."
        ),
    ] = False,
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
    tensorrt: Annotated[
        bool, typer.Option("--tensorrt", help="Also TensorRT engines of all these models, for the GPU of this machine.")
    ] = False,
    mnn: Annotated[bool, typer.Option("--mnn", help="Also files for MNN.")] = False,
    ncnn: Annotated[bool, typer.Option("--ncnn", help="Also files for ncnn.")] = False,
    tflite: Annotated[bool, typer.Option("--tflite", help="Also files for LiteRT (TensorFlow Lite).")] = False,
    openvino: Annotated[bool, typer.Option("--openvino", help="Also files for OpenVINO.")] = False,
    triton: Annotated[
        Path | None,
        typer.Option("--triton", help="Also a model repository for Triton Inference Server; a new directory."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest instead of the table.")] = False,
) -> None:
    """Fuse, export, simplify and convert a checkpoint; measure every link; write all of it or nothing.

    A link that breaks its limit stops the export with exit code 1, and the output directory is not made.

    [bold]Examples[/bold]

      toolkit export runs/first/best.ckpt -o bundle

      toolkit export ghostone.ckpt --fp16 --calib data/WFLW -o bundle

      toolkit export ghostone.ckpt --int8 best --calib data/faces.txt --eval-data data/WFLW --max-drop 1% -o bundle

      toolkit export runs/wflw-int8/best.ckpt --int8 qat --eval-data data/WFLW -o bundle

      toolkit export ghostone.ckpt --c -o bundle && cc -O3 -march=native bundle/c/*.c -o demo

      toolkit export ghostone.ckpt --fp16 --calib data/WFLW --ncnn --openvino -o bundle

      toolkit export ghostone.ckpt --opset 17 --exporter torchscript -o for_jetpack6
    """
    drop = _fraction(max_drop)
    formats = {"mnn": mnn, "ncnn": ncnn, "tflite": tflite, "openvino": openvino}
    if triton is not None:
        from export.triton import refuse_repository

        refuse_repository(triton)
    _refuse_contradictions(fp16, int8, calib, calib_count, calib_cache, eval_data, max_drop)
    c_request = _c_request(c, int8, c_precision, c_prefix, c_isa, max_ram, dispatch, single_header)
    from export.probes import DEFAULT_SOURCE
    from export.road import Options, export_bundle
    from export.tensorrt_rules import BuildOptions
    from toolkit.report import write_report

    options = Options(
        opset=opset,
        exporter=exporter.value,
        fp16=fp16,
        probes=probes or DEFAULT_SOURCE,
        audit=calib,
        int8=int8.value if int8 else None,
        calib_count=calib_count or 512,
        labelled=eval_data,
        max_drop=drop,
        c=c_request,
        seed=seed,
        cache=calib_cache,
        engines=BuildOptions() if tensorrt else None,
        formats=tuple(name for name, wanted in formats.items() if wanted),
        force=force,
    )
    with console.progress("export", None) as advance:
        manifest = export_bundle(checkpoint, output, options, lambda note: advance(note=note))
    write_report(output)
    if triton is not None:
        _write_triton(output, triton)
    if as_json:
        print(json.dumps(json.loads(manifest.to_bytes()), indent=2))
    else:
        show_links(manifest, f"{output}: every link within its limit")


def _write_triton(bundle: Path, target: Path) -> None:
    from export.triton import write_repository
    from runtime.backends.tensorrt import KIND
    from runtime.bundle import Bundle

    opened = Bundle.open(bundle)
    engines = [a.name for a in opened.manifest.artefacts if a.kind == KIND]
    names = write_repository(opened, target, engines=engines)
    console.say(f"Triton model repository: {target} ({', '.join(names)})")


def _fraction(text: str | None) -> float:
    """`1%` or `0.01`."""
    if text is None:
        return 0.01
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"--max-drop {text}: expected a share such as 1% or 0.01")
    return value


def _refuse_contradictions(
    fp16: bool,
    int8: Int8 | None,
    calib: str | None,
    count: int | None,
    cache: Path | None,
    eval_data: str | None,
    max_drop: str | None,
) -> None:
    if int8 is Int8.qat:
        for flag, given in {"--calib-count": count, "--calib-cache": cache, "--calib": None if fp16 else calib}.items():
            if given is not None:
                raise UsageError(f"{flag} is about calibration, and --int8 qat takes the checkpoint's own steps")
    elif int8 is not None and calib is None:
        raise UsageError("--int8 needs faces to calibrate on: give --calib; noise or nothing would ruin the model")
    if int8 is None:
        about_int8 = {
            "--calib-count": count,
            "--calib-cache": cache,
            "--eval-data": eval_data,
            "--max-drop": max_drop,
        }
        for flag, value in about_int8.items():
            if value is not None:
                raise UsageError(f"{flag} is about int8; add --int8 fast, best or qat")
        if calib is not None and not fp16:
            raise UsageError("--calib is for --fp16 and --int8, and neither was asked for")
    if max_drop is not None and eval_data is None:
        raise UsageError("--max-drop needs labelled faces: give --eval-data")
    if count is not None and count < 1:
        raise UsageError(f"--calib-count {count}: expected a positive number of faces")


def _c_request(
    c: bool,
    int8: Int8 | None,
    precision: CPrecision | None,
    prefix: str | None,
    isas: str | None,
    max_ram: str | None,
    dispatch: bool,
    single_header: bool,
) -> CRequest | None:
    if not c:
        flags: dict[str, object] = {
            "--c-precision": precision,
            "--c-prefix": prefix,
            "--c-isa": isas,
            "--max-ram": max_ram,
            "--dispatch": dispatch or None,
            "--single-header": single_header or None,
        }
        for flag, value in flags.items():
            if value is not None:
                raise UsageError(f"{flag} is about C; add --c")
        return None
    if precision is CPrecision.int8 and int8 is None:
        raise UsageError("--c-precision int8 needs the int8 model: add --int8 fast, best or qat")
    from export.c.isas import NAMES
    from export.links_c import CRequest, refuse_c_request

    wanted = [p for p in ("fp32", "int8") if (precision is None and (p == "fp32" or int8)) or p == precision]
    request = CRequest(
        tuple(wanted),  # type: ignore[arg-type]
        prefix="lm" if prefix is None else prefix,
        isas=NAMES if isas is None else tuple(name.strip() for name in isas.split(",")),
        dispatch=dispatch,
        single_header=single_header,
        max_ram=None if max_ram is None else _bytes(max_ram),
    )
    refuse_c_request(request)
    return request


def _bytes(text: str) -> int:
    """`300000`, `256K` or `2M`."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in _UNITS else (text, "")
    if not (number.isascii() and number.isdigit() and 0 < int(number) < 1 << 40):
        raise UsageError(f"--max-ram {text}: expected bytes, such as 300000, 256K or 2M")
    return int(number) * _UNITS.get(unit, 1)


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
        if "not run" in artefact.settings:
            console.warn(f"{artefact.file}: not compiled and measured: {artefact.settings['not run']}")
        _show_candidates(artefact.settings.get("candidates", []), artefact.settings.get("nme", {}))
        for layer, reason in dict(artefact.settings.get("kept in float32", {})).items():
            console.say(f"{artefact.file}: {layer} stays float32: {reason}")


def _show_candidates(candidates: list[dict[str, Any]], nme: dict[str, dict[str, float]]) -> None:
    """What int8 tried, and what that means on labelled faces."""
    if candidates:
        rows = [
            (c["name"], f"{100 * c['shift']:.3f}", f"{100 * c['worst']:.3f}", "kept" if c["kept"] else "", c["note"])
            for c in candidates
        ]
        console.show(console.table("int8 candidates", ["what", "shift %", "95 % of faces", "", "note"], rows))
    if nme:
        rows_nme = [
            (name, f"{100 * v['float32']:.3f}", f"{100 * v['int8']:.3f}", f"{v['int8'] / v['float32']:.4f}")
            for name, v in nme.items()
        ]
        console.show(console.table("int8 NME", ["subset", "float32 %", "int8 %", "ratio"], rows_nme))
