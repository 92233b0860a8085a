"""ONNX -> the compiler's graph. Everything that is not supported is refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.c import read_more
from export.c.ir import Add, Concat, Dense, Depthwise, Graph, Layer, Pool, Quantise, Relu, Shape, Tensor
from export.c.nodes import attributes, finite, label, refuse, uniform
from runtime.errors import InputError

Array = NDArray[Any]
MAX_ELEMENTS = 64 << 20
MAX_NODES = 5000

FOLDABLE = (
    "Cast",
    "Concat",
    "Constant",
    "Gather",
    "Identity",
    "Mul",
    "Reshape",
    "Shape",
    "Slice",
    "Squeeze",
    "Unsqueeze",
)
"""Operators that may also appear in shape arithmetic, which is folded away."""


class Reader:
    """Walks the nodes once; every ONNX value is either a constant or a tensor of the graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.constants: dict[str, Array] = {}
        self.tensors: dict[str, Tensor] = {}
        self.flat: set[str] = set()
        self.codes: dict[str, tuple[Array, Array]] = {}
        self.stored: set[str] = set()
        self.layers: list[Layer] = []
        self.formulas: dict[str, read_more.Formula] = {}
        self.views: dict[str, read_more.View] = {}

    def read(self) -> Graph:
        graph = self.model.graph
        if len(graph.node) > MAX_NODES:
            raise InputError(f"C export: {len(graph.node)} nodes, the limit is {MAX_NODES}")
        for tensor in graph.initializer:
            self.constants[tensor.name] = _constant(tensor)
        face = self._input()
        self._check_ops()
        for node in graph.node:
            if all(name in self.constants for name in node.input if name) and node.op_type in FOLDABLE:
                self._fold(node)
            elif node.op_type == "DequantizeLinear" and node.input[0] in self.constants:
                self._weight_codes(node)
            elif node.op_type == "Shape":
                self.constants[node.output[0]] = self._part_of_shape(node)
            elif node.op_type in HANDLERS:
                HANDLERS[node.op_type](self, node)
            else:
                raise refuse(node, "a feature map as its input", "constants only")
        return Graph(face, self._output(), self.layers)

    def _check_ops(self) -> None:
        known = set(HANDLERS) | set(FOLDABLE)
        unknown = sorted({node.op_type for node in self.model.graph.node} - known)
        if unknown:
            raise InputError(
                f"C export: operator {', '.join(unknown)} is not supported; supported: {', '.join(supported_ops())}"
            )

    def _input(self) -> Tensor:
        names = [value for value in self.model.graph.input if value.name not in self.constants]
        if len(names) != 1:
            raise InputError(f"C export: expected one input, found {len(names)}")
        dims = [d.dim_value for d in names[0].type.tensor_type.shape.dim]
        if len(dims) != 4 or dims[0] not in (0, 1) or dims[1] != 3 or dims[2] != dims[3] or not 16 <= dims[2] <= 1024:
            raise InputError(f"C export: expected an input of shape 1x3xSxS with S in 16..1024, found {dims}")
        self.tensors[names[0].name] = tensor = Tensor(names[0].name, Shape(dims[2], dims[3], 3))
        return tensor

    def _output(self) -> Tensor:
        outputs = self.model.graph.output
        if len(outputs) != 1:
            raise InputError(f"C export: expected one output, found {len(outputs)}")
        tensor = self.tensors.get(outputs[0].name)
        if tensor is None or (tensor.shape.height, tensor.shape.width) != (1, 1):
            raise InputError("C export: the output is not a vector of coordinates")
        return tensor

    def _onnx_shape(self, name: str) -> list[int]:
        shape = self.tensor(name).shape
        return [1, shape.channels] if name in self.flat else [1, shape.channels, shape.height, shape.width]

    def _part_of_shape(self, node: onnx.NodeProto) -> Array:
        attrs, extents = attributes(node), self._onnx_shape(node.input[0])
        return np.asarray(extents[attrs.get("start", 0) : attrs.get("end", len(extents))], np.int64)

    def is_read(self, tensor: Tensor) -> bool:
        """Whether anything reads a tensor already."""
        waiting = any(formula.source is tensor for formula in self.formulas.values())
        return waiting or any(tensor in layer.inputs for layer in self.layers)

    def tensor(self, name: str) -> Tensor:
        if name not in self.tensors and name in self.formulas:
            return read_more.materialise(self, self.formulas[name])
        if name not in self.tensors:
            raise InputError(f"C export: value {name!r} is a constant or missing where a feature map is expected")
        return self.tensors[name]

    def constant(self, node: onnx.NodeProto, index: int) -> Array:
        name = node.input[index] if index < len(node.input) else ""
        if name not in self.constants:
            raise InputError(f"C export: {label(node)}: input {index} must be a constant")
        return self.constants[name]

    def step(self, node: onnx.NodeProto) -> np.float32:
        """The scale of a Q or DQ node on a feature map; its zero point must be int8 0."""
        scale = self.constant(node, 1)
        zero = self.constant(node, 2) if len(node.input) > 2 else np.uint8(0)
        if (
            scale.size != 1
            or np.asarray(zero).dtype != np.int8
            or np.any(zero)
            or not 0 < float(scale.reshape(-1)[0]) < np.inf
        ):
            raise InputError(f"C export: {label(node)}: expected one positive scale and the int8 zero point 0")
        return np.float32(scale.reshape(-1)[0])

    def _weight_codes(self, node: onnx.NodeProto) -> None:
        codes, steps = self.constants[node.input[0]], self.constant(node, 1).reshape(-1).astype(np.float32)
        zero = self.constant(node, 2) if len(node.input) > 2 else np.int8(0)
        axis = attributes(node).get("axis", 1)
        if codes.dtype != np.int8 or np.any(zero) or (steps.size != 1 and (axis != 0 or steps.size != codes.shape[0])):
            raise InputError(
                f"C export: {label(node)}: expected int8 weights with zero point 0 and one scale per output channel"
            )
        if not (np.isfinite(steps).all() and (steps > 0).all()) or (codes == -128).any():
            raise InputError(f"C export: {label(node)}: expected positive scales and weights in -127..127")
        self.codes[node.output[0]] = (codes, np.broadcast_to(steps, codes.shape[:1]).copy())

    def emit(self, node: onnx.NodeProto, layer: Layer, flat: bool = False) -> None:
        if (
            layer.output.shape.elements > MAX_ELEMENTS
            or min(layer.output.shape.height, layer.output.shape.channels) < 1
        ):
            raise InputError(f"C export: {label(node)}: impossible output shape {layer.output.shape}")
        layer.name = node.name or node.output[0]
        self.layers.append(layer)
        self.tensors[node.output[0]] = layer.output
        if flat:
            self.flat.add(node.output[0])

    def alias(self, node: onnx.NodeProto, flat: bool) -> None:
        self.tensors[node.output[0]] = self.tensor(node.input[0])
        if flat:
            self.flat.add(node.output[0])

    def _fold(self, node: onnx.NodeProto) -> None:
        from onnx.reference import ReferenceEvaluator

        inputs = {name: self.constants[name] for name in node.input if name}
        values = [
            onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in inputs.items()
        ]
        outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output]
        try:
            body = onnx.helper.make_graph([node], "fold", values, outputs)
            small = onnx.helper.make_model(body, opset_imports=self.model.opset_import)
            results = ReferenceEvaluator(small).run(None, inputs)
        except Exception as error:
            raise InputError(f"C export: cannot evaluate {label(node)}: {error}") from error
        for name, value in zip(node.output, results, strict=True):
            self.constants[name] = np.asarray(value)


