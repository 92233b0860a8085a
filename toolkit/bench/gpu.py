"""Engines on the GPU, stage by stage: what `toolkit bench` adds where a bundle holds TensorRT engines that run here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.backends.tensorrt import KIND, TensorRtModel, open_plan
from runtime.bundle import Bundle
from runtime.errors import MissingBackendError, ToolkitError
from runtime.gpu_timing import STAGES, EngineTimes, Stage, measure_engine, measure_throughput, run_trtexec
from runtime.jetson import PowerMeter, clock_warnings, read_gpu_clock, read_power_mode

COLUMNS = ("ms", "median", "90 %", "95 %", "99 %", "least", "trtexec median")
REPLAY = "as a CUDA graph"
RUNS, WARMUP = 300, 50


@dataclass(frozen=True)
class GpuEngine:
    """One engine at one batch size, and what NVIDIA's own program says of it."""

    name: str
    times: EngineTimes
    faces_per_second: float
    """With all contexts at work."""
    trtexec: dict[str, float] | None
    millijoules: float | None
    """Energy of the whole board for one run; only on a Jetson."""
    power_mode: str | None

    def rows(self) -> list[tuple[str, ...]]:
        """One row per stage."""
        stages = dict(self.times.stages) | ({REPLAY: self.times.replay} if self.times.replay else {})
        beside = self.trtexec or {}
        return [_row(name, stages[name], beside.get(name)) for name in (*STAGES, REPLAY) if name in stages]

    def title(self) -> str:
        """The engine, its batch, and what does not fit into a row."""
        parts = [f"{self.name}, batch {self.times.batch}", f"{self.faces_per_second:.0f} faces/s"]
        if self.millijoules is not None:
            parts.append(f"{self.millijoules:.2f} mJ a run")
        if self.power_mode:
            parts.append(f"power mode {self.power_mode}")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _row(name: str, stage: Stage, beside: float | None) -> tuple[str, ...]:
    shares = (stage.percentiles[share] for share in (50, 90, 95, 99))
    return (
        name,
        *(f"{value:.3f}" for value in shares),
        f"{stage.least:.3f}",
        "-" if beside is None else f"{beside:.3f}",
    )


def measure(
    model: TensorRtModel, plan: Path, name: str, batch: int, runs: int = RUNS, warmup: int = WARMUP
) -> GpuEngine:
    """Every stage of one engine; power where the board has sensors."""
    with contextlib.ExitStack() as stack:
        meter: PowerMeter | None = None
        with contextlib.suppress(MissingBackendError):
            meter = stack.enter_context(PowerMeter())
        times = measure_engine(model, batch, runs, warmup)
    mode = read_power_mode()
    # The meter sees the plain runs, their warm-up, and both once more as a graph.
    done = (runs + warmup) * (2 if times.replay else 1)
    return GpuEngine(
        name,
        times,
        measure_throughput(model, batch),
        run_trtexec(plan, model, batch),
        None if meter is None else meter.use().millijoules(done),
        None if mode is None else mode.name,
    )


def measure_bundle(bundle: Bundle, say: Callable[[str], None], batches: tuple[int, ...] = (1, 8)) -> list[GpuEngine]:
    """All engines of a bundle that open here; of the others, why they do not."""
    found: list[GpuEngine] = []
    for artefact in bundle.manifest.artefacts:
        if artefact.kind != KIND:
            continue
        plan = bundle.directory / artefact.file
        try:
            model = open_plan(plan)
        except ToolkitError as error:
            say(f"{artefact.name}: its stages on the GPU are not measured: {error}")
            continue
        with model:
            profile = model.card.profile
            sizes = [batch for batch in batches if profile.min <= batch <= profile.max] or [profile.max]
            found += [measure(model, plan, artefact.name, batch) for batch in sizes]
    for warning in clock_warnings(read_power_mode(), read_gpu_clock()) if found else ():
        say(warning)
    return found
