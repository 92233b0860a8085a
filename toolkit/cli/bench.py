"""`toolkit bench`: what every artefact costs here, next to other engines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.errors import UsageError
from toolkit.cli import console

if TYPE_CHECKING:
    from toolkit.bench.result import BenchResult

QUICK_ROUNDS, QUICK_PACE = 5, 10


def run(
    bundle: Annotated[Path, typer.Argument(help="A bundle directory; see toolkit export.")],
    against: Annotated[
        str | None,
        typer.Option(
            "--against", help="Other engines on the same model: openvino, litert, ncnn, mnn, opencv, torch, or all."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=100_000, help="How often everybody has a turn.")] = 30,
    burst: Annotated[int, typer.Option("--burst", min=1, max=1000, help="Runs in a turn.")] = 12,
    threads: Annotated[int, typer.Option("--threads", min=1, max=256, help="Threads, and cores, of each engine.")] = 1,
    cores: Annotated[str | None, typer.Option("--cores", help="Which cores: 1 or 2,3. (default: the quickest)")] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Faces to run on: a data set or synth:N. (default: the bundle's probes)"),
    ] = None,
    env: Annotated[
        list[Path] | None,
        typer.Option("--env", help="A virtual environment with other engines. (default: those of make bench-env)"),
    ] = None,
    throughput: Annotated[
        bool, typer.Option("--throughput/--no-throughput", help="Also faces per second at batch 1 to 64.")
    ] = True,
    loose: Annotated[
        bool, typer.Option("--loose", help="Also time contenders that compute something else, marked with a !.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A few rounds only, to see that it works.")] = False,
    compare: Annotated[
        Path | None, typer.Option("--compare", help="An older bench.json of this machine to hold the new one against.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for bench.json, bench.md and bench.png.")] = Path(
        "bench-out"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON instead of the tables.")] = False,
) -> None:
    """Time every artefact of a bundle, and other engines on the same model and faces, in turns on a pinned core.

    Each contender runs in a process of its own, is held against float32 ONNX Runtime before it is timed, and warms
    up until its times settle. Engines that are missing are listed with the line that installs them.

    [bold]Examples[/bold]

      toolkit bench bundle

      toolkit bench bundle --against openvino,litert

      toolkit bench bundle --against all --rounds 60 -o bench-all

      toolkit bench bundle --threads 2 --no-throughput --compare bench-out/bench.json -o bench-new
    """
    from runtime.bundle import Bundle
    from runtime.files import write_json, write_text
    from toolkit.bench.contenders import parse_against
    from toolkit.bench.environment import describe
    from toolkit.bench.gpu import COLUMNS as GPU_COLUMNS
    from toolkit.bench.gpu import measure_bundle
    from toolkit.bench.result import BenchResult, refuse_other_machine
    from toolkit.bench.result import compare as hold
    from toolkit.bench.run import Request, bench_bundle, choose_cores
    from toolkit.bench.show import draw, markdown
    from toolkit.machine import Machine

    parse_against(against)
    old = None if compare is None else BenchResult.read(compare)
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; give a folder")
    request = Request(
        against=against,
        rounds=min(rounds, QUICK_ROUNDS) if quick else rounds,
        burst=burst,
        threads=threads,
        cores=_cores(cores),
        data=data,
        folders=tuple(env or ()),
        throughput=throughput and not quick,
        pace_runs=QUICK_PACE if quick else 60,
        cache=out / "models",
        loose=loose,
    )
    if old is not None:
        here = describe(Machine(), choose_cores(request), threads)
        refuse_other_machine(here, old.environment, os.fspath(compare or ""))
    with console.progress("rounds", request.rounds) as advance:
        result = bench_bundle(bundle, request, console.say, lambda: advance())
    on_gpu = measure_bundle(Bundle.open(bundle), console.say)
    result.write(out / "bench.json")
    write_text(out / "bench.md", markdown(result))
    if on_gpu:
        write_json(out / "gpu.json", [engine.to_dict() for engine in on_gpu])
    draw(result, out / "bench.png")
    changes = [] if old is None else hold(result, old, os.fspath(compare or ""))
    if as_json:
        from dataclasses import asdict

        facts = result.to_dict() | {"changes": [asdict(c) | {"verdict": c.verdict} for c in changes]}
        print(json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False))
        return
    _show(result)
    for engine in on_gpu:
        console.show(console.table(engine.title(), GPU_COLUMNS, engine.rows()))
        for warning in engine.times.warnings:
            console.say(warning)
    if changes:
        from toolkit.bench.show import CHANGE_COLUMNS, change_rows

        console.show(console.table(f"against {compare}", CHANGE_COLUMNS, change_rows(changes)))
    print(f"\nraw samples, table and picture: {out / 'bench.json'}, {out / 'bench.md'}, {out / 'bench.png'}")


def _cores(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(","))) if text else ()
    except ValueError:
        raise UsageError(f"--cores {text}: expected numbers such as 1 or 2,3") from None


def _show(result: BenchResult) -> None:
    from toolkit.bench.show import COLUMNS, LEGEND, rows, throughput_rows, title

    console.show(console.table(title(result), COLUMNS, rows(result)))
    print(LEGEND)
    columns, table = throughput_rows(result)
    if table:
        console.show(console.table("", columns, table))
    if result.absent:
        print("\nnot timed:")
        for one in result.absent:
            print(f"  {one.title}: {one.reason}" + (f"; {one.fix}" if one.fix else ""))
    if result.warnings:
        print("\nwhy a number may be wrong:")
        for warning in result.warnings:
            print(f"  {warning}")
