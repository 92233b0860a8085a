"""Sources made of sources: a part of one, several in a row, one in another layout."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from runtime.errors import UsageError
from runtime.images import Image
from runtime.layouts import IBUG68, IBUG68_IN_WFLW98, WFLW98, Layout
from train.data.problems import Problems, problems_of
from train.data.sample import FaceSample, FaceSource


class SubsetSource:
    """The chosen faces of a source, in the given order."""

    def __init__(self, source: FaceSource, indices: Sequence[int], name: str | None = None) -> None:
        wrong = [index for index in indices if not 0 <= index < len(source)]
        if wrong:
            raise UsageError(f"{source.name}: face {wrong[0]} asked for, it has {len(source)}")
        self._source = source
        self._indices = tuple(int(index) for index in indices)
        self._name = name or f"{source.name}[{len(self._indices)}]"
        self.problems = problems_of(source)

    @property
    def name(self) -> str:
        return self._name

    @property
    def layout(self) -> Layout:
        return self._source.layout

    def __len__(self) -> int:
        return len(self._indices)

    def sample(self, index: int) -> FaceSample:
        return self._source.sample(self._indices[index])

    def photo(self, index: int) -> Image:
        return self._source.photo(self._indices[index])


class ConcatSource:
    """Several sources of one layout, one after the other."""

    def __init__(self, sources: Sequence[FaceSource], name: str | None = None) -> None:
        if not sources:
            raise UsageError("no sources to join")
        layouts = sorted({source.layout.name for source in sources})
        if len(layouts) > 1:
            raise UsageError(
                f"sources of different layouts ({', '.join(layouts)}) cannot be joined; convert them to one first"
            )
        self._sources = tuple(sources)
        self._ends = list(accumulate(len(source) for source in sources))
        self._name = name or "+".join(source.name for source in sources)
        self.problems = Problems()
        for source in sources:
            self.problems.extend(problems_of(source))

    @property
    def name(self) -> str:
        return self._name

    @property
    def layout(self) -> Layout:
        return self._sources[0].layout

    def __len__(self) -> int:
        return self._ends[-1]

    def _find(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = bisect_right(self._ends, index)
        return which, index - (self._ends[which - 1] if which else 0)

    def sample(self, index: int) -> FaceSample:
        which, within = self._find(index)
        sample = self._sources[which].sample(within)
        return replace(sample, group=f"{which}:{sample.group}") if sample.group else sample

    def photo(self, index: int) -> Image:
        which, within = self._find(index)
        return self._sources[which].photo(within)


class LayoutSource:
    """A source in another layout: 68 points among the 98 (the others NaN), or the 68 picked out of 98."""

    def __init__(self, source: FaceSource, layout: Layout) -> None:
        can_convert(source.layout, layout)
        self._source = source
        self._layout = layout
        self.problems = problems_of(source)

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def layout(self) -> Layout:
        return self._layout

    def __len__(self) -> int:
        return len(self._source)

    def sample(self, index: int) -> FaceSample:
        sample = self._source.sample(index)
        chosen, weights = list(IBUG68_IN_WFLW98), sample.weights
        if self._layout.count < self._source.layout.count:
            points = sample.points[chosen]
            weights = weights if weights is None else weights[chosen]
        else:
            points = np.full((self._layout.count, 2), np.nan, dtype=np.float32)
            points[chosen] = sample.points
            if weights is not None:
                weights = np.zeros(self._layout.count, dtype=np.float32)
                weights[chosen] = sample.weights
        return replace(sample, points=points, weights=weights, layout=self._layout.name)

    def photo(self, index: int) -> Image:
        return self._source.photo(index)


def can_convert(source: Layout, target: Layout) -> None:
    """Raise when there is no way from one layout to the other."""
    if {source.name, target.name} != {IBUG68.name, WFLW98.name}:
        raise UsageError(f"no way from layout {source.name} to {target.name}; known: {IBUG68.name} <-> {WFLW98.name}")


def in_layout(source: FaceSource, layout: Layout) -> FaceSource:
    """The source itself when it has the layout already, else converted."""
    return source if source.layout.name == layout.name else LayoutSource(source, layout)
