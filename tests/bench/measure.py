"""Interleaved timing: contenders alternate in one process on one core, raw samples are kept, ratios are quoted."""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.files import write_json


@dataclass(frozen=True)
class Samples:
    """Seconds per call of each contender, in the order of the rounds."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        return float(np.median(self.seconds[name]))

    def p95(self, name: str) -> float:
        return float(np.percentile(self.seconds[name], 95))

    def ratio(self, slow: str, fast: str) -> float:
        """Median over the rounds of slow / fast, both from the same round."""
        return float(np.median(np.asarray(self.seconds[slow]) / np.asarray(self.seconds[fast])))


def interleave(contenders: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2) -> Samples:
    """Call the contenders in turn, rotating who comes first, and keep each call's time."""
    names = list(contenders)
    for _ in range(warmup):
        for name in names:
            contenders[name]()
    seconds: dict[str, list[float]] = {name: [0.0] * rounds for name in names}
    for index in range(rounds):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            start = time.perf_counter()
            contenders[name]()
            seconds[name][index] = time.perf_counter() - start
    return Samples(seconds)


@contextmanager
def pinned(cores: Sequence[int] | None = None) -> Iterator[None]:
    """Stay on the given cores (default: the first allowed one) where the system can pin."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(cores) if cores is not None else {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def environment() -> dict[str, object]:
    """What a reader must know before believing a number."""
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def save(out: Path, name: str, rows: Mapping[str, object], samples: Mapping[str, Samples]) -> Path:
    """Write `name`.json: the figures, the environment and every raw sample."""
    path = out / f"{name}.json"
    raw = {key: value.seconds for key, value in samples.items()}
    write_json(path, {"name": name, "figures": dict(rows), "environment": environment(), "seconds": raw})
    return path


def arguments(argv: Sequence[str] | None, description: str) -> argparse.Namespace:
    """The flags that every bench has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for the JSON files")
    parser.add_argument("--quick", action="store_true", help="a few rounds only, to see that it works")
    return parser.parse_args(argv)
