"""Operators of the networks that the field compares with: gates, windows, channel shuffles, resizing, heatmaps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx

from export.c.ir import Activate, After, CentreOfMass, MaxPool, Pick, Resize, Scale, Shape, Tensor
from export.c.nodes import attributes, finite, label, refuse, uniform
from runtime.errors import InputError

if TYPE_CHECKING:
    from export.c.read import Reader


@dataclass(frozen=True)
class Formula:
    """clip(slope * x + shift, low, high) of a tensor, not computed until something needs it."""

    node: onnx.NodeProto
    source: Tensor
    flat: bool
    slope: float = 1.0
    shift: float = 0.0
    low: float = -math.inf
    high: float = math.inf

    def times(self, factor: float) -> Formula:
        return replace(
            self,
            slope=self.slope * factor,
            shift=self.shift * factor,
            low=self.low * factor,
            high=self.high * factor,
        )


@dataclass(frozen=True)
class View:
    """Heatmaps on their way to coordinates: flattened, as shares, as pairs of coordinates."""

    tensor: Tensor
    stage: str


def materialise(reader: Reader, formula: Formula) -> Tensor:
    """The layer behind a formula, when the formula is a ramp."""
    if formula.low != 0.0 or formula.high <= 0:
        raise refuse(
            formula.node, f"limits {formula.low:g}..{formula.high:g}", "a ramp from 0, or part of a hard swish"
        )
    after = After("ramp", formula.slope, formula.shift, formula.high)
    out = Tensor(formula.node.output[0], formula.source.shape)
    reader.emit(formula.node, Activate([formula.source], out, after=after), flat=formula.flat)
    return out


def formula_of(reader: Reader, node: onnx.NodeProto, name: str) -> Formula:
    known = reader.formulas.get(name)
    return replace(known, node=node) if known else Formula(node, reader.tensor(name), name in reader.flat)


def number(reader: Reader, name: str) -> float | None:
    """The value of a constant with one element."""
    value = reader.constants.get(name)
    if value is None or value.size != 1 or not np.isfinite(value.astype(np.float64)).all():
        return None
    return float(value.reshape(-1)[0])


def hard_sigmoid(reader: Reader, node: onnx.NodeProto) -> None:
    attrs = attributes(node)
    formula = Formula(node, reader.tensor(node.input[0]), node.input[0] in reader.flat)
    reader.formulas[node.output[0]] = replace(
        formula, slope=float(attrs.get("alpha", 0.2)), shift=float(attrs.get("beta", 0.5)), low=0.0, high=1.0
    )


def hard_swish(reader: Reader, node: onnx.NodeProto) -> None:
    _gate(reader, node, node.input[0], After("gate", 1 / 6, 0.5, 1.0))


def _gate(reader: Reader, node: onnx.NodeProto, name: str, after: After) -> None:
    x = reader.tensor(name)
    reader.emit(node, Activate([x], Tensor(node.output[0], x.shape), after=after), flat=name in reader.flat)


def sigmoid(reader: Reader, node: onnx.NodeProto) -> None:
    _gate(reader, node, node.input[0], After("sigmoid"))


def clip(reader: Reader, node: onnx.NodeProto, low: float, high: float) -> None:
    """A Clip that is no Relu."""
    formula = formula_of(reader, node, node.input[0])
    if math.isfinite(formula.low) or math.isfinite(formula.high):
        raise refuse(node, "a clip of something clipped", "one Clip")
    reader.formulas[node.output[0]] = replace(formula, low=low, high=high)


def add_number(reader: Reader, node: onnx.NodeProto) -> bool:
    """Plus a constant number, as the hard activations are written out; False: the addition is something else."""
    for name, other in ((node.input[0], node.input[1]), (node.input[1], node.input[0])):
        value = number(reader, other)
        if value is not None and name not in reader.constants:
            formula = formula_of(reader, node, name)
            if math.isfinite(formula.low) or math.isfinite(formula.high):
                raise refuse(node, "an addition behind a Clip", "the form of a hard sigmoid")
            reader.formulas[node.output[0]] = replace(formula, shift=formula.shift + value)
            return True
    return False


def multiply(reader: Reader, node: onnx.NodeProto) -> None:
    """By a number, by a vector of factors, or a tensor by its own ramp."""
    names = list(node.input)
    for name, other in (names, names[::-1]):
        value = number(reader, other)
        if value is not None and name not in reader.constants:
            _times(reader, node, name, value)
            return
        ramp = reader.formulas.get(other)
        if ramp is not None and reader.tensors.get(name) is ramp.source and ramp.low == 0.0:
            _gate(reader, node, name, After("gate", ramp.slope, ramp.shift, ramp.high))
            return
    a, b = (reader.tensor(name) for name in names)
    if (a.shape.height, a.shape.width) == (1, 1):
        a, b, names = b, a, names[::-1]
    if b.shape != Shape(1, 1, a.shape.channels) or (names[0] in reader.flat) != (names[1] in reader.flat):
        raise refuse(node, f"{a.shape} times {b.shape}", "a map times one factor per channel, or times its own ramp")
    reader.emit(node, Scale([a, b], Tensor(node.output[0], a.shape)), flat=names[0] in reader.flat)


def divide(reader: Reader, node: onnx.NodeProto) -> None:
    value = number(reader, node.input[1])
    if value is None or value == 0 or node.input[0] in reader.constants:
        raise refuse(node, "a division by something that varies", "a division by a constant number")
    _times(reader, node, node.input[0], 1 / value)


def _times(reader: Reader, node: onnx.NodeProto, name: str, factor: float) -> None:
    made = next((x for x in reader.layers if x.output is reader.tensors.get(name)), None)
    if isinstance(made, Activate) and made.after.kind == "gate" and factor > 0 and not reader.is_read(made.output):
        gate = made.after
        made.after = After("gate", gate.slope * factor, gate.shift * factor, gate.high * factor)
        reader.alias(node, name in reader.flat)
        return
    formula = formula_of(reader, node, name)
    if factor <= 0:
        raise refuse(node, f"the factor {factor:g}", "a positive one")
    reader.formulas[node.output[0]] = formula.times(factor)


def max_pool(reader: Reader, node: onnx.NodeProto) -> None:
    x, attrs = reader.tensor(node.input[0]), attributes(node)
    kernel = uniform(node, list(attrs["kernel_shape"]), "window")
    stride = uniform(node, list(attrs.get("strides", [1, 1])), "strides")
    pad = uniform(node, list(attrs.get("pads", [0, 0, 0, 0])), "pads")
    plain = attrs.get("auto_pad", b"NOTSET") == b"NOTSET" and not attrs.get("ceil_mode", 0)
    if not plain or set(attrs.get("dilations", [1])) != {1} or not 0 <= pad < kernel or not 1 <= kernel <= 16:
        raise refuse(node, f"its window {kernel}, pads {pad} or rounding", "a plain window larger than its padding")
    size = [(extent + 2 * pad - kernel) // stride + 1 for extent in (x.shape.height, x.shape.width)]
    out = Tensor(node.output[0], Shape(size[0], size[1], x.shape.channels))
    reader.emit(node, MaxPool([x], out, kernel=kernel, stride=stride, pad=pad))


def pick(reader: Reader, node: onnx.NodeProto, channels: list[int]) -> None:
    """A choice of channels."""
    x = reader.tensor(node.input[0])
    out = Tensor(node.output[0], Shape(x.shape.height, x.shape.width, len(channels)))
    reader.emit(node, Pick([x], out, channels=tuple(channels)), flat=node.input[0] in reader.flat)


def gather(reader: Reader, node: onnx.NodeProto) -> None:
    x, indices = reader.tensor(node.input[0]), reader.constant(node, 1)
    rank = 2 if node.input[0] in reader.flat else 4
    found = [int(i) for i in indices.reshape(-1)]
    count = x.shape.channels
    if indices.ndim != 1 or attributes(node).get("axis", 0) % rank != 1 or any(not -count <= i < count for i in found):
        raise refuse(node, f"axis {attributes(node).get('axis', 0)}", "a list of channels")
    pick(reader, node, [i % count for i in found])


def resize(reader: Reader, node: onnx.NodeProto) -> None:
    x, attrs = reader.tensor(node.input[0]), attributes(node)
    extents = [1, x.shape.channels, x.shape.height, x.shape.width]
    if len(node.input) > 3 and node.input[3]:
        wanted = [int(v) for v in reader.constant(node, 3)]
        scales = [np.float32(w) / np.float32(e) for w, e in zip(wanted, extents, strict=False)]
    else:
        scales = [np.float32(v) for v in reader.constant(node, 2)]
        wanted = [math.floor(e * float(s)) for e, s in zip(extents, scales, strict=False)]
    mode, place = attrs.get("mode", b"nearest"), attrs.get("coordinate_transformation_mode", b"half_pixel")
    ways = {
        (b"nearest", b"asymmetric", b"floor"): False,
        (b"linear", b"half_pixel", b""): True,
        (b"linear", b"pytorch_half_pixel", b""): True,
    }
    rounding = attrs.get("nearest_mode", b"round_prefer_floor") if mode == b"nearest" else b""
    if (mode, place, rounding) not in ways or attrs.get("antialias", 0) or attrs.get("axes"):
        raise refuse(node, f"{mode.decode()}, {place.decode()}", "nearest (asymmetric, floor) or linear (half_pixel)")
    if len(wanted) != 4 or wanted[:2] != extents[:2] or any(w < e for w, e in zip(wanted, extents, strict=True)):
        raise refuse(node, f"{x.shape} to {wanted}", "both sides larger, the same channels")
    for extent, size, scale in zip(extents[2:], wanted[2:], scales[2:], strict=True):
        places = np.arange(size)
        there = np.minimum(np.floor(places.astype(np.float32) / scale), extent - 1)
        if abs(extent * float(scale) - size) > 1e-3 or (there != places * extent // size).any():
            raise refuse(
                node, f"{extent} to {size} by {float(scale):g}", "a factor that is output size over input size"
            )
    out = Tensor(node.output[0], Shape(wanted[2], wanted[3], x.shape.channels))
    reader.emit(node, Resize([x], out, bilinear=ways[mode, place, rounding]))


def flatten_maps(reader: Reader, node: onnx.NodeProto, target: list[int]) -> bool:
    """A Reshape to (batch, channels, places); False: it is another one."""
    shape = reader.tensor(node.input[0]).shape
    if len(target) != 3 or node.input[0] in reader.flat:
        return False
    places = shape.height * shape.width
    if target[0] not in (0, 1, -1) or target[1] not in (0, shape.channels) or target[2] not in (-1, places):
        return False
    reader.views[node.output[0]] = View(reader.tensor(node.input[0]), "maps")
    return True


def softmax(reader: Reader, node: onnx.NodeProto) -> None:
    view = reader.views.get(node.input[0])
    if view is None or view.stage != "maps" or attributes(node).get("axis", -1) not in (2, -1):
        raise refuse(node, "its place or axis", "a Softmax over the places of flattened heatmaps")
    reader.views[node.output[0]] = View(view.tensor, "shares")


def centre_of_mass(reader: Reader, node: onnx.NodeProto) -> bool:
    """The product of shares and the places of their cells; False: the MatMul is another one."""
    view = reader.views.get(node.input[0])
    if view is None or view.stage != "shares":
        return False
    cells, shape = finite(node, reader.constant(node, 1)), view.tensor.shape
    if cells.shape != (shape.height * shape.width, 2):
        raise refuse(node, f"a matrix of {cells.shape}", f"{shape.height * shape.width} places of two coordinates")
    out = Tensor(node.output[0], Shape(1, 1, 2 * shape.channels))
    reader.emit(node, CentreOfMass([view.tensor], out, cells=cells))
    del reader.tensors[node.output[0]]
    reader.views[node.output[0]] = View(out, "pairs")
    return True


def flatten_pairs(reader: Reader, node: onnx.NodeProto) -> bool:
    """Pairs of coordinates to a vector; False: something else is flattened."""
    view = reader.views.get(node.input[0])
    if view is None or view.stage != "pairs":
        return False
    if node.op_type == "Reshape":
        target = [int(v) for v in reader.constant(node, 1)]
        if len(target) != 2 or target[1] not in (-1, view.tensor.shape.channels):
            raise refuse(node, f"target {target}", "a vector")
    elif attributes(node).get("axis", 1) != 1:
        raise InputError(f"C export: {label(node)}: expected axis 1")
    reader.tensors[node.output[0]] = view.tensor
    reader.flat.add(node.output[0])
    return True


MORE: dict[str, Callable[[Reader, onnx.NodeProto], None]] = {
    "Div": divide,
    "Gather": gather,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "MaxPool": max_pool,
    "Mul": multiply,
    "Resize": resize,
    "Sigmoid": sigmoid,
    "Softmax": softmax,
}
