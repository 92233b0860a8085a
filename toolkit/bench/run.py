"""One bench: load every contender, hold its output against the reference, warm up, time in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.compare import LIMITS_PX
from export.formats.homes import environments
from runtime.backends.ort import OrtModel
from runtime.bundle import Bundle, read_arrays
from runtime.errors import InputError, UsageError
from runtime.geometry import network_input
from runtime.spec import ModelSpec
from toolkit.bench.contenders import (
    Absent,
    Contender,
    own_contenders,
    parse_against,
    peer_contenders,
)
from toolkit.bench.environment import Watcher, allowed_cores, core_seconds, describe, quickest
from toolkit.bench.process import Worker, WorkerError
from toolkit.bench.result import DIFFERS, LEAD, BenchResult, Figures, Refused
from toolkit.machine import Machine

Say = Callable[[str], object]
CAMERA_INTERVAL = 1 / 30
BATCHES = (1, 2, 4, 8, 16, 32, 64)
SETTLED, SETTLED_BURSTS, MOST_WARMUP_SECONDS = 0.03, 3, 3.0
CHECKED_FACES = 8
MOST_TRIED = 64
"""Of more cores only the last ones are tried."""
LOAD_SECONDS = 180.0
_LIMITS = {"fp32": LIMITS_PX["float32"], "fp16": LIMITS_PX["float16"], "int8": LIMITS_PX["int8"]}


@dataclass(frozen=True)
class Request:
    """What `toolkit bench` was asked for."""

    against: str | None = None
    rounds: int = 30
    burst: int = 12
    threads: int = 1
    cores: tuple[int, ...] = ()
    """Chosen by the bench when empty."""
    data: str | None = None
    """Other faces than the bundle's probes."""
    folders: tuple[Path, ...] = ()
    throughput: bool = True
    pace_runs: int = 60
    cache: Path = Path("bench-out/models")
    loose: bool = False
    """Time even those whose output differs, and say so."""


@dataclass
class _Runner:
    """A contender that is loaded and was found equal."""

    contender: Contender
    worker: Worker
    loaded: dict[str, Any]
    first: float
    max_px: float
    mean_px: float
    differs: bool = False
    warmup: int = 0
    settled: bool = True
    interrupted: int = 0

    def burst(self, count: int) -> list[float]:
        """The times of so many runs, the first few uncounted."""
        answer = self.worker.ask("run", count=count + LEAD)
        self.interrupted += answer["interrupted"]
        seconds: list[float] = answer["seconds"]
        return seconds[LEAD:]


def bench_bundle(path: Path, request: Request, say: Say, tick: Callable[[], object] = lambda: None) -> BenchResult:
    """Time everything that can run the model of a bundle."""
    wanted = parse_against(request.against)
    cores = choose_cores(request)
    bundle = Bundle.open(path)
    for _ in bundle.read_all():  # what is timed is what the manifest lists
        pass
    if not bundle.manifest.has("fp32"):
        raise InputError(f"{path}: the bundle holds no float32 ONNX model to hold the others against")
    homes = environments(request.folders) if wanted else []
    crops, faces = _faces(bundle, request.data)
    if cores:
        say(f"timing on core {', '.join(map(str, cores))}")
    machine = Machine()
    watcher = Watcher(machine, cores)
    facts = describe(machine, cores, request.threads)
    with tempfile.TemporaryDirectory(prefix="toolkit-bench-") as name, ExitStack() as stack:
        place = Path(name)
        np.save(place / "crops.npy", crops)
        np.save(place / "values.npy", network_input(crops, bundle.spec))
        candidates = own_contenders(bundle, place, say)
        candidates += peer_contenders(bundle, wanted, homes, place / "values.npy", request.cache, say)
        absent = [Refused(c.title, c.reason, c.fix) for c in candidates if isinstance(c, Absent)]
        present = [c for c in candidates if isinstance(c, Contender)]
        runners = _start(present, bundle, crops, place, request, cores, absent, stack, say)
        if not runners:
            raise InputError(f"{path}: nothing could be timed: {'; '.join(f'{a.title}: {a.reason}' for a in absent)}")
        for runner in runners:
            say(f"warming up {runner.contender.title}")
            _warm_up(runner, request.burst)
            runner.interrupted = 0
        bursts = _rounds(runners, request, watcher, say, tick)
        figures = [_finish(r, bursts[r.contender.title], request, say) for r in runners]
    warnings = watcher.warnings(
        facts,
        request.rounds * request.burst,
        max(r.interrupted for r in runners),
        [r.contender.title for r in runners if not r.settled],
    )
    warnings += [
        f"{r.contender.title} computes something else (landmarks up to {r.max_px:.3g} px away): its time is that of "
        "another model"
        for r in runners
        if r.differs
    ]
    model = {
        "bundle": path.resolve().name,
        "architecture": bundle.spec.architecture,
        "width": bundle.spec.width,
        "points": bundle.spec.points,
        "input_size": bundle.spec.input_size,
        "sha256": bundle.manifest.artefact("fp32").sha256,
        "faces": faces,
    }
    settings = {
        "rounds": request.rounds,
        "burst": request.burst,
        "uncounted runs at the start of a burst": LEAD,
        "camera interval, s": CAMERA_INTERVAL,
        "reference": "float32 ONNX in ONNX Runtime",
        "limits, px": _LIMITS,
    }
    return BenchResult(model, facts, settings, tuple(figures), tuple(absent), tuple(warnings))


