"""Point layouts: which point is which, what mirrors to what, and what NME divides by.

A layout is data. `wflw98`, `ibug68` and `jd106` are built in; a model may carry another one in its spec.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UsageError


def mirror_pairs(count: int, pairs: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Permutation that swaps the given pairs and keeps every other point."""
    order = list(range(count))
    for left, right in pairs:
        order[left], order[right] = right, left
    return tuple(order)


@dataclass(frozen=True)
class Normaliser:
    """What a landmark error is divided by: the distance between the means of two groups of points."""

    name: str
    left: tuple[int, ...]
    right: tuple[int, ...]

    def distance(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Distance for points of shape (..., N, 2)."""
        gap = points[..., list(self.left), :].mean(-2) - points[..., list(self.right), :].mean(-2)
        return np.asarray(np.hypot(gap[..., 0], gap[..., 1]))


@dataclass(frozen=True)
class Layout:
    """A named order of landmark points."""

    name: str
    count: int
    flip: tuple[int, ...]
    normalisers: tuple[Normaliser, ...]
    lines: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def flip_index(self) -> NDArray[np.intp]:
        return np.asarray(self.flip, dtype=np.intp)

    @property
    def default_normaliser(self) -> Normaliser:
        return self.normalisers[0]

    def normaliser(self, name: str) -> Normaliser:
        """Look a normaliser up by name."""
        for candidate in self.normalisers:
            if candidate.name == name:
                return candidate
        names = ", ".join(n.name for n in self.normalisers) or "none"
        raise UsageError(f"layout {self.name} has no normaliser {name!r}; it has: {names}")


def _run(start: int, stop: int, closed: bool = False) -> tuple[int, ...]:
    line = tuple(range(start, stop))
    return (*line, start) if closed else line


def _across(first: int, last: int) -> list[tuple[int, int]]:
    """Pairs (first, last), (first+1, last-1), ..."""
    return [(first + i, last - i) for i in range((last - first + 1) // 2)]


_WFLW_PAIRS = [
    *_across(0, 32),  # jaw
    *[(33 + i, 46 - i) for i in range(5)],  # upper brow edge, 33..37 with 46..42
    *[(38 + i, 50 - i) for i in range(4)],  # lower brow edge
    *_across(55, 59),
    *[(60 + i, 72 - i) for i in range(5)],  # eyes, upper lids 60..64 with 72..68
    *[(65 + i, 75 - i) for i in range(3)],  # lower lids
    *_across(76, 82),
    *_across(83, 87),
    *_across(88, 92),
    *_across(93, 95),
    (96, 97),
]

_IBUG_PAIRS = [
    *_across(0, 16),
    *_across(17, 26),
    *_across(31, 35),
    *[(36 + i, 45 - i) for i in range(4)],
    (40, 47),
    (41, 46),
    *_across(48, 54),
    *_across(55, 59),
    *_across(60, 64),
    *_across(65, 67),
]

WFLW98 = Layout(
    "wflw98",
    98,
    mirror_pairs(98, _WFLW_PAIRS),
    (
        Normaliser("inter-ocular", (60,), (72,)),
        Normaliser("inter-pupil", (96,), (97,)),
    ),
    (
        _run(0, 33),
        _run(33, 42, True),
        _run(42, 51, True),
        _run(51, 55),
        _run(55, 60),
        _run(60, 68, True),
        _run(68, 76, True),
        _run(76, 88, True),
        _run(88, 96, True),
    ),
)

IBUG68 = Layout(
    "ibug68",
    68,
    mirror_pairs(68, _IBUG_PAIRS),
    (
        Normaliser("inter-ocular", (36,), (45,)),
        Normaliser("inter-pupil", tuple(range(36, 42)), tuple(range(42, 48))),
    ),
    (
        _run(0, 17),
        _run(17, 22),
        _run(22, 27),
        _run(27, 31),
        _run(31, 36),
        _run(36, 42, True),
        _run(42, 48, True),
        _run(48, 60, True),
        _run(60, 68, True),
    ),
)

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (WFLW98, IBUG68)}

IBUG68_IN_WFLW98: tuple[int, ...] = (
    *range(0, 33, 2),
    *range(33, 38),
    *range(42, 47),
    *range(51, 60),
    *(60, 61, 63, 64, 65, 67),
    *(68, 69, 71, 72, 73, 75),
    *range(76, 96),
)
"""For each of the 68 points, its index among the 98."""


def layout_named(name: str) -> Layout:
    """Look a layout up by name."""
    try:
        return LAYOUTS[name]
    except KeyError:
        raise UsageError(f"unknown point layout {name!r}; known: {', '.join(sorted(LAYOUTS))}") from None


def plain_layout(count: int) -> Layout:
    """A layout of `count` anonymous points: no mirror partner and no eyes, so only box normalisation applies."""
    return Layout(f"plain{count}", count, tuple(range(count)), ())
