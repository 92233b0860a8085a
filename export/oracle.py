"""The int8 network in exact integers, in numpy: what every kernel of ours must reproduce byte for byte.

It reads an ONNX Q/DQ file and runs it as docs/int8.md defines. Products of int8 values are summed exactly; a sum
becomes int8 by one float32 multiplication per channel, rounded to even; float sums run in the order the page fixes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from runtime.errors import InputError

Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]
Float = NDArray[np.float32]

_EXACT_IN_SINGLE = 1 << 24
_BATCH = 16


@dataclass(frozen=True)
class Stored:
    """A tensor in memory: int8 values of one step."""

    codes: Int8
    step: np.float32


@dataclass(frozen=True)
class Term:
    """Integers of which one unit is worth `unit` (per channel)."""

    values: NDArray[Any]
    unit: NDArray[np.float64]

    def times(self, step: float) -> Float:
        """One float32 multiplication per value; the multiplier is rounded once, from float64."""
        multiplier = (self.unit / np.float64(step)).astype(np.float32)
        return self.values.astype(np.float32) * multiplier[:, None, None]


@dataclass(frozen=True)
class Pending:
    """A result still in the accumulator: one term, or two that are being added, perhaps clipped."""

    terms: tuple[Term, ...]
    low: float = -np.inf
    high: float = np.inf

    def scaled(self, step: float) -> Float:
        result = self.terms[0].times(step)
        for term in self.terms[1:]:
            result = result + term.times(step)
        return result


@dataclass(frozen=True)
class Real:
    """A float32 tensor."""

    values: Float


@dataclass(frozen=True)
class Parts:
    """Results side by side along the channels."""

    pieces: tuple[Any, ...]


@dataclass
class Result:
    """Outputs of a run and, by tensor name, every int8 tensor that was stored."""

    output: Float
    stored: dict[str, Int8] = field(default_factory=dict)


def quantise(value: Any, step: np.float32) -> Int8:
    """The int8 form of any result, by the rules of docs/int8.md."""
    if isinstance(value, Parts):
        return np.concatenate([quantise(piece, step) for piece in value.pieces], axis=1)
    if isinstance(value, Real):
        return _clamp(np.rint(value.values / step), -128, 127)
    if isinstance(value, Stored):
        if value.step == step:
            return value.codes
        return quantise(Pending((_stored_term(value),)), step)
    low, high = -128, 127
    if value.low == 0:
        low = 0
    if np.isfinite(value.high):
        high = int(min(127, np.rint(np.float64(value.high) / np.float64(step))))
    return _clamp(np.rint(value.scaled(float(step))), low, high)


def real(value: Any) -> Float:
    """The float32 form of any result."""
    if isinstance(value, Real):
        return value.values
    if isinstance(value, Parts):
        return np.concatenate([real(piece) for piece in value.pieces], axis=1)
    if isinstance(value, Stored):
        return value.codes.astype(np.float32) * value.step
    result = value.scaled(1.0)
    if np.isfinite(value.low):
        result = np.maximum(result, np.float32(value.low))
    if np.isfinite(value.high):
        result = np.minimum(result, np.float32(value.high))
    return np.asarray(result, dtype=np.float32)


def _clamp(values: NDArray[Any], low: int, high: int) -> Int8:
    return np.asarray(np.clip(values, low, high), dtype=np.int8)


def _stored_term(value: Stored) -> Term:
    return Term(value.codes, np.full(value.codes.shape[1], np.float64(value.step)))


class Oracle:
    """An int8 ONNX file as an exact integer program."""

    def __init__(self, model: ModelProto, where: str = "model") -> None:
        self.where = where
        self.constants = {t.name: np.asarray(numpy_helper.to_array(t)) for t in model.graph.initializer}
        self.nodes = list(model.graph.node)
        self.input = next(v.name for v in model.graph.input if v.name not in self.constants)
        self.output = model.graph.output[0].name
        self.weights: dict[str, tuple[Int8, Float]] = {}
        unknown = [n for n in self.nodes if n.op_type not in _RUN]
        if unknown:
            raise InputError(f"{where}: operator {unknown[0].op_type} has no integer meaning; known: {', '.join(_RUN)}")
        for node in self.nodes:
            if node.op_type == "DequantizeLinear" and node.input[0] in self.constants:
                codes, steps = self.constants[node.input[0]], self.constants[node.input[1]]
                if codes.dtype != np.int8:
                    raise self.fail(node, f"weights of type {codes.dtype}, expected int8")
                self.weights[node.output[0]] = (codes, np.broadcast_to(steps, codes.shape[:1]).astype(np.float32))
            if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2:
                zero = self.constants.get(node.input[2])
                if zero is None or zero.dtype != np.int8 or zero.any():
                    raise self.fail(node, "expected the constant int8 zero point 0")

    def fail(self, node: NodeProto, what: str) -> InputError:
        return InputError(f"{self.where}: {node.op_type} {node.name or node.output[0]!r}: {what}")

    def run(self, batch: Float, keep: bool = False) -> Result:
        """Outputs for a normalised float32 batch; with `keep` also the stored tensors."""
        parts = [self._run(batch[first : first + _BATCH], keep) for first in range(0, len(batch), _BATCH)]
        stored = {name: np.concatenate([part.stored[name] for part in parts]) for name in parts[0].stored}
        return Result(np.concatenate([part.output for part in parts]), stored)

    def _run(self, batch: Float, keep: bool) -> Result:
        values: dict[str, Any] = {self.input: Real(np.asarray(batch, dtype=np.float32))}
        stored: dict[str, Int8] = {}
        for node in self.nodes:
            if node.output[0] in self.weights:
                continue
            made = _RUN[node.op_type](self, node, values)
            values[node.output[0]] = made
            if keep and node.op_type == "QuantizeLinear":
                stored[node.output[0]] = made.codes
        return Result(real(values[self.output]), stored)

    def attributes(self, node: NodeProto) -> dict[str, Any]:
        return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def quantize(self, node: NodeProto, values: dict[str, Any]) -> Stored:
        step = np.float32(self.constants[node.input[1]])
        return Stored(quantise(values[node.input[0]], step), step)

    def conv(self, node: NodeProto, values: dict[str, Any]) -> Pending | Real:
        source, attributes = values[node.input[0]], self.attributes(node)
        pads, strides = attributes.get("pads", [0] * 4), attributes.get("strides", [1, 1])
        groups = int(attributes.get("group", 1))
        bias = self.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else None
        if node.input[1] not in self.weights:
            weight = self.constants[node.input[1]]
            return Real(_float_conv(real(source), weight, bias, pads, strides, groups))
        codes, steps = self.weights[node.input[1]]
        if not isinstance(source, Stored):
            raise self.fail(node, "int8 weights and an input that is not int8")
        unit = np.float64(source.step) * steps.astype(np.float64)
        total = convolve(source.codes, codes, pads, strides, groups)
        if bias is not None:
            whole = np.clip(np.rint(bias.astype(np.float64) / unit), -(2**31), 2**31 - 1).astype(np.int32)
            total = total + whole[:, None, None]
        return Pending((Term(total, unit),))

    def add(self, node: NodeProto, values: dict[str, Any]) -> Any:
        left, right = (values[name] for name in node.input)
        terms = []
        for value in (left, right):
            if isinstance(value, Stored):
                terms.append(_stored_term(value))
            elif isinstance(value, Pending) and len(value.terms) == 1 and value.low == -np.inf and value.high == np.inf:
                terms.append(value.terms[0])
            else:
                return Real(real(left) + real(right))
        return Pending(tuple(terms))

    def clip(self, node: NodeProto, values: dict[str, Any]) -> Any:
        attributes = self.attributes(node)
        low, high = 0.0, np.inf
        if node.op_type == "Clip":
            limits = [float(self.constants[name]) if name else None for name in [*node.input[1:], "", ""][:2]]
            low = float(attributes.get("min", 0.0)) if limits[0] is None else limits[0]
            high = float(attributes.get("max", np.inf)) if limits[1] is None else limits[1]
        return _clipped(values[node.input[0]], low, high)

    def concat(self, node: NodeProto, values: dict[str, Any]) -> Any:
        pieces = tuple(values[name] for name in node.input)
        if all(isinstance(piece, Real) for piece in pieces):
            return Real(np.concatenate([piece.values for piece in pieces], axis=1))
        return Parts(pieces)

    def slice(self, node: NodeProto, values: dict[str, Any]) -> Any:
        attributes, value = self.attributes(node), values[node.input[0]]
        old = "ends" in attributes
        start = attributes["starts"][0] if old else int(self.constants[node.input[1]].reshape(-1)[0])
        end = attributes["ends"][0] if old else int(self.constants[node.input[2]].reshape(-1)[0])
        return _channels(value, range(int(start), min(int(end), _shape(value)[1])))

    def gather(self, node: NodeProto, values: dict[str, Any]) -> Any:
        return _channels(values[node.input[0]], [int(c) for c in self.constants[node.input[1]].reshape(-1)])

    def hard_sigmoid(self, node: NodeProto, values: dict[str, Any]) -> Real:
        attributes = self.attributes(node)
        return Real(_ramp(real(values[node.input[0]]), attributes.get("alpha", 0.2), attributes.get("beta", 0.5)))

    def hard_swish(self, node: NodeProto, values: dict[str, Any]) -> Real:
        array = real(values[node.input[0]])
        return Real(array * _ramp(array, 1 / 6, 0.5))

    def mul(self, node: NodeProto, values: dict[str, Any]) -> Real:
        left, right = (real(values[name]) for name in node.input)
        return Real(left * right)

    def max_pool(self, node: NodeProto, values: dict[str, Any]) -> Stored | Real:
        source, attributes = values[node.input[0]], self.attributes(node)
        pads, strides = list(attributes.get("pads", [0] * 4)), list(attributes.get("strides", [1, 1]))
        kernel = tuple(attributes["kernel_shape"])
        if isinstance(source, Stored):
            return Stored(_largest(source.codes, kernel, pads, strides), source.step)
        return Real(_largest(real(source), kernel, pads, strides))

    def pool(self, node: NodeProto, values: dict[str, Any]) -> Real:
        source, attributes = values[node.input[0]], self.attributes(node)
        height, width = _shape(source)[2:]
        kernel = attributes.get("kernel_shape", [height, width])
        if list(kernel) != [height, width]:
            raise self.fail(node, f"a window of {list(kernel)} on {height} x {width}; only the mean of all is defined")
        count = height * width
        if isinstance(source, Stored):
            total = source.codes.astype(np.int32).sum(axis=(2, 3), dtype=np.int32)
            pooled = total.astype(np.float32) * np.float32(np.float64(source.step) / count)
        else:
            pooled = _sequential_sum(real(source).reshape(*_shape(source)[:2], count)) * np.float32(1.0 / count)
        flat = node.op_type == "ReduceMean" and not attributes.get("keepdims", 1)
        return Real(pooled if flat else pooled[:, :, None, None])

    def flatten(self, node: NodeProto, values: dict[str, Any]) -> Any:
        value = values[node.input[0]]
        array = real(value)
        return Real(array.reshape(len(array), -1))

    def gemm(self, node: NodeProto, values: dict[str, Any]) -> Real:
        weight = self.constants[node.input[1]].astype(np.float32)
        weight = weight.T if self.attributes(node).get("transB", 0) else weight
        array = real(values[node.input[0]])
        total = np.zeros((len(array), weight.shape[1]), dtype=np.float32)
        if len(node.input) > 2 and node.input[2]:
            total = total + self.constants[node.input[2]].astype(np.float32)
        for row in range(weight.shape[0]):
            total = total + array[:, row : row + 1] * weight[row]
        return Real(total)


def _same(_: Oracle, node: NodeProto, values: dict[str, Any]) -> Any:
    return values[node.input[0]]


_RUN: dict[str, Callable[[Oracle, NodeProto, dict[str, Any]], Any]] = {
    "QuantizeLinear": Oracle.quantize,
    "DequantizeLinear": _same,
    "Conv": Oracle.conv,
    "Relu": Oracle.clip,
    "Clip": Oracle.clip,
    "Add": Oracle.add,
    "Concat": Oracle.concat,
    "Slice": Oracle.slice,
    "Gather": Oracle.gather,
    "HardSigmoid": Oracle.hard_sigmoid,
    "HardSwish": Oracle.hard_swish,
    "MaxPool": Oracle.max_pool,
    "Mul": Oracle.mul,
    "AveragePool": Oracle.pool,
    "GlobalAveragePool": Oracle.pool,
    "ReduceMean": Oracle.pool,
    "Reshape": Oracle.flatten,
    "Flatten": Oracle.flatten,
    "Squeeze": Oracle.flatten,
    "Identity": _same,
    "Dropout": _same,
    "Gemm": Oracle.gemm,
}


def _shape(value: Any) -> tuple[int, ...]:
    if isinstance(value, Parts):
        shapes = [_shape(piece) for piece in value.pieces]
        return (shapes[0][0], sum(shape[1] for shape in shapes), *shapes[0][2:])
    if isinstance(value, Pending):
        return tuple(value.terms[0].values.shape)
    return tuple((value.codes if isinstance(value, Stored) else value.values).shape)


def _clipped(value: Any, low: float, high: float) -> Any:
    if isinstance(value, Parts):
        return Parts(tuple(_clipped(piece, low, high) for piece in value.pieces))
    if isinstance(value, Pending):
        return replace(value, low=max(low, value.low), high=min(high, value.high))
    return Real(np.clip(real(value), np.float32(low), np.float32(high)))


def _channels(value: Any, channels: Sequence[int]) -> Any:
    """Channels of any result, in the order asked for."""
    if isinstance(value, Parts):
        homes = [(piece, c) for piece in value.pieces for c in range(_shape(piece)[1])]
        runs: list[tuple[Any, list[int]]] = []
        for piece, channel in (homes[c] for c in channels):
            if runs and runs[-1][0] is piece:
                runs[-1][1].append(channel)
            else:
                runs.append((piece, [channel]))
        return Parts(tuple(_channels(piece, wanted) for piece, wanted in runs))
    order = list(channels)
    if isinstance(value, Pending):
        return replace(value, terms=tuple(Term(t.values[:, order], t.unit[order]) for t in value.terms))
    if isinstance(value, Stored):
        return Stored(value.codes[:, order], value.step)
    return Real(value.values[:, order])


def _ramp(values: Float, slope: float, shift: float) -> Float:
    """clip(slope * x + shift, 0, 1), every operation rounded to float32."""
    line = values * np.float32(slope) + np.float32(shift)
    return np.asarray(np.minimum(np.maximum(line, np.float32(0)), np.float32(1)), dtype=np.float32)


def _largest(values: NDArray[Any], kernel: tuple[int, ...], pads: list[int], strides: list[int]) -> Any:
    """The largest value of every window; padding never wins."""
    lowest = np.iinfo(values.dtype).min if values.dtype.kind == "i" else -np.inf
    top, left, bottom, right = pads
    padded = np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=lowest)
    found = [window for window, _, _ in _windows(padded, kernel, [0] * 4, strides)]
    return np.maximum.reduce(found)


def convolve(codes: Int8, weight: Int8, pads: list[int], strides: list[int], groups: int) -> Int32:
    """Exact int32 sums of int8 products; padding is the value 0."""
    if weight.shape[1] == 1 and groups == codes.shape[1] == weight.shape[0]:
        total: Int32 | None = None
        for window, y, x in _windows(codes, weight.shape[2:], pads, strides):
            product = window.astype(np.int32) * weight[:, 0, y, x].astype(np.int32)[:, None, None]
            total = product if total is None else total + product
        assert total is not None  # noqa: S101  (a kernel has at least one place)
        return total
    faces, outs, per_group = len(codes), weight.shape[0] // groups, weight.shape[1]
    kind = np.float32 if weight[0].size * 127 * 128 < _EXACT_IN_SINGLE else np.float64
    windows = [w for w, _, _ in _windows(codes, weight.shape[2:], pads, strides)]
    height, width = windows[0].shape[2:]
    stacked = np.stack(windows, axis=2).astype(kind)
    result = np.empty((faces, weight.shape[0], height, width), dtype=np.int32)
    for group in range(groups):
        columns = stacked[:, group * per_group : (group + 1) * per_group].reshape(faces, -1, height * width)
        rows = weight[group * outs : (group + 1) * outs].reshape(outs, -1).astype(kind)
        sums = np.matmul(rows, columns)
        result[:, group * outs : (group + 1) * outs] = sums.reshape(faces, outs, height, width)
    return result


def _windows(
    values: NDArray[Any], kernel: tuple[int, ...], pads: list[int], strides: list[int]
) -> list[tuple[NDArray[Any], int, int]]:
    """The input as each place of the kernel sees it, rows first."""
    top, left, bottom, right = pads
    padded = np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)))
    height = (padded.shape[2] - kernel[0]) // strides[0] + 1
    width = (padded.shape[3] - kernel[1]) // strides[1] + 1
    found: list[tuple[NDArray[Any], int, int]] = []
    for y in range(kernel[0]):
        rows = padded[:, :, y : y + (height - 1) * strides[0] + 1 : strides[0]]
        last = (width - 1) * strides[1] + 1
        found.extend((rows[:, :, :, x : x + last : strides[1]], y, x) for x in range(kernel[1]))
    return found


def _float_conv(
    values: Float, weight: NDArray[Any], bias: NDArray[Any] | None, pads: list[int], strides: list[int], groups: int
) -> Float:
    """Float sums in the order of the weight's memory: bias first, then input channel, kernel row, kernel column."""
    weight = weight.astype(np.float32)
    windows = [w for w, _, _ in _windows(values, weight.shape[2:], pads, strides)]
    height, width = windows[0].shape[2:]
    total = np.zeros((len(values), weight.shape[0], height, width), dtype=np.float32)
    if bias is not None:
        total = total + bias.astype(np.float32)[:, None, None]
    outs, per_group = weight.shape[0] // groups, weight.shape[1]
    flat = weight.reshape(weight.shape[0], per_group, -1)
    source = np.arange(weight.shape[0]) // outs * per_group
    for channel in range(per_group):
        for place, window in enumerate(windows):
            total = total + window[:, source + channel] * flat[:, channel, place][:, None, None]
    return total


def _sequential_sum(values: Float) -> Float:
    total = np.zeros(values.shape[:2], dtype=np.float32)
    for place in range(values.shape[2]):
        total = total + values[:, :, place]
    return total