def choose_cores(request: Request) -> tuple[int, ...]:
    """As many cores as threads: those asked for, else the quickest (of equals the last: the first serve interrupts).

    Cores differ: some are built small, and behind some of a virtual machine's somebody else is at work.
    """
    allowed = allowed_cores()
    if request.cores:
        if allowed and not set(request.cores) <= set(allowed):
            raise UsageError(f"--cores {','.join(map(str, request.cores))}: this process may use {allowed}")
        if len(set(request.cores)) != request.threads:
            raise UsageError(f"--cores names {len(set(request.cores))} cores for {request.threads} threads")
        return request.cores
    if allowed and request.threads > len(allowed):
        raise UsageError(f"--threads {request.threads}: this process may use {len(allowed)} cores")
    if request.threads == len(allowed) or not allowed:
        return tuple(allowed)
    return quickest(core_seconds(allowed[-MOST_TRIED:]), request.threads)


def _faces(bundle: Bundle, data: str | None) -> tuple[NDArray[np.uint8], str]:
    """The crops that every contender sees, and where they come from."""
    if data is not None:
        from export.road import crop_uint8

        crops = crop_uint8(data, bundle.spec)[: max(BATCHES)]
        return crops, f"{len(crops)} crops of {Path(data).name if not data.startswith('synth:') else data}"
    crops = read_arrays(bundle.read("probe"), "probe.npz")["crops"]
    named = bundle.manifest.artefact("probe").settings.get("faces", "")
    return crops, f"the bundle's {len(crops)} probes ({named})"


