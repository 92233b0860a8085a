"""When each row is computed and where it lives: groups of layers that stream rows through rings, and the arena."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from export.c.ir import CentreOfMass, Concat, Dense, Depthwise, Graph, Layer, MaxPool, Pool, Resize, Scale, Tensor
from export.c.layout import VECTOR, Layouts, Pixel, padded
from export.c.passes import is_int8, is_ordered
from runtime.errors import InputError

ALIGN = 64
MAX_ARENA = 256 << 20
FACE_SLACK = 16
"""Bytes behind a row of the face that int8 kernels may read, four at a time, without using them."""


def element(tensor: Tensor) -> int:
    """Bytes of one value."""
    return 4 if tensor.step is None else 1


@dataclass(eq=False)
class Buffer:
    """Rows of one map (or of several that were concatenated); `rows` < height makes it a ring."""

    name: str
    height: int
    row_bytes: int
    pixel_step: int
    rows: int
    first: int = -1
    last: int = -1
    offset: int = -1

    @property
    def size(self) -> int:
        return padded(self.rows * self.row_bytes, ALIGN)

    @property
    def full(self) -> bool:
        return self.rows >= self.height


@dataclass(frozen=True)
class Place:
    """A tensor's place: the buffer, its first lane in every pixel, its pixel.

    `left_over`: where, counted from that lane, the channels lie that do not fill a vector; None: behind the others.
    """

    buffer: Buffer
    lane: int
    pixel: Pixel
    left_over: int | None = None

    def spans(self) -> list[tuple[int, int]]:
        """(first lane, channels) of each run, in the order of the channels."""
        spans = self.pixel.spans()
        if self.left_over is None:
            return spans
        count = spans[-1][1]
        left = count % VECTOR
        return [*([(0, count - left)] if count > left else []), (self.left_over, left)]


@dataclass(eq=False)
class Step:
    """A layer inside its group: how many rows at a turn, how far behind it runs, how many turns it has in a tick."""

    layer: Layer
    index: int
    rate: int
    lag: int
    height: int
    turns: int = 1

    def rows(self, turn: int) -> range:
        low = self.rate * turn - self.lag
        return range(max(low, 0), min(low + self.rate, self.height))


@dataclass(eq=False)
class Group:
    """Layers that advance together, tick by tick; the first of them may take several turns in each."""

    steps: list[Step]
    ticks: int = 0
    scratch: list[Buffer] = field(default_factory=list)

    def in_order(self) -> Iterator[tuple[Step, range]]:
        """Every step and its rows, in the order in which they are computed."""
        first = [step for step in self.steps if step.turns > 1]
        for tick in range(self.ticks):
            for turn in range(first[0].turns if first else 0):
                for step in first:
                    yield step, step.rows(tick * step.turns + turn)
            for step in self.steps[len(first) :]:
                yield step, step.rows(tick)


@dataclass
class Plan:
    """The whole schedule."""

    graph: Graph
    groups: list[Group]
    places: dict[int, Place]
    buffers: list[Buffer]
    arena: int
    lower_bound: int
    tight: bool = False

    def place(self, tensor: Tensor) -> Place:
        return self.places[id(tensor)]


@dataclass(frozen=True)
class Tuning:
    """What the schedule may be tuned by."""

    stream_bytes: int = 320 << 10
    band: int = 1
    group_weights: int = 400 << 10
    max_rate: int = 8
    tight: bool = False
    """Int8 maps without lanes to spare, for microcontrollers."""
    turns: int | None = None
    """How many turns the first layers of a group take in a tick; None: two, int8 one."""


LARGEST_STREAMED = 7
"""Rows that a kernel of a streamed layer may reach over."""
BAND_PIXELS, BAND_WEIGHTS = 64, 256 << 10
"""Weights larger than this are read once for so many pixels, not once per row."""


@dataclass(eq=False)
class InputLayer(Layer):
    """8-bit face -> normalised floats with one zero pixel on either side."""


def input_rows(layer: Layer, row: int, position: int = 0) -> range:
    """Rows of an input that an output row needs, before clipping to the map."""
    if isinstance(layer, CentreOfMass):
        return range(layer.inputs[0].shape.height)
    if isinstance(layer, Resize):
        first = row * layer.inputs[0].shape.height // layer.output.shape.height
        return range(first - layer.bilinear, first + 1 + layer.bilinear)
    if isinstance(layer, Scale) and position == 1:
        return range(1)
    if position == 0 and isinstance(layer, (Dense, Depthwise, MaxPool)):
        first = row * layer.stride - layer.pad
        return range(first, first + layer.kernel)
    return range(row, row + 1)


def _geometry(layer: Layer) -> tuple[int, int, int]:
    """Kernel, stride, padding."""
    if isinstance(layer, (Dense, Depthwise, MaxPool)):
        return layer.kernel, layer.stride, layer.pad
    return 1, 1, 0


def executed_rows(layer: Layer) -> int:
    """Rows that a layer works through: its output's, or its input's for a pool."""
    return layer.inputs[0].shape.height if isinstance(layer, Pool) else layer.output.shape.height


def _together(a: Tensor, b: Tensor, places: dict[int, Place]) -> bool:
    return places[id(a)].buffer is places[id(b)].buffer


def _streams(layer: Layer, places: dict[int, Place], tuning: Tuning) -> bool:
    if isinstance(layer, InputLayer):
        return True
    if isinstance(layer, (Pool, Resize, CentreOfMass)):
        return False
    kernel, _, _ = _geometry(layer)
    if layer.output.shape.height == 1 or kernel > LARGEST_STREAMED:
        return False
    bytes_moved = sum(
        t.shape.height * places[id(t)].buffer.row_bytes
        for t in {id(t): t for t in (*layer.inputs, layer.output)}.values()
    )
    return bytes_moved >= tuning.stream_bytes


def _leaves(graph: Graph) -> dict[int, list[Tensor]]:
    """For every concatenation, the tensors that layers write into it."""
    leaves: dict[int, list[Tensor]] = {}
    for layer in graph.layers:
        if isinstance(layer, Concat):
            leaves[id(layer.output)] = [leaf for part in layer.inputs for leaf in leaves.get(id(part), [part])]
    return leaves


def _group(layers: list[Layer], places: dict[int, Place], scale: dict[int, int], tuning: Tuning) -> list[list[Layer]]:
    groups: list[list[Layer]] = []
    open_group, weights = False, 0
    for layer in layers:
        size = (
            int(layer.weights.size) * (4 if layer.steps is None else 1) if isinstance(layer, (Dense, Depthwise)) else 0
        )
        if isinstance(layer, Pool) and groups and any(_together(x.output, layer.inputs[0], places) for x in groups[-1]):
            groups[-1].append(layer)
            continue
        stream = _streams(layer, places, tuning)
        depth = (
            scale[id(layer.output)] // scale[id(groups[-1][0].output)] if groups and not isinstance(layer, Pool) else 1
        )
        if stream and open_group and weights + size <= tuning.group_weights and depth <= tuning.max_rate:
            groups[-1].append(layer)
            weights += size
        else:
            groups.append([layer])
            weights = size
        open_group = stream
    return groups


def _schedule(
    layers: list[Layer], leaves: dict[int, list[Tensor]], scale: dict[int, int], tuning: Tuning, index: int
) -> Group:
    """Give each layer of a group its rate and lag."""
    band, turns = tuning.band, tuning.turns or (1 if any(layer.output.step is not None for layer in layers) else 2)
    deepest = max(scale[id(layer.output)] for layer in layers if not isinstance(layer, Pool))
    lags: dict[int, int] = {}
    if any(_pairs(layer) and scale[id(layer.output)] == deepest for layer in layers):
        band *= 2
    alone = sum(not isinstance(layer, Pool) for layer in layers) == 1
    steps = []
    for number, layer in enumerate(layers):
        own = scale[id(layer.inputs[0])] if isinstance(layer, Pool) else scale[id(layer.output)]
        kernel, stride, pad = _geometry(layer)
        lag = 0
        for position, tensor in enumerate(layer.inputs):
            k, s, p = (kernel, stride, pad) if position == 0 else (1, 1, 0)
            for leaf in leaves.get(id(tensor), [tensor]):
                if id(leaf) in lags:
                    lag = max(lag, -(-(lags[id(leaf)] + k - s - p) // s))
        if not isinstance(layer, Pool):
            lags[id(layer.output)] = lag
        height = executed_rows(layer)
        rate = height if alone else band * max(1, deepest // own)
        steps.append(Step(layer, index + number, rate, lag, height))
    ticks = max(-(-(step.height + step.lag) // step.rate) for step in steps)
    if not alone:
        _take_turns(steps, turns)
    return Group(steps, ticks)


def _pairs(layer: Layer) -> bool:
    """Whether a layer's kernels are quicker with two rows at once."""
    return isinstance(layer, Depthwise) and layer.kernel == 3 and layer.stride == 1 and layer.steps is None


