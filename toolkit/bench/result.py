"""What a bench found: figures with their raw samples, read and written as JSON, compared with an older run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.files import read_json, write_json
from runtime.schema import validate

SCHEMA = 1
FORMAT = "landmark-toolkit bench"
LEAD = 2
"""Runs at the start of each burst that are not counted: the contender before has emptied the caches."""


DIFFERS = "computes something else"
"""Note of a contender that was timed although its output is another one."""


@dataclass(frozen=True)
class Figures:
    """One contender: what it costs."""

    title: str
    engine: str
    precision: str
    version: str
    note: str
    load_s: float
    import_s: float
    first_s: float
    """The first run after loading."""
    rss: int
    """Peak memory above an interpreter with numpy and the faces."""
    model_bytes: int
    library_bytes: int
    """Shared libraries that loading brought into the process."""
    max_px: float
    """Largest landmark difference from the float32 ONNX model in ONNX Runtime, in pixels of the input."""
    mean_px: float
    warmup_runs: int
    bursts: list[list[float]]
    """Seconds of every counted run, burst by burst."""
    pace: list[float]
    """Seconds of each run when one face comes every 33 ms."""
    throughput: dict[str, float]
    """Batch size -> faces per second."""

    def seconds(self) -> NDArray[np.float64]:
        return np.concatenate([np.asarray(burst, dtype=np.float64) for burst in self.bursts])

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.seconds(), share))

    @property
    def median(self) -> float:
        return self.percentile(50)

    @property
    def pace_median(self) -> float:
        return float(np.median(self.pace)) if self.pace else float("nan")

    def medians(self) -> NDArray[np.float64]:
        """The median of each burst, in the order of the rounds."""
        return np.array([float(np.median(burst)) for burst in self.bursts])

    def ratio_to(self, other: Figures) -> float:
        """How many times as long as the other: median over the rounds, both from the same round."""
        rounds = min(len(self.bursts), len(other.bursts))
        return float(np.median(self.medians()[:rounds] / other.medians()[:rounds]))


@dataclass(frozen=True)
class Refused:
    """A contender that was not timed, why, and what would help."""

    title: str
    reason: str
    fix: str = ""


@dataclass(frozen=True)
class BenchResult:
    """Everything of one bench."""

    model: dict[str, Any]
    """Bundle name, architecture, hash of the float32 ONNX, faces."""
    environment: dict[str, Any]
    settings: dict[str, Any]
    figures: tuple[Figures, ...]
    absent: tuple[Refused, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    @property
    def fastest(self) -> Figures:
        """Of those that compute the same; of all where none does."""
        same = [f for f in self.figures if not f.note.endswith(DIFFERS)]
        return min(same or self.figures, key=lambda f: f.median)

    def find(self, title: str) -> Figures | None:
        return next((f for f in self.figures if f.title == title), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as the JSON file holds it."""
        figures = [
            {
                **asdict(f),
                "summary_us": {name: 1e6 * value for name, value in summary(f).items()},
            }
            for f in self.figures
        ]
        return {
            "format": FORMAT,
            "schema": SCHEMA,
            "model": self.model,
            "environment": self.environment,
            "settings": self.settings,
            "figures": figures,
            "absent": [asdict(a) for a in self.absent],
            "warnings": list(self.warnings),
        }

    def write(self, path: Path) -> None:
        write_json(path, self.to_dict())

    @staticmethod
    def read(path: Path | str) -> BenchResult:
        """Read a file that `write` made; anything else is refused."""
        data = read_json(path)
        validate(data, "bench", str(path))
        figures = []
        for entry in data["figures"]:
            entry.pop("summary_us")
            figure = Figures(**entry)
            if not figure.bursts or not all(figure.bursts):
                raise InputError(f"{path}: {figure.title!r} holds no samples")
            figures.append(figure)
        return BenchResult(
            data["model"],
            data["environment"],
            data["settings"],
            tuple(figures),
            tuple(Refused(**a) for a in data["absent"]),
            tuple(data["warnings"]),
        )


def summary(figures: Figures) -> dict[str, float]:
    """Seconds by name: min, p50, p90, p95, p99, mean."""
    shares = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}
    seconds = figures.seconds()
    return {
        "min": float(seconds.min()),
        **{name: float(np.percentile(seconds, share)) for name, share in shares.items()},
        "mean": float(seconds.mean()),
    }


@dataclass(frozen=True)
class Change:
    """One contender, then and now."""

    title: str
    before: float
    after: float
    ratio: float
    low: float
    high: float
    """The middle 95 % of the ratio under resampling of the rounds."""

    @property
    def verdict(self) -> str:
        """In words; a change within the noise is none."""
        if self.low <= 1.0 <= self.high:
            return "no change beyond the noise"
        return "slower" if self.ratio > 1 else "faster"


def compare(new: BenchResult, old: BenchResult, where: str) -> list[Change]:
    """Hold two runs on one machine against each other; another machine or other settings are refused."""
    refuse_other_machine(new.environment, old.environment, where)
    changes = []
    for figure in new.figures:
        before = old.find(figure.title)
        if before is not None:
            changes.append(_change(figure, before))
    if not changes:
        raise InputError(f"--compare {where}: no contender is in both runs")
    return changes


def refuse_other_machine(here: Mapping[str, Any], there: Mapping[str, Any], where: str) -> None:
    """Before anything is timed: the environment blocks must be of one machine."""
    for name in ("fingerprint", "threads"):
        if here[name] != there[name]:
            raise InputError(
                f"--compare {where}: was measured on another machine or with other threads ({_machine(there)}; here: "
                f"{_machine(here)}); times of different machines say nothing about the model"
            )


def _machine(facts: Mapping[str, Any]) -> str:
    return f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} threads, fingerprint {facts['fingerprint']}"


def _change(after: Figures, before: Figures, draws: int = 2000, seed: int = 0) -> Change:
    generator = np.random.default_rng(seed)
    first, second = before.medians(), after.medians()

    def medians(values: NDArray[np.float64]) -> NDArray[np.float64]:
        picks = generator.integers(0, len(values), (draws, len(values)))
        return np.asarray(np.median(values[picks], axis=1))

    ratios = medians(second) / medians(first)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Change(
        after.title,
        before.median,
        after.median,
        float(np.median(second) / np.median(first)),
        float(low),
        float(high),
    )


def titles(figures: Sequence[Figures]) -> list[str]:
    """Names in the order of speed, fastest first."""
    return [f.title for f in sorted(figures, key=lambda f: f.median)]
