"""`toolkit build-engine`: TensorRT engines for a bundle, on the device that will run them."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli import console

if TYPE_CHECKING:
    from collections.abc import Callable

    from export.tensorrt_build import Request
    from export.tensorrt_engine import Engine
    from runtime.engine import Precision


_MAX_BATCH = 8


class Calibrator(str, Enum):
    """TensorRT's own calibrators."""

    entropy = "entropy"
    minmax = "minmax"


class Hardware(str, Enum):
    """On which other GPUs an engine may run."""

    none = "none"
    ampere_plus = "ampere-plus"
    same_sm = "same-sm"


def run(
    bundle: Annotated[Path, typer.Argument(help="A bundle directory, made here or on another machine.")],
    fp32: Annotated[bool, typer.Option("--fp32", help="The float32 engine (without TF32).")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="The float16 engine.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="The int8 engine. None of the three: all that the bundle has.")
    ] = False,
    min_batch: Annotated[int, typer.Option("--min-batch", help="Smallest batch of faces.")] = 1,
    batch: Annotated[int, typer.Option("--batch", help="The batch to be fastest at.")] = 1,
    max_batch: Annotated[
        int | None, typer.Option("--max-batch", help="Largest batch of faces; 8, or --batch if that is more.")
    ] = None,
    workspace: Annotated[int, typer.Option("--workspace", help="Most memory for the search, in MiB.")] = 1024,
    level: Annotated[int, typer.Option("--level", help="How long to search for fast kernels, 0 to 5.")] = 3,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="An engine that newer versions load as well; slower.")
    ] = False,
    hardware: Annotated[
        Hardware, typer.Option("--hardware-compatible", help="Other GPUs that may load it; slower. Not on Jetson.")
    ] = Hardware.none,
    calibrator: Annotated[
        Calibrator | None,
        typer.Option(
            "--legacy-calibrator",
            help="An int8 engine with scales of TensorRT's own calibrator (TensorRT 10 and older).",
        ),
    ] = None,
    calib: Annotated[
        str | None, typer.Option("--calib", help="Faces for --legacy-calibrator: a WFLW root, a list file, or synth:N.")
    ] = None,
    calib_count: Annotated[int, typer.Option("--calib-count", help="How many of them.", min=1)] = 512,
    seed: Annotated[int, typer.Option("--seed", help="Seed of their choice.", min=0, max=2**31)] = 0,
    timing_cache: Annotated[
        bool, typer.Option("--timing-cache/--no-timing-cache", help="Keep measured kernel times for the next build.")
    ] = True,
    rtx: Annotated[
        bool, typer.Option("--rtx", help="Use TensorRT-RTX (pip install tensorrt-rtx), for RTX cards.")
    ] = False,
    dla: Annotated[bool, typer.Option("--dla", hidden=True)] = False,
    triton: Annotated[
        Path | None,
        typer.Option("--triton", help="Also a Triton model repository with these engines; a new directory."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace engines that are there already.")] = False,
) -> None:
    """Build engines for this GPU and this TensorRT, look into them, measure them, and add them to the bundle.

    An engine is kept only when its layers compute in the precision that its name says and its landmarks are those of
    ONNX Runtime. Beside each plan lies a sidecar that says what it is; nothing loads a plan without it.
    On any failure, and after Ctrl-C, the bundle is what it was.

    [bold]Examples[/bold]

      toolkit build-engine bundle

      toolkit build-engine bundle --fp16 --batch 4 --max-batch 16

      toolkit build-engine bundle --legacy-calibrator entropy --calib data/faces.txt
    """
    from export.tensorrt_build import Request
    from export.tensorrt_rules import BuildOptions
    from runtime.engine import Profile

    asked: dict[Precision, bool] = {"fp32": fp32, "fp16": fp16, "int8": int8}
    wanted = tuple(name for name, on in asked.items() if on)
    options = BuildOptions(
        Profile(min_batch, batch, max_batch if max_batch is not None else max(batch, _MAX_BATCH)),
        workspace,
        level,
        version_compatible,
        hardware.value,
        calibrator.value if calibrator else None,
        dla,
        timing_cache,
    )
    request = Request(wanted, options, "tensorrt_rtx" if rtx else "tensorrt", calib, calib_count, seed)
    if triton is not None:
        from export.triton import refuse_repository

        refuse_repository(triton)
    engines = _build(bundle, request, force)
    show_engines(str(bundle), engines)
    if triton is not None:
        from export.triton import write_repository
        from runtime.bundle import Bundle

        written = write_repository(Bundle.open(bundle), triton, engines=[engine.name for engine in engines])
        console.show(f"Triton model repository: {triton} ({', '.join(written)})")


def _build(bundle: Path, request: Request, force: bool) -> list[Engine]:
    from export.tensorrt_build import build_engines

    with console.progress("engine", 1.0) as advance:
        return build_engines(bundle, request, force=force, say=console.say, progress=shown(advance))


def shown(advance: console.Advance) -> Callable[[str, float], None]:
    """TensorRT's phases as the note of a progress bar; they overlap, so the bar itself does not move."""
    return lambda phase, share: advance(0, note=f"{phase} {100 * share:.0f} %")


def show_engines(title: str, engines: list[Engine]) -> None:
    """One row per engine."""
    rows = []
    for engine in engines:
        card = engine.card
        layers = ", ".join(f"{count} {name}" for name, count in card.layers.items())
        check = card.checks[0]
        batches = f"{card.profile.min}/{card.profile.opt}/{card.profile.max}"
        where = f"{card.gpu_name}, {card.built.version}"
        rows.append(
            (engine.file, f"{card.plan_bytes:,}", where, batches, layers, f"{check.value:.4g}", f"{check.limit:g}")
        )
        for warning in engine.warnings[-3:]:
            console.warn(f"{engine.file}: TensorRT says: {warning}")
    columns = ["engine", "bytes", "for", "batch", "layers", "shift %", "limit"]
    console.show(console.table(title, columns, rows, numeric_from=5))