def _take_turns(steps: list[Step], turns: int) -> None:
    """Let the first layers, those of the largest maps, take turns in a tick: what one writes the next finds nearby.

    Up to the first layer that would be left with too few rows: 3x3 depthwise layers work on pairs.
    """
    first: list[Step] = []
    for step in steps:
        if step.rate % turns or step.rate < turns * (2 if _pairs(step.layer) else 1):
            break
        first.append(step)
    if any(isinstance(step.layer, Depthwise) for step in first):
        for step in first:
            step.rate, step.turns = step.rate // turns, turns


def _ring_rows(plan_groups: list[Group], places: dict[int, Place], keep: set[int]) -> None:
    """Shrink buffers that live inside one group to the rows that are ever alive together."""
    for group in plan_groups:
        written: dict[int, dict[int, int]] = {}
        read: dict[int, dict[int, int]] = {}
        buffers: dict[int, Buffer] = {}
        for clock, (step, rows) in enumerate(group.in_order(), 1):
            for row in rows:
                for position, tensor in enumerate(step.layer.inputs):
                    buffer = places[id(tensor)].buffer
                    for source in input_rows(step.layer, row, position):
                        if 0 <= source < buffer.height:
                            read.setdefault(id(buffer), {})[source] = clock
                if not isinstance(step.layer, Pool):
                    buffer = places[id(step.layer.output)].buffer
                    buffers[id(buffer)] = buffer
                    written.setdefault(id(buffer), {}).setdefault(row, clock)
        for key, buffer in buffers.items():
            if key in keep:
                continue
            first, last = written[key], read.get(key, {})
            for size in range(1, buffer.height + 1):
                if all(first[row + size] > last.get(row, 0) for row in range(buffer.height - size)):
                    buffer.rows = size
                    break


