"""How long an engine takes on the GPU, stage by stage, by CUDA's own events; and what NVIDIA's trtexec says of it.

Host latency is the clock's time from the first copy to the last byte back. Enqueue is what the CPU spends on putting
the engine on the stream. The copies and the computing are measured on the GPU itself.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from runtime.backends.tensorrt import Lane, TensorRtModel
from runtime.errors import UsageError
from runtime.gpu_pieces import find_trtexec

STAGES = ("host latency", "enqueue", "H2D", "compute", "D2H")
PERCENTILES = (50, 90, 95, 99)
_MOST_SPREAD = 1.5
"""99th percentile over the median."""
_MOST_DRIFT = 0.05
_SMI_FIELDS = ("clocks.sm", "clocks.max.sm", "clocks.mem", "temperature.gpu", "power.draw", "pstate")
_TRTEXEC_SECONDS = 90
_TRTEXEC_STAGES = {
    "Latency": "host latency",
    "Enqueue Time": "enqueue",
    "H2D Latency": "H2D",
    "GPU Compute Time": "compute",
    "D2H Latency": "D2H",
}


@dataclass(frozen=True)
class Stage:
    """Milliseconds of one stage over all runs."""

    mean: float
    least: float
    most: float
    percentiles: Mapping[int, float]

    @staticmethod
    def of(milliseconds: Sequence[float]) -> Stage:
        values = np.asarray(milliseconds, dtype=np.float64)
        found = np.percentile(values, PERCENTILES)
        table = {wanted: float(value) for wanted, value in zip(PERCENTILES, found, strict=True)}
        return Stage(float(values.mean()), float(values.min()), float(values.max()), table)


@dataclass(frozen=True)
class EngineTimes:
    """One engine at one batch size."""

    batch: int
    runs: int
    stages: Mapping[str, Stage]
    replay: Stage | None
    """Host latency when the whole run is replayed as a CUDA graph; None where it cannot be captured."""
    warnings: tuple[str, ...]
    clocks: Mapping[str, str]

    @property
    def faces_per_second(self) -> float:
        best = self.replay or self.stages["host latency"]
        return 1000 * self.batch / best.percentiles[50]


def measure_engine(model: TensorRtModel, batch: int, runs: int = 300, warmup: int = 50) -> EngineTimes:
    """Time every stage of `runs` runs, one after the other, after `warmup` that do not count."""
    if runs < 2 or warmup < 2:
        raise UsageError(f"{runs} runs after {warmup}: expected two or more of each")
    lane = model.lanes(batch)[0]
    lane.input[...] = np.random.default_rng(0).uniform(-1, 1, lane.input.shape)
    before = read_clocks()
    events = [model.cuda.event() for _ in range(4)]
    try:
        for _ in range(warmup):
            _staged(model, lane, events)
        found = [_staged(model, lane, events) for _ in range(runs)]
    finally:
        for event in events:
            model.cuda.destroy_event(event)
    lists = {name: [run[i] for run in found] for i, name in enumerate(STAGES)}
    stages = {name: Stage.of(values) for name, values in lists.items()}
    replay = _replayed(lane, runs, warmup)
    return EngineTimes(batch, runs, stages, replay, tuple(_warnings(lists, lane)), {**before, **_after(read_clocks())})


def measure_throughput(model: TensorRtModel, batch: int, seconds: float = 2.0) -> float:
    """Faces a second with all the model's contexts at work at the same time."""
    size = model.spec.input_size
    shape = (batch * model.most_lanes, 3, size, size)
    faces = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    for _ in range(3):
        model.outputs(faces, batch)
    began, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        model.outputs(faces, batch)
        done += len(faces)
    return done / spent


def _staged(model: TensorRtModel, lane: Lane, events: Sequence[int]) -> tuple[float, ...]:
    """One plain run, with an event between the stages."""
    cuda, clock = model.cuda, time.perf_counter
    start = clock()
    cuda.record(events[0], lane.stream)
    lane.copy_in()
    cuda.record(events[1], lane.stream)
    before = clock()
    lane.compute()
    after = clock()
    cuda.record(events[2], lane.stream)
    lane.copy_out()
    cuda.record(events[3], lane.stream)
    cuda.wait(lane.stream)
    end = clock()
    on_gpu = [cuda.milliseconds(a, b) for a, b in pairwise(events)]
    return ((end - start) * 1e3, (after - before) * 1e3, *on_gpu)


