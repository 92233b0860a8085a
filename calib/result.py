"""What calibration hands on: the plan, the table of what was tried, the layers' errors, and the gate they must pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.plan import Plan
from runtime.errors import CheckFailedError


@dataclass(frozen=True)
class Labelled:
    """Measures the true error: a function from a predictor to NME overall and per subset, as fractions."""

    nme: Callable[[Callable[[NDArray[np.float32]], NDArray[Any]]], Mapping[str, float]]
    name: str = "labelled faces"


@dataclass(frozen=True)
class Candidate:
    """One thing that was tried."""

    name: str
    shift: float
    """Mean landmark shift on the held-back faces, as a fraction of the normalising distance."""
    worst: float
    """The same for the face at the 95th percentile."""
    seconds: float
    kept: bool
    note: str = ""


@dataclass(frozen=True)
class LayerError:
    """Where the error comes from."""

    name: str
    operator: str
    share: float
    """Of the predicted landmark noise, this layer's weight and input together."""
    relative: float
    """Root mean square error of the output over that of the float output, on held-back faces."""


@dataclass(frozen=True, eq=False)
class Int8Result:
    """The plan to write, and everything a person or a manifest wants to know about it."""

    plan: Plan
    settings: dict[str, Any]
    candidates: tuple[Candidate, ...]
    layers: tuple[LayerError, ...]
    float_layers: tuple[str, ...]
    shift: float
    limit: float
    nme: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Per subset: float and int8 NME, where labels were given."""

    @property
    def winner(self) -> Candidate:
        """The candidate that became the plan."""
        return [c for c in self.candidates if c.kept][-1]

    def why(self) -> str:
        """One sentence on the choice."""
        first = self.candidates[0]
        return (
            f"{self.winner.name} moves the landmarks of held-back faces by {100 * self.shift:.3f} % "
            f"({first.name}: {100 * first.shift:.3f} %), the least of {len(self.candidates)} candidates"
        )


def gate(result: Int8Result, labelled: Labelled | None, max_drop: float) -> None:
    """Refuse a result that lost too much, with the layers to blame and what to try."""
    blame = sorted(result.layers, key=lambda layer: -layer.share)[:3]
    names = ", ".join(f"{layer.name} ({100 * layer.share:.0f} %)" for layer in blame)
    faces = result.settings.get("faces", 0)
    ways = [] if result.settings.get("mode") == "best" else ["--int8 best"]
    ways.append(f"more varied faces (--calib; --calib-count, {faces} were learned from)")
    ways.append(
        "--max-drop, to accept more loss" if labelled is not None else "--eval-data, to judge by labels instead"
    )
    advice = f"most of the error comes from {names}; try {', '.join(ways[:-1])} or {ways[-1]}"
    if labelled is not None:
        exact, rough = result.nme["all"]
        drop = relative_drop(result.nme)
        if drop > max_drop:
            raise CheckFailedError(
                f"int8 NME {100 * rough:.3f} % on {labelled.name} against {100 * exact:.3f} % in float32: "
                f"+{100 * drop:.2f} %{_worst(result)}, the limit is {100 * max_drop:g} %; {advice}"
            )
    elif result.shift > result.limit:
        raise CheckFailedError(
            f"int8 moves the landmarks by {100 * result.shift:.2f} % of the normalising distance, "
            f"the limit is {100 * result.limit:g} %; {advice}"
        )


def relative_drop(nme: Mapping[str, tuple[float, float]]) -> float:
    """How much the overall NME grew, as a fraction."""
    exact, rough = nme["all"]
    return rough / exact - 1 if exact > 0 else 0.0


def _worst(result: Int8Result) -> str:
    """The subset that lost most, where there are subsets."""
    drops = {name: rough / exact - 1 for name, (exact, rough) in result.nme.items() if name != "all" and exact > 0}
    if not drops:
        return ""
    worst = max(drops, key=lambda name: (drops[name], name))
    return f" (most on {worst}: +{100 * drops[worst]:.2f} %)"
