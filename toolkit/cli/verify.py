"""`toolkit verify`: prove a fused model against its multi-branch original, or a whole bundle."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from runtime.errors import ExitCode, InputError, UsageError
from toolkit.cli import console


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    path: Path
    fused: Path | None
    data: str | None
    probes: int | None
    seed: int
    json: Path | None
    plot: Path | None
    all_blocks: bool


def run(
    path: Annotated[Path, typer.Argument(help="A multi-branch checkpoint, a bundle directory, or a TensorRT plan.")],
    fused: Annotated[
        Path | None, typer.Option("--fused", help="Prove this fused checkpoint; without it, the model is fused here.")
    ] = None,
    data: str | None = typer.Option(
        None, "--data", help="Probe faces: a data set, a list, a pack or synth:N (default: 16 synthetic faces)."
    ),
    probes: int | None = typer.Option(None, "--probes", help="How many faces, evenly spread over --data."),
    seed: int = typer.Option(0, "--seed", help="Seed of the random inputs.", min=0, max=2**31),
    json: Annotated[Path | None, typer.Option("--json", help="Write every number into this file.")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw each block's error and its limit into this PNG.")
    ] = None,
    all_blocks: bool = typer.Option(False, "--all", help="Show every block, not only those nearest to their limits."),
) -> None:
    """Prove that fusing changed nothing: every block and the whole net, in float64 and in the float32 that ships.

    Each block is run branch by branch and fused, on the very inputs that reach it from the probe faces and on random
    ones. Differences are held against limits that follow from the length of the sums and the size of what is added;
    weights against the block's own impulse response. A bundle is proven link by link from its files.

    Exit code 0: proven. 1: a limit was exceeded, with the block's name and the likely cause. 2: wrong input.

    [bold]Examples[/bold]

      toolkit verify runs/a/best.ckpt

      toolkit verify runs/a/best.ckpt --fused fused.ckpt --data ../wflw --probes 64

      toolkit verify runs/a/best.ckpt --json proof.json --plot proof.png --all

      toolkit verify out/face-v1/

      toolkit verify out/face-v1/trt/fp16-orin-sm8.7-10.3.0.plan
    """
    if plot is not None and plot.suffix.lower() != ".png":
        raise UsageError(f"--plot {plot}: expected a name that ends in .png")
    request = Request(path, fused, data, probes, seed, json, plot, all_blocks)
    for fits, prove in KINDS:
        if fits(path):
            if not prove(request):
                raise typer.Exit(ExitCode.CHECK_FAILED)
            return
    prove_checkpoint(request)  # says what is wrong with the path


def prove_checkpoint(request: Request) -> bool:
    """Multi-branch against fused."""
    from runtime.files import require_file

    for file in (request.path, *([request.fused] if request.fused else [])):
        require_file(file)
    from export.fuse import fusable, fuse
    from export.probes import open_probes
    from export.verify_fuse import prove
    from export.verify_report import COLUMNS, draw, rows, summary, to_data
    from runtime.files import write_json
    from train.checkpoint import load_model

    model, checkpoint = load_model(request.path)
    if checkpoint.kind == "fused":
        raise InputError(f"{request.path}: a fused checkpoint; give its multi-branch original, and this one as --fused")
    spec = checkpoint.spec
    if request.fused is None:
        fused = fuse(model, spec)
    else:
        fused, other = load_model(request.fused)
        _same_model(request, checkpoint.spec.to_dict(), other)
    faces = open_probes(request.data, request.probes)
    inputs, _ = faces.crop(spec)
    with console.progress("blocks", len(fusable(model))) as advance:
        proof = prove(model, fused, spec, inputs, name=faces.name, seed=request.seed, tick=advance)
    if request.json is not None:
        write_json(request.json, to_data(proof))
    if request.plot is not None:
        draw(proof, request.plot)
    title = f"{request.path}: {spec.architecture}, width {spec.width:g}; {proof.probes}, seed {proof.seed}"
    if proof.blocks:
        console.show(console.table(title, COLUMNS, rows(proof, request.all_blocks)))
        console.show(console.table("whole network", ("check", "value", "limit"), summary(proof)))
    if proof.passed:
        console.show(f"proven: {len(proof.blocks)} blocks and the whole network")
        return True
    first, *rest = proof.problems
    console.complain(f"{first.where}: {first.check}: {first.what}" + (f"; {len(rest)} more" if rest else ""))
    return False


def _same_model(request: Request, spec: object, other: object) -> None:
    """Two checkpoints that do not belong together are a mistake of the command, not a failed proof."""
    from train.checkpoint import Checkpoint

    if not isinstance(other, Checkpoint) or other.kind != "fused":
        raise InputError(f"{request.fused}: not a fused checkpoint")
    if other.spec.to_dict() != spec:
        raise InputError(f"{request.fused}: its spec is not that of {request.path}; they are different models")
    if request.fused is not None and other.parent is not None:
        from runtime.files import sha256_file

        if other.parent != sha256_file(request.path):
            console.warn(f"{request.fused} names another parent than {request.path}")


def prove_bundle(request: Request) -> bool:
    """Every link of a bundle, from its files."""
    unused = {"--fused": request.fused, "--data": request.data, "--probes": request.probes, "--plot": request.plot}
    for flag, value in unused.items():
        if value is not None:
            raise UsageError(f"{flag} is for checkpoints; a bundle carries its own probes")
    from export.chain import verify_bundle
    from runtime.files import write_json

    report = verify_bundle(request.path, console.say)
    found = [
        [
            r.link,
            r.name,
            ("ok" if r.ran else "not run") if r.passed else "FAILED",
            _number(r.value),
            _number(r.limit),
            r.detail,
        ]
        for r in report.results
    ]
    columns = ("link", "check", "", "value", "limit", "measured")
    console.show(console.table(str(request.path), columns, found, numeric_from=len(columns)))
    if request.json is not None:
        from dataclasses import asdict

        checks = [{**asdict(r), "value": _finite(r.value), "limit": _finite(r.limit)} for r in report.results]
        write_json(request.json, {"schema": 1, "passed": report.passed, "checks": checks})
    if report.passed:
        for result in report.not_run:
            console.warn(f"{result.link}: {result.name}: {result.detail}")
        console.show(
            "proven: every link of the bundle" + (", but for what could not be run here" * bool(report.not_run))
        )
        return True
    first = report.failures[0]
    console.complain(f"{first.link}: {first.name}: {first.detail}")
    return False


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _is_bundle(path: Path) -> bool:
    return (path / "manifest.json").is_file()


def prove_engine(request: Request) -> bool:
    """Is the plan the file that was built, and will it load here? It is not deserialised."""
    unused = {"--fused": request.fused, "--data": request.data, "--probes": request.probes, "--plot": request.plot}
    for flag, value in unused.items():
        if value is not None:
            raise UsageError(f"{flag} is for checkpoints; a plan is held against its sidecar and this machine")
    from dataclasses import asdict

    from runtime.engine import judge, look_around, read_card
    from runtime.files import write_json

    card = read_card(request.path)
    verdicts = judge(request.path, look_around())
    layers = ", ".join(f"{count} {name}" for name, count in card.layers.items())
    title = f"{request.path}: {card.precision}, {card.gpu_name} (SM {card.gpu_sm}), {card.built.version}; {layers}"
    found = [(v.question, "yes" if v.passed else "NO", v.answer) for v in verdicts]
    console.show(console.table(title, ("is it", "", ""), found, numeric_from=3))
    if request.json is not None:
        write_json(request.json, {"schema": 1, "verdicts": [asdict(v) for v in verdicts]})
    failed = [v for v in verdicts if not v.passed]
    if not failed:
        console.show("it is the file that was built, and it will load here")
        return True
    console.complain(failed[0].answer)
    return False


def _is_plan(path: Path) -> bool:
    from runtime.engine import PLAN_SUFFIXES

    return path.suffix.lower() in PLAN_SUFFIXES and path.is_file()


KINDS: tuple[tuple[Callable[[Path], bool], Callable[[Request], bool]], ...] = (
    (_is_bundle, prove_bundle),
    (_is_plan, prove_engine),
    (Path.is_file, prove_checkpoint),
)
"""What a path is, and who proves it; the first that fits."""