def _replayed(lane: Lane, runs: int, warmup: int) -> Stage | None:
    for _ in range(max(2, warmup)):
        lane.start()
        lane.finish()
    if lane.graph is None:
        return None
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        lane.start()
        lane.finish()
        times.append((time.perf_counter() - start) * 1e3)
    return Stage.of(times)


def _warnings(lists: Mapping[str, Sequence[float]], lane: Lane) -> list[str]:
    """Why the numbers may not be those that a user will see."""
    told = []
    compute = np.asarray(lists["compute"])
    median = float(np.median(compute))
    spread = float(np.percentile(compute, 99)) / max(median, 1e-9)
    if spread > _MOST_SPREAD:
        told.append(f"compute is unsteady: its 99th percentile is {spread:.1f} times the median; is the GPU shared?")
    quarter = max(1, len(compute) // 4)
    drift = float(np.median(compute[-quarter:]) / max(float(np.median(compute[:quarter])), 1e-9)) - 1
    if abs(drift) > _MOST_DRIFT:
        told.append(
            f"compute drifts by {100 * drift:+.0f} % during the runs: clocks change, lock them or warm up longer"
        )
    if float(np.median(lists["enqueue"])) > median:
        told.append("enqueueing takes longer than computing: the CPU is the limit, replay as a CUDA graph")
    if lane.no_graph:
        told.append(f"no CUDA graph: {lane.no_graph}")
    return told


def read_clocks() -> dict[str, str]:
    """Clocks, temperature and power by nvidia-smi; empty where it is not (Jetson has its own files)."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_SMI_FIELDS)}", "--format=csv,noheader,nounits", "-i", "0"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse_clocks(run.stdout) if run.returncode == 0 else {}


def parse_clocks(text: str) -> dict[str, str]:
    """One line of nvidia-smi's table.

    >>> parse_clocks("1980, 1980, 2619, 41, 121.55, P0")["clocks.sm"]
    '1980'
    """
    values = [value.strip() for value in text.strip().splitlines()[0].split(",")] if text.strip() else []
    return dict(zip(_SMI_FIELDS, values, strict=False)) if len(values) == len(_SMI_FIELDS) else {}


def _after(clocks: Mapping[str, str]) -> dict[str, str]:
    return {f"{name} after": value for name, value in clocks.items()}


def run_trtexec(plan: Path, model: TensorRtModel, batch: int) -> dict[str, float] | None:
    """NVIDIA's own numbers for the same plan; None where trtexec is not here or does not run it."""
    program = find_trtexec()
    if program is None:
        return None
    try:
        run = subprocess.run(
            trtexec_command(program, plan, model, batch), capture_output=True, text=True, timeout=_TRTEXEC_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_trtexec(run.stdout) or None if run.returncode == 0 else None


def trtexec_command(program: str, plan: Path, model: TensorRtModel, batch: int) -> list[str]:
    """Load the plan, time it for three seconds, copies included."""
    size, name = model.spec.input_size, model.card.input.name
    shapes = f"--shapes={name}:{batch}x3x{size}x{size}"
    return [program, f"--loadEngine={plan}", shapes, "--useCudaGraph", "--warmUp=500", "--duration=3", "--avgRuns=100"]


def parse_trtexec(text: str) -> dict[str, float]:
    """Medians in milliseconds by our stage names, and `throughput` in batches a second."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        body = re.sub(r"^\[[^\]]*\]\s*(\[\w\]\s*)?", "", line.strip())
        head, _, rest = body.partition(":")
        if head == "Throughput" and (number := re.search(r"([\d.]+(?:e[+-]?\d+)?)\s*qps", rest)):
            found["throughput"] = float(number[1])
        stage = _TRTEXEC_STAGES.get(head)
        median = re.search(r"median = ([\d.]+(?:e[+-]?\d+)?) ms", rest)
        if stage and median:
            found[stage] = float(median[1])
    return found
