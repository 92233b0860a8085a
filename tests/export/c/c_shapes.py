"""The shapes on which the nets of the zoo call each kernel, taken from the compiler's own plans."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from export.c.ir import Add, Dense, Depthwise, Pool
from export.c.layers import k_runs, layer_of
from export.c.pack import tail_group
from export.c.passes import is_int8
from export.c.plan import Plan, gemm_mode
from export.c.tiles import NEAR_PIXELS


@dataclass(frozen=True)
class GemmShape:
    """A matrix product: pixels x inputs (in runs of one pixel) x vectors of 16 outputs."""

    pixels: int
    runs: tuple[tuple[int, int], ...]
    """(first element, length) of each run."""
    x_step: int
    vectors: int
    y_step: int
    relu: bool
    add: bool
    to_float: bool
    outputs: int
    tail: int = 0
    """How many inputs share the last vector."""

    @property
    def inputs(self) -> int:
        return sum(length for _, length in self.runs)

    @property
    def macs(self) -> int:
        return self.pixels * self.inputs * self.outputs

    def __str__(self) -> str:
        return f"{self.pixels}x{self.inputs}x{self.outputs}{' +add' if self.add else ''}{' relu' if self.relu else ''}"


@dataclass(frozen=True)
class DepthwiseShape:
    """A row (float: two rows) of a 3x3 depthwise convolution."""

    width: int
    stride: int
    channels: int
    x_step: int
    vectors: int
    lanes: int
    y_step: int
    relu: bool

    @property
    def out_width(self) -> int:
        return (self.width + self.stride - 1) // self.stride

    @property
    def macs(self) -> int:
        return self.out_width * self.channels * 9

    def __str__(self) -> str:
        return f"{self.width}x{self.channels} s{self.stride}{' relu' if self.relu else ''}"


@dataclass(frozen=True)
class RowShape:
    """A row of a pool or an addition."""

    pixels: int
    lanes: int
    step: int

    def __str__(self) -> str:
        return f"{self.pixels}x{self.lanes}"


@dataclass(frozen=True)
class Shapes:
    """What one or several plans ask of the kernels."""

    gemm: tuple[GemmShape, ...]
    depthwise: tuple[DepthwiseShape, ...]
    pool: tuple[RowShape, ...]
    add: tuple[RowShape, ...]

    @property
    def near(self) -> set[int]:
        """Pixel steps of the products of one vector that have pixels enough for the largest tile."""
        return {s.x_step for s in self.gemm if s.vectors - (s.tail > 0) == 1 and s.pixels >= NEAR_PIXELS}


def _gemm(plan: Plan, layer: Dense) -> GemmShape:
    source, target = plan.place(layer.inputs[0]), plan.place(layer.output)
    mode = gemm_mode(layer, plan.graph.input)
    spans = source.pixel.spans() if layer.steps is not None else source.pixel.reading(None)[0]
    lengths = k_runs(layer, mode, spans)
    step = source.buffer.pixel_step
    height, width = layer.output.shape.height, layer.output.shape.width
    pixels, x_step = width, step
    if mode == "point":
        starts = [lane for lane, _ in spans]
        pixels = height * width if source.buffer.full and target.buffer.full else width
    elif mode == "face":
        x_step = 3 * layer.stride
        starts = [row * 3 * (layer.inputs[0].shape.width + 2) for row in range(layer.kernel)]
    else:
        x_step = layer.kernel**2 * step
        starts = [tap * step + lane for tap in range(layer.kernel**2) for lane, _ in spans]
    return GemmShape(
        pixels,
        tuple(zip(starts, lengths, strict=True)),
        x_step,
        target.pixel.vectors,
        target.buffer.pixel_step,
        layer.relu,
        len(layer.inputs) > 1,
        layer.output.step is None,
        layer.output.shape.channels,
        tail_group(layer, target.pixel),
    )


def shapes_of(plans: Iterable[Plan]) -> Shapes:
    """Every shape once, in the order of first use. Float layers of an int8 plan are left out."""
    gemm: dict[GemmShape, None] = {}
    depthwise: dict[DepthwiseShape, None] = {}
    pool: dict[RowShape, None] = {}
    add: dict[RowShape, None] = {}
    for plan in plans:
        int8 = is_int8(plan.graph)
        for layer in layer_of(plan):
            source = plan.place(layer.inputs[0]) if layer.inputs else None
            target = plan.place(layer.output)
            if source is None or (int8 and layer.inputs[0].step is None):
                continue
            if isinstance(layer, Dense):
                gemm[_gemm(plan, layer)] = None
            elif isinstance(layer, Depthwise):
                width, channels = layer.inputs[0].shape.width, layer.output.shape.channels
                steps, pixel = (source.buffer.pixel_step, target.buffer.pixel_step), target.pixel
                shape = DepthwiseShape(
                    width, layer.stride, channels, steps[0], pixel.vectors, pixel.lanes, steps[1], layer.relu
                )
                depthwise[shape] = None
            elif isinstance(layer, Pool):
                shape_of_row = RowShape(layer.inputs[0].shape.width, source.pixel.lanes, source.buffer.pixel_step)
                pool[shape_of_row] = None
            elif isinstance(layer, Add):
                add[RowShape(layer.output.shape.width, target.pixel.lanes, target.buffer.pixel_step)] = None
    return Shapes(tuple(gemm), tuple(depthwise), tuple(pool), tuple(add))