def _constant(tensor: onnx.TensorProto) -> Array:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise InputError(f"C export: {tensor.name!r} lies in an external file; only self-contained models are read")
    if np.prod([int(d) for d in tensor.dims], dtype=np.float64) > MAX_ELEMENTS:
        raise InputError(f"C export: {tensor.name!r} is larger than {MAX_ELEMENTS} elements")
    try:
        return numpy_helper.to_array(tensor)
    except Exception as error:
        raise InputError(f"C export: cannot read the constant {tensor.name!r}: {error}") from error


def _conv(reader: Reader, node: onnx.NodeProto) -> None:
    x, attrs = reader.tensor(node.input[0]), attributes(node)
    codes, steps = reader.codes.get(node.input[1], (None, None))
    if steps is not None and node.input[0] not in reader.stored:
        raise refuse(node, "int8 weights on a float input", "an int8 input")
    weights = finite(node, reader.constant(node, 1) if codes is None else codes)
    bias = np.zeros(weights.shape[0], np.float32)
    if len(node.input) > 2 and node.input[2]:
        bias = finite(node, reader.constant(node, 2))
    if weights.ndim != 4:
        raise refuse(node, f"weight shape {weights.shape}", "2-D convolution")
    if attrs.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise refuse(node, "auto_pad", "explicit pads")
    if set(attrs.get("dilations", [1])) != {1}:
        raise refuse(node, f"dilations {attrs['dilations']}", "1")
    outputs, group_inputs, kernel, kernel_w = weights.shape
    group = int(attrs.get("group", 1))
    stride = uniform(node, list(attrs.get("strides", [1, 1])), "strides")
    pad = uniform(node, list(attrs.get("pads", [0, 0, 0, 0])), "pads")
    if kernel != kernel_w or not 0 <= pad < kernel or stride < 1:
        raise refuse(
            node, f"kernel {kernel}x{kernel_w}, pads {pad}, strides {stride}", "a square kernel larger than its padding"
        )
    if group_inputs * group != x.shape.channels or outputs % group or bias.shape != (outputs,):
        raise refuse(node, f"weights {weights.shape}, group {group} on {x.shape.channels} channels", "matching shapes")
    size = [(extent + 2 * pad - kernel) // stride + 1 for extent in (x.shape.height, x.shape.width)]
    out = Tensor(node.output[0], Shape(size[0], size[1], outputs))
    if group == 1:
        reader.emit(node, Dense([x], out, weights=weights, bias=bias, stride=stride, pad=pad, steps=steps))
    elif (
        group == x.shape.channels == outputs
        and kernel in ((3, 5, 7) if steps is None else (3,))
        and pad == kernel // 2
        and stride in (1, 2)
    ):
        reader.emit(node, Depthwise([x], out, weights=weights[:, 0], bias=bias, stride=stride, steps=steps))
    else:
        raise refuse(
            node,
            f"group {group}, kernel {kernel}, pad {pad}, stride {stride}",
            "group 1, or depthwise with kernel 3, 5 or 7 (int8: 3), half of it as pad, stride 1 or 2",
        )


def _gemm(reader: Reader, node: onnx.NodeProto) -> None:
    if node.op_type == "MatMul" and read_more.centre_of_mass(reader, node):
        return
    x, attrs = reader.tensor(node.input[0]), attributes(node)
    weights = finite(node, reader.constant(node, 1))
    if node.op_type == "MatMul" or not attrs.get("transB", 0):
        weights = weights.T
    if (
        attrs.get("transA", 0)
        or node.input[0] not in reader.flat
        or weights.ndim != 2
        or weights.shape[1] != x.shape.channels
    ):
        raise refuse(node, f"weights {weights.shape} on {x.shape}", "a vector times a matrix")
    weights = weights * np.float32(attrs.get("alpha", 1.0))
    bias = np.zeros(weights.shape[0], np.float32)
    if len(node.input) > 2 and node.input[2]:
        bias = np.broadcast_to(finite(node, reader.constant(node, 2)).reshape(-1), bias.shape) * np.float32(
            attrs.get("beta", 1.0)
        )
    out = Tensor(node.output[0], Shape(1, 1, int(weights.shape[0])))
    reader.emit(
        node,
        Dense([x], out, weights=np.ascontiguousarray(weights[:, :, None, None]), bias=np.ascontiguousarray(bias)),
        flat=True,
    )


def _batch_norm(reader: Reader, node: onnx.NodeProto) -> None:
    x = reader.tensor(node.input[0])
    conv = next((layer for layer in reader.layers if layer.output is x), None)
    if not isinstance(conv, (Dense, Depthwise)) or conv.relu or any(x in layer.inputs for layer in reader.layers):
        raise refuse(node, "its place", "a BatchNormalization right behind a convolution")
    scale, shift, mean, var = (reader.constant(node, i).astype(np.float64) for i in range(1, 5))
    factor = scale / np.sqrt(var + attributes(node).get("epsilon", 1e-5))
    folded = conv.weights.astype(np.float64) * factor.reshape(-1, *[1] * (conv.weights.ndim - 1))
    conv.weights = finite(node, folded)
    conv.bias = finite(node, (conv.bias.astype(np.float64) - mean) * factor + shift)
    reader.alias(node, False)


def _relu(reader: Reader, node: onnx.NodeProto) -> None:
    x = reader.tensor(node.input[0])
    reader.emit(node, Relu([x], Tensor(node.output[0], x.shape)), flat=node.input[0] in reader.flat)


def _clip(reader: Reader, node: onnx.NodeProto) -> None:
    attrs = attributes(node)
    low = (
        attrs.get("min")
        if "min" in attrs
        else (float(reader.constant(node, 1)) if len(node.input) > 1 and node.input[1] else None)
    )
    high = (
        attrs.get("max")
        if "max" in attrs
        else (float(reader.constant(node, 2)) if len(node.input) > 2 and node.input[2] else None)
    )
    open_above = high is None or high >= 3.4e38
    if low is None or (high is not None and not low < high):
        raise refuse(node, f"limits {low}..{high}", "a lower limit and a larger upper one")
    if low == 0.0 and open_above and node.input[0] not in reader.formulas:
        _relu(reader, node)
    else:
        read_more.clip(reader, node, low, math.inf if high is None or open_above else high)


def _add(reader: Reader, node: onnx.NodeProto) -> None:
    if read_more.add_number(reader, node):
        return
    a, b = reader.tensor(node.input[0]), reader.tensor(node.input[1])
    if a.shape != b.shape:
        raise refuse(node, f"{a.shape} + {b.shape}", "equal shapes")
    reader.emit(node, Add([a, b], Tensor(node.output[0], a.shape)), flat=node.input[0] in reader.flat)


def _concat(reader: Reader, node: onnx.NodeProto) -> None:
    parts = [reader.tensor(name) for name in node.input]
    flat = node.input[0] in reader.flat
    rank = 2 if flat else 4
    if int(attributes(node)["axis"]) % rank != 1 or len({(t.shape.height, t.shape.width) for t in parts}) != 1:
        raise refuse(
            node, f"axis {attributes(node)['axis']} of {[str(t.shape) for t in parts]}", "channels of equal maps"
        )
    shape = Shape(parts[0].shape.height, parts[0].shape.width, sum(t.shape.channels for t in parts))
    reader.emit(node, Concat(parts, Tensor(node.output[0], shape)), flat=flat)


def _pool(reader: Reader, node: onnx.NodeProto) -> None:
    x, attrs = reader.tensor(node.input[0]), attributes(node)
    flat = False
    if node.op_type == "AveragePool":
        if list(attrs["kernel_shape"]) != [x.shape.height, x.shape.width] or any(attrs.get("pads", [0])):
            raise refuse(node, f"window {list(attrs['kernel_shape'])} on {x.shape}", "the whole map, no padding")
    elif node.op_type == "ReduceMean":
        axes = attrs.get("axes") or (reader.constant(node, 1).tolist() if len(node.input) > 1 else None)
        if axes is None or sorted(int(a) % 4 for a in axes) != [2, 3] or node.input[0] in reader.flat:
            raise refuse(node, f"axes {axes}", "the two spatial axes")
        flat = not attrs.get("keepdims", 1)
    reader.emit(node, Pool([x], Tensor(node.output[0], Shape(1, 1, x.shape.channels))), flat=flat)


def _flatten(reader: Reader, node: onnx.NodeProto) -> None:
    if read_more.flatten_pairs(reader, node):
        return
    x = reader.tensor(node.input[0])
    if node.op_type == "Reshape" and read_more.flatten_maps(reader, node, [int(v) for v in reader.constant(node, 1)]):
        return
    if (x.shape.height, x.shape.width) != (1, 1):
        raise refuse(node, f"{x.shape}", "a 1x1 map")
    if node.op_type == "Reshape":
        target = [int(v) for v in reader.constant(node, 1)]
        if (
            len(target) not in (2, 4)
            or target[0] not in (1, -1, 0)
            or any(v not in (1, -1, x.shape.channels) for v in target[1:])
        ):
            raise refuse(node, f"target {target}", "a vector")
        reader.alias(node, len(target) == 2)
    else:
        reader.alias(node, True)


def _identity(reader: Reader, node: onnx.NodeProto) -> None:
    reader.alias(node, node.input[0] in reader.flat)
    if node.input[0] in reader.stored:
        reader.stored.add(node.output[0])


def _slice(reader: Reader, node: onnx.NodeProto) -> None:
    x, attrs = reader.tensor(node.input[0]), attributes(node)
    starts = list(attrs.get("starts", ())) or reader.constant(node, 1).tolist()
    ends = list(attrs.get("ends", ())) or reader.constant(node, 2).tolist()
    axes = list(attrs.get("axes", ())) or (
        reader.constant(node, 3).tolist() if len(node.input) > 3 else list(range(len(starts)))
    )
    steps = reader.constant(node, 4).tolist() if len(node.input) > 4 else [1] * len(starts)
    extents = reader._onnx_shape(node.input[0])
    whole = all(s in (0, -extents[a]) and e >= extents[a] for s, e, a in zip(starts, ends, axes, strict=True))
    if set(steps) <= {1} and whole:
        _identity(reader, node)
    elif set(steps) == {1} and len(axes) == 1 and axes[0] % len(extents) == 1:
        read_more.pick(reader, node, list(range(*slice(starts[0], ends[0]).indices(x.shape.channels))))
    else:
        raise refuse(node, f"starts {starts}, ends {ends} on {x.shape}", "a slice of channels")


def _pad(reader: Reader, node: onnx.NodeProto) -> None:
    pads = attributes(node).get("pads")
    if any(pads if pads is not None else reader.constant(node, 1).tolist()):
        raise refuse(node, "padding by a node of its own", "pads inside the convolution")
    _identity(reader, node)


def _quantize(reader: Reader, node: onnx.NodeProto) -> None:
    tensor = reader.tensor(node.input[0])
    codes = Tensor(node.output[0], tensor.shape, reader.step(node))
    reader.emit(node, Quantise([tensor], codes), node.input[0] in reader.flat)
    reader.stored.add(node.output[0])


def _dequantize(reader: Reader, node: onnx.NodeProto) -> None:
    if node.input[0] not in reader.stored or reader.tensor(node.input[0]).step != reader.step(node):
        raise refuse(node, "its input or scale", "the partner of a QuantizeLinear")
    _identity(reader, node)
    reader.stored.add(node.output[0])


def _squeeze(reader: Reader, node: onnx.NodeProto) -> None:
    axes = attributes(node).get("axes") or (reader.constant(node, 1).tolist() if len(node.input) > 1 else [])
    if sorted(int(a) % 4 for a in axes) != [2, 3]:
        raise refuse(node, f"axes {axes}", "the two spatial axes")
    _flatten(reader, node)


HANDLERS: dict[str, Callable[[Reader, onnx.NodeProto], None]] = {
    "Add": _add,
    "AveragePool": _pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "DequantizeLinear": _dequantize,
    "Dropout": _identity,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _pool,
    "Identity": _identity,
    "MatMul": _gemm,
    "Pad": _pad,
    "QuantizeLinear": _quantize,
    "ReduceMean": _pool,
    "Relu": _relu,
    "Reshape": _flatten,
    "Slice": _slice,
    "Squeeze": _squeeze,
    **read_more.MORE,
}


def supported_ops() -> list[str]:
    """Operators that feature maps may pass through."""
    return sorted(HANDLERS)


def read(model: onnx.ModelProto) -> Graph:
    """Lower an ONNX model of the family, fp32 or int8 with Q/DQ pairs, to the compiler's graph."""
    return Reader(model).read()