def _arena(buffers: list[Buffer]) -> tuple[int, int]:
    """Place buffers by size, each at the lowest free offset; returns the arena's size and its lower bound."""
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (-b.size, b.first, b.name)):
        taken = sorted(
            (o.offset, o.offset + o.size) for o in placed if o.first <= buffer.last and buffer.first <= o.last
        )
        offset = 0
        for low, high in taken:
            if offset + buffer.size <= low:
                break
            offset = max(offset, high)
        buffer.offset = offset
        placed.append(buffer)
    moments = {b.first for b in buffers}
    bound = max((sum(b.size for b in buffers if b.first <= m <= b.last) for m in moments), default=0)
    return max((b.offset + b.size for b in buffers), default=0), bound


def _scales(layers: list[Layer], face: Tensor) -> dict[int, int]:
    """How many input rows one row of each tensor stands for; enlarged maps are as other maps of their height."""
    scale, of_height = {id(face): 1}, {face.shape.height: 1}
    for layer in layers:
        own = scale[id(layer.inputs[0])] if layer.inputs else 1
        height = layer.output.shape.height
        if isinstance(layer, Resize):
            own = of_height.get(height, max(1, own * layer.inputs[0].shape.height // height))
        scale[id(layer.output)] = own * _geometry(layer)[1]
        of_height.setdefault(height, scale[id(layer.output)])
    return scale


def make_plan(graph: Graph, tuning: Tuning) -> Plan:
    """Lay out, group, schedule and place everything."""
    layouts = Layouts(graph, tuning.tight)
    face = graph.input
    for layer in graph.consumers(face):
        if not isinstance(layer, Dense) or layer.pad != layer.kernel // 2 or layer.pad < 1:
            raise InputError("C export: the face may only be read by convolutions of odd size, half of it as padding")
    places: dict[int, Place] = {}
    buffers: list[Buffer] = []
    row = padded((face.shape.width + 2 * face_pad(graph)) * 3 * element(face) + FACE_SLACK, ALIGN)
    buffers.append(Buffer("face", face.shape.height, row, 3, face.shape.height))
    places[id(face)] = Place(buffers[0], 0, Pixel((3,)))
    homes: dict[int, Buffer] = {}
    for layer in graph.layers:
        home, lane = layouts.home(layer.output)
        if id(home) not in homes:
            shape = home.shape
            step = _pixel_step(graph, home, layouts.pixel(home).lanes)
            homes[id(home)] = Buffer(home.name, shape.height, step * shape.width * element(home), step, shape.height)
            buffers.append(homes[id(home)])
        places[id(layer.output)] = Place(
            homes[id(home)], lane, layouts.pixel(layer.output), layouts.left_over(layer.output)
        )
    work: list[Layer] = [InputLayer([], face, "input"), *(x for x in graph.layers if not isinstance(x, Concat))]
    scale = _scales([InputLayer([], face, "input"), *graph.layers], face)
    leaves = _leaves(graph)
    groups: list[Group] = []
    index = 0
    for members in _group(work, places, scale, tuning):
        groups.append(_schedule(members, leaves, scale, tuning, index))
        index += len(members)
    _lifetimes(groups, places, graph)
    inside = {id(b) for b in buffers if b.first != b.last or b is places[id(graph.output)].buffer}
    _ring_rows(groups, places, inside)
    for number, group in enumerate(groups):
        _scratch(group, number, places, is_int8(graph))
        buffers.extend(group.scratch)
    arena, bound = _arena(buffers)
    if arena > MAX_ARENA:
        raise InputError(f"C export: the model needs {arena} bytes of working memory, the limit is {MAX_ARENA}")
    return Plan(graph, groups, places, buffers, arena, bound, tuning.tight)


def face_pad(graph: Graph) -> int:
    """Zero pixels on either side of a row of the face."""
    return max((layer.pad for layer in graph.consumers(graph.input) if isinstance(layer, Dense)), default=1)


def _pixel_step(graph: Graph, home: Tensor, lanes: int) -> int:
    """Elements from pixel to pixel: an odd number of cache lines, so that pixels spread over the whole cache.

    Maps that a larger kernel reads keep their pixels side by side.
    """
    whole = any(isinstance(layer, Dense) and layer.kernel > 1 for layer in graph.consumers(home))
    if home.step is not None or home.shape.height == 1 or whole:
        return lanes
    return lanes + VECTOR * (1 - lanes // VECTOR % 2)


def _lifetimes(groups: list[Group], places: dict[int, Place], graph: Graph) -> None:
    for number, group in enumerate(groups):
        for step in group.steps:
            for tensor in (*step.layer.inputs, step.layer.output):
                buffer = places[id(tensor)].buffer
                buffer.first = number if buffer.first < 0 else buffer.first
                buffer.last = number
    places[id(graph.output)].buffer.last = len(groups)


def gemm_mode(layer: Dense, plan_input: Tensor) -> str:
    """How a dense layer reads its input: "face", "point" (1x1), "whole" (kernel covers the map) or "patch"."""
    if layer.inputs[0] is plan_input:
        return "face"
    shape = layer.inputs[0].shape
    if layer.kernel == 1 and layer.pad == 0 and (layer.stride == 1 or layer.steps is None):
        return "point"
    if layer.pad == 0 and layer.kernel == shape.height == shape.width:
        return "whole"
    return "patch"


def read_step(layer: Dense, source: Buffer, plan_input: Tensor) -> int:
    """Elements from the inputs of one output pixel to those of the next."""
    mode = gemm_mode(layer, plan_input)
    if mode == "face":
        return 3 * layer.stride
    return source.pixel_step * (layer.stride if mode == "point" else layer.kernel**2 if mode == "patch" else 1)


def _scratch(group: Group, number: int, places: dict[int, Place], int8: bool) -> None:
    """Rows of patches for convolutions that gather their neighbourhood first."""
    for step in group.steps:
        layer = step.layer
        gathers = is_ordered(layer, int8) or (layer.inputs and places[id(layer.inputs[0])].buffer.name != "face")
        if isinstance(layer, Dense) and gathers and gemm_mode(layer, layer.output) == "patch":
            lanes = layer.kernel**2 * places[id(layer.inputs[0])].buffer.pixel_step
            row = lanes * layer.output.shape.width * element(layer.inputs[0]) * patch_band(layer, group, places)
            group.scratch.append(Buffer(f"patches of {layer.name}", 1, row, lanes, 1, number, number))


def patch_band(layer: Dense, group: Group, places: dict[int, Place]) -> int:
    """Rows of patches that one matrix product works on."""
    whole = all(places[id(t)].buffer.full for t in (*layer.inputs[1:], layer.output)) and group.ticks == 1
    if layer.steps is not None or not whole or layer.weights.nbytes <= BAND_WEIGHTS:
        return 1
    return max(1, min(layer.output.shape.height, BAND_PIXELS // layer.output.shape.width))


def vectors(count: int) -> int:
    return padded(count) // VECTOR
