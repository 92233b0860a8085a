"""Where channels lie inside a pixel: concat elimination, one layout for maps that are added or convolved depthwise."""

from __future__ import annotations

from dataclasses import dataclass

from export.c.ir import (
    Activate,
    Add,
    Concat,
    Dense,
    Depthwise,
    Dequantise,
    Graph,
    Layer,
    MaxPool,
    Pool,
    Quantise,
    Resize,
    Scale,
    Tensor,
)
from runtime.errors import InputError

VECTOR = 16
"""Float lanes are handed out in runs of this many, so that no kernel ever needs a remainder."""
BYTES = 64
"""The same for int8."""
WORD = 4
"""The same for int8 on microcontrollers, where memory is what counts."""


def padded(count: int, step: int = VECTOR) -> int:
    return -(-count // step) * step


@dataclass(frozen=True)
class Pixel:
    """Channel counts of the runs in a pixel; every run starts at a multiple of `unit` lanes."""

    runs: tuple[int, ...]
    unit: int = VECTOR

    @property
    def lanes(self) -> int:
        return sum(padded(count, self.unit) for count in self.runs)

    @property
    def vectors(self) -> int:
        """Vectors of 16 lanes that hold channels; padding behind the last run does not count."""
        lane, count = self.spans()[-1]
        return (lane + padded(count)) // VECTOR

    def spans(self) -> list[tuple[int, int]]:
        """(first lane, channels) of each run."""
        spans, lane = [], 0
        for count in self.runs:
            spans.append((lane, count))
            lane += padded(count, self.unit)
        return spans

    def spans_of(self, picks: tuple[tuple[int, int], ...] | None) -> list[tuple[int, int]]:
        """(first lane, channels) of the runs that a reader wants; None: all of the pixel."""
        if picks is None:
            return self.spans()
        lanes = self.lane_of_channel()
        spans: list[tuple[int, int]] = []
        for lane in (lanes[channel] for first, count in picks for channel in range(first, first + count)):
            if spans and lane == sum(spans[-1]):
                spans[-1] = (spans[-1][0], spans[-1][1] + 1)
            else:
                spans.append((lane, 1))
        return spans

    def lane_of_channel(self) -> list[int]:
        return [lane + i for lane, count in self.spans() for i in range(count)]


class Layouts:
    """Decides every tensor's pixel; `parent` tells in which concat, and at which lane, a tensor is written."""

    def __init__(self, graph: Graph, tight: bool = False) -> None:
        self.graph = graph
        self._bytes = WORD if tight else BYTES
        self._group: dict[int, int] = {}
        self._tensors: dict[int, Tensor] = {}
        for layer in graph.layers:
            for tensor in (*layer.inputs, layer.output):
                self._group.setdefault(id(tensor), id(tensor))
                self._tensors[id(tensor)] = tensor
        for layer in graph.layers:
            for tensor in _same_layout(layer):
                self._join(tensor, layer.output)
        self._concats = {id(layer.output): layer for layer in graph.layers if isinstance(layer, Concat)}
        self._runs: dict[int, tuple[int, ...]] = {}
        self.parent: dict[int, tuple[Tensor, int]] = {}
        for layer in self._concats.values():
            self._place(layer)

    def _root(self, key: int) -> int:
        while self._group[key] != key:
            key = self._group[key]
        return key

    def _join(self, a: Tensor, b: Tensor) -> None:
        self._group[self._root(id(a))] = self._root(id(b))

    def pixel(self, tensor: Tensor) -> Pixel:
        """The layout of a tensor's pixel."""
        return Pixel(self._runs_of(tensor), VECTOR if tensor.step is None else self._bytes)

    def _runs_of(self, tensor: Tensor, depth: int = 0) -> tuple[int, ...]:
        root = self._root(id(tensor))
        if root in self._runs:
            return self._runs[root]
        if depth > 64:
            raise InputError("C export: concatenations nest too deeply")
        wanted = {
            tuple(run for part in self._concats[key].inputs for run in self._runs_of(part, depth + 1))
            for key in self._concats
            if self._root(key) == root
        }
        if len(wanted) > 1:
            raise InputError(f"C export: {tensor.name!r}: maps that are added are concatenated from different parts")
        self._runs[root] = wanted.pop() if wanted else (tensor.shape.channels,)
        return self._runs[root]

    def _place(self, concat: Layer) -> None:
        lane = 0
        for part in concat.inputs:
            if id(part) in self.parent or part is self.graph.input:
                raise InputError(f"C export: {part.name!r} is concatenated more than once")
            self.parent[id(part)] = (concat.output, lane)
            lane += self.pixel(part).lanes

    def home(self, tensor: Tensor) -> tuple[Tensor, int]:
        """The outermost tensor that a tensor is part of, and its first lane there."""
        lane = 0
        while id(tensor) in self.parent:
            tensor, more = self.parent[id(tensor)]
            lane += more
        return tensor, lane


def _same_layout(layer: Layer) -> list[Tensor]:
    """Inputs whose pixel must look like the output's."""
    if isinstance(layer, (Depthwise, Pool, Add, Activate, Scale, MaxPool, Resize, Quantise, Dequantise)):
        return layer.inputs
    if isinstance(layer, Dense):
        return layer.inputs[1:]
    return []