def reference_points(bundle: Bundle, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What the float32 model says, in pixels of the input."""
    output = OrtModel(bundle.read("fp32"))(network_input(crops, bundle.spec))
    return np.asarray(output, dtype=np.float64) * bundle.spec.input_size


def difference(found: NDArray[Any], wanted: NDArray[np.float64], spec: ModelSpec) -> tuple[float, float]:
    """Largest and mean distance between landmarks, in pixels of the input."""
    if found.shape != wanted.shape:
        return float("inf"), float("inf")
    gap = (found.astype(np.float64) * spec.input_size - wanted).reshape(len(found), -1, 2)
    distance = np.hypot(gap[..., 0], gap[..., 1])
    if not np.isfinite(distance).all():
        return float("inf"), float("inf")
    return float(distance.max()), float(distance.mean())


def _start(
    present: Sequence[Contender],
    bundle: Bundle,
    crops: NDArray[np.uint8],
    place: Path,
    request: Request,
    cores: tuple[int, ...],
    absent: list[Refused],
    stack: ExitStack,
    say: Say,
) -> list[_Runner]:
    """Load everybody; who fails or computes something else is not timed but listed."""
    checked = crops[:CHECKED_FACES]
    wanted = reference_points(bundle, checked)
    runners = []
    for contender in present:
        say(f"loading {contender.title}")
        worker = Worker(contender.python, cores, request.threads)
        stack.callback(worker.close)
        try:
            loaded = worker.ask(
                "load",
                LOAD_SECONDS,
                engine=contender.engine,
                model=str(contender.model.absolute()),
                threads=request.threads,
                options=contender.options,
                crops=str(place / "crops.npy"),
                values=str(place / "values.npy"),
            )
            first = worker.ask("run", count=1)["seconds"][0]
            file = place / "outputs.npy"
            worker.ask("outputs", count=len(checked), file=str(file))
            most, mean = difference(np.load(file, allow_pickle=False), wanted, bundle.spec)
        except WorkerError as error:
            absent.append(Refused(contender.title, str(error)))
            worker.close()
            continue
        limit = _LIMITS[contender.precision]
        differs = not most <= limit
        if differs and not (request.loose and np.isfinite(most)):
            reason = f"computes something else: landmarks up to {most:.3g} px away, the limit is {limit:g} px"
            absent.append(Refused(contender.title, reason))
            worker.close()
            continue
        runners.append(_Runner(contender, worker, loaded, first, most, mean, differs))
    return runners


def _warm_up(runner: _Runner, burst: int) -> None:
    """Run until the medians of the last bursts agree, or time is up."""
    medians: list[float] = []
    spent = 0.0
    while spent < MOST_WARMUP_SECONDS:
        seconds = runner.burst(burst)
        spent += sum(seconds)
        runner.warmup += burst
        medians.append(float(np.median(seconds)))
        last = medians[-SETTLED_BURSTS:]
        if len(last) == SETTLED_BURSTS and max(last) <= (1 + SETTLED) * min(last):
            return
    runner.settled = False


def _rounds(
    runners: Sequence[_Runner], request: Request, watcher: Watcher, say: Say, tick: Callable[[], object]
) -> dict[str, list[list[float]]]:
    """Everybody in turn, another one first in each round."""
    bursts: dict[str, list[list[float]]] = {r.contender.title: [] for r in runners}
    say(f"timing {len(runners)} contenders, {request.rounds} rounds of {request.burst} runs")
    for index in range(request.rounds):
        watcher.look()
        first = index % len(runners)
        for runner in [*runners[first:], *runners[:first]]:
            bursts[runner.contender.title].append(runner.burst(request.burst))
        tick()
    return bursts


def _finish(runner: _Runner, bursts: list[list[float]], request: Request, say: Say) -> Figures:
    """Camera pace, throughput and memory, one contender after the other."""
    contender, worker = runner.contender, runner.worker
    say(f"camera pace, throughput and memory of {contender.title}")
    pace: list[float] = []
    if request.pace_runs:
        pace = worker.ask("run", 120.0, count=request.pace_runs, interval=CAMERA_INTERVAL)["seconds"]
    used = worker.ask("memory")
    throughput: dict[str, float] = {}
    if request.throughput:
        typical = float(np.median([s for b in bursts for s in b]))
        for batch in BATCHES if runner.loaded["batches"] else (1,):
            worker.ask("bind", 120.0, batch=batch)
            count = max(3, int(0.25 / (typical * batch)))
            seconds = worker.ask("run", 300.0, count=count + 1)["seconds"][1:]
            throughput[str(batch)] = batch / float(np.median(seconds))
    worker.close()
    versions = [v for v in runner.loaded["versions"].values() if v]
    return Figures(
        title=contender.title,
        engine=contender.engine,
        precision=contender.precision,
        version=versions[0] if versions else "",
        note="; ".join(filter(None, [contender.note, DIFFERS if runner.differs else ""])),
        load_s=runner.loaded["load_s"],
        import_s=runner.loaded["import_s"],
        first_s=runner.first,
        rss=used["rss"],
        model_bytes=sum(f.stat().st_size for f in contender.files),
        library_bytes=used["libraries"],
        max_px=runner.max_px,
        mean_px=runner.mean_px,
        warmup_runs=runner.warmup,
        bursts=bursts,
        pace=pace,
        throughput=throughput,
    )
