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
class Twins:
    """Two halves of equally many channels, whose last, half empty vectors share one.

    The second half's whole vectors lie behind the first half, what is left of it in the padding of the first.
    """

    count: int

    @property
    def left(self) -> int:
        """Channels of a half that do not fill a vector."""
        return self.count % VECTOR

    @property
    def second(self) -> int:
        """First lane of the second half's whole vectors."""
        return padded(self.count)

    @property
    def lanes(self) -> int:
        return self.second + self.count - self.left

    def spans(self) -> list[tuple[int, int]]:
        """(first lane, channels), in the order of the channels."""
        whole = [(self.second, self.count - self.left)] if self.count > self.left else []
        return [(0, self.count), *whole, (self.count, self.left)]


Run = int | Twins


@dataclass(frozen=True)
class Pixel:
    """Channel counts of the runs in a pixel; every run starts at a multiple of `unit` lanes."""

    runs: tuple[Run, ...]
    unit: int = VECTOR

    def _lanes(self, run: Run) -> int:
        return run.lanes if isinstance(run, Twins) else padded(run, self.unit)

    @property
    def lanes(self) -> int:
        return sum(self._lanes(run) for run in self.runs)

    @property
    def vectors(self) -> int:
        """Vectors of 16 lanes that hold channels; padding behind the last run does not count."""
        return padded(max(lane + count for lane, count in self.spans())) // VECTOR

    @property
    def left(self) -> int:
        """How many lanes of the last vector hold channels; 0: all."""
        return max(lane + count for lane, count in self.spans()) % VECTOR

    def spans(self) -> list[tuple[int, int]]:
        """(first lane, channels) of each run, in the order of the channels."""
        spans: list[tuple[int, int]] = []
        lane = 0
        for run in self.runs:
            own = run.spans() if isinstance(run, Twins) else [(0, run)]
            spans.extend((lane + first, count) for first, count in own)
            lane += self._lanes(run)
        return spans

    def reading(self, picks: tuple[tuple[int, int], ...] | None) -> tuple[list[tuple[int, int]], list[int]]:
        """(first lane, channels) of the runs that a reader takes one after the other, and its inputs in that order.

        None: all of the pixel, from the first lane to the last.
        """
        lanes = self.lane_of_channel()
        channels = list(range(len(lanes)))
        if picks is None:
            channels.sort(key=lambda channel: lanes[channel])
        else:
            channels = [channel for first, count in picks for channel in range(first, first + count)]
        order = channels if picks is None else list(range(len(channels)))
        spans: list[tuple[int, int]] = []
        for lane in (lanes[channel] for channel in channels):
            if spans and lane == sum(spans[-1]):
                spans[-1] = (spans[-1][0], spans[-1][1] + 1)
            else:
                spans.append((lane, 1))
        return spans, order

    def spans_of(self, picks: tuple[tuple[int, int], ...] | None) -> list[tuple[int, int]]:
        """The runs that a reader wants, each by itself where all are read."""
        return self.spans() if picks is None else self.reading(picks)[0]

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
        int8 = any(tensor.step is not None for tensor in self._tensors.values())
        self._twins = set() if int8 else {key for key, layer in self._concats.items() if self._are_twins(layer)}
        self._runs: dict[int, tuple[Run, ...]] = {}
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

    def _are_twins(self, concat: Layer) -> bool:
        """A map and its own 3x3 depthwise convolution, whose kernels can put a vector's channels elsewhere."""
        first, second = concat.inputs[0], concat.inputs[-1]
        maker = self.graph.producer(second)
        return (
            len(concat.inputs) == 2
            and first.shape.height > 1
            and isinstance(self.graph.producer(first), Dense)
            and isinstance(maker, Depthwise)
            and maker.kernel == 3
            and maker.stride == 1
            and maker.after is None
            and maker.inputs[0] is first
            and {id(layer) for layer in self.graph.consumers(first)} == {id(maker), id(concat)}
            and self.graph.consumers(second) == [concat]
            and 0 < 2 * (first.shape.channels % VECTOR) <= VECTOR
        )

    def left_over(self, tensor: Tensor) -> int | None:
        """Where, counted from its first lane, a twin's last channels lie; None: behind its others."""
        concat, _ = self.parent.get(id(tensor), (None, 0))
        if concat is None or id(concat) not in self._twins or self._concats[id(concat)].inputs[1] is not tensor:
            return None
        twins = Twins(tensor.shape.channels)
        return twins.count - twins.second

    def _runs_of(self, tensor: Tensor, depth: int = 0) -> tuple[Run, ...]:
        root = self._root(id(tensor))
        if root in self._runs:
            return self._runs[root]
        if depth > 64:
            raise InputError("C export: concatenations nest too deeply")
        wanted: set[tuple[Run, ...]] = {
            (Twins(self._concats[key].inputs[0].shape.channels),)
            if key in self._twins
            else tuple(run for part in self._concats[key].inputs for run in self._runs_of(part, depth + 1))
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
