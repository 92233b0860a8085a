"""What an ONNX file is: interface, operators, the precision and the cost of each layer."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from export.onnx_file import opset_of, spec_of
from runtime.spec import ModelSpec

WEIGHTED = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
"""Operators with weights, and which input holds them."""
_THROUGH = {"DequantizeLinear", "QuantizeLinear", "Cast", "Identity", "Transpose", "Reshape"}


@dataclass(frozen=True)
class Port:
    """An input or output of the model."""

    name: str
    type: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Layer:
    """One operator with weights."""

    name: str
    op: str
    precision: str
    """What the arithmetic sees: float32, float16, int8, or `int8 weights` when only the weights are quantised."""
    params: int
    macs: int | None


@dataclass(frozen=True)
class OnnxInfo:
    """Everything `inspect` says about a graph."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opset: int
    ir_version: int
    domains: tuple[str, ...]
    producer: str
    operators: dict[str, int]
    layers: tuple[Layer, ...]
    params: int
    spec: ModelSpec | None

    @property
    def macs(self) -> int | None:
        """Multiply-adds for one image; None where shapes are unknown."""
        values = [layer.macs for layer in self.layers]
        return None if None in values else sum(v for v in values if v is not None)

    @property
    def precisions(self) -> dict[str, int]:
        """How many layers run in each precision."""
        return dict(sorted(Counter(layer.precision for layer in self.layers).items()))

    @property
    def precision(self) -> str:
        """The file in one word: int8, float16, float32 or mixed."""
        for name in ("int8", "float16"):
            if name in self.precisions:
                return name
        return next(iter(self.precisions)) if len(self.precisions) == 1 else "mixed"


def describe(model: ModelProto, where: str) -> OnnxInfo:
    """Read a parsed model; shapes are inferred for one image where the file leaves the batch open."""
    graph = model.graph
    constants = {t.name: t for t in graph.initializer}
    constants |= {
        n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"
    }
    makers = {output: node for node in graph.node for output in node.output}
    shapes, types = _inferred(model)
    layers = tuple(
        Layer(
            node.name or node.output[0],
            node.op_type,
            _precision(node, makers, constants, types),
            _params(node, makers, constants),
            _macs(node, makers, constants, shapes),
        )
        for node in graph.node
        if node.op_type in WEIGHTED and _weight(node, makers, constants) is not None
    )
    given = [info for info in graph.input if info.name not in constants]
    producer = " ".join(text for text in (model.producer_name, model.producer_version) if text)
    return OnnxInfo(
        tuple(map(_port, given)),
        tuple(map(_port, graph.output)),
        opset_of(model),
        model.ir_version,
        tuple(sorted({o.domain for o in model.opset_import if o.domain})),
        producer,
        dict(sorted(Counter(n.op_type for n in graph.node).items(), key=lambda item: (-item[1], item[0]))),
        layers,
        sum(layer.params for layer in layers),
        spec_of(model, where),
    )


def _port(info: ValueInfoProto) -> Port:
    tensor = info.type.tensor_type
    dims = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim)
    return Port(info.name, type_name(tensor.elem_type), dims)


def type_name(elem_type: int) -> str:
    """float32, int8, ... for an ONNX element type."""
    if elem_type not in TensorProto.DataType.values() or not elem_type:
        return "unknown"
    name = str(TensorProto.DataType.Name(TensorProto.DataType.ValueType(elem_type))).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _inferred(model: ModelProto) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shapes for batch 1 and element types of all tensors that inference can name."""
    copy = ModelProto()
    copy.CopyFrom(model)
    constants = {t.name for t in copy.graph.initializer}
    for info in copy.graph.input:
        dims = info.type.tensor_type.shape.dim
        if info.name not in constants and dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
    for info in copy.graph.output:
        info.type.tensor_type.ClearField("shape")
    del copy.graph.value_info[:]
    try:
        graph = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        graph = GraphProto()
    shapes: dict[str, tuple[int, ...]] = {}
    types: dict[str, int] = {}
    for info in (*graph.value_info, *graph.input, *graph.output):
        tensor = info.type.tensor_type
        types[info.name] = tensor.elem_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            shapes[info.name] = tuple(d.dim_value for d in tensor.shape.dim)
    return shapes, types


def element_types(model: ModelProto) -> dict[str, int]:
    """Element type of every tensor that inference can name."""
    return _inferred(model)[1]


def _weight(node: NodeProto, makers: dict[str, NodeProto], constants: dict[str, TensorProto]) -> TensorProto | None:
    """The constant behind a layer's weight input, through quantisation and casts."""
    index = WEIGHTED[node.op_type]
    name = node.input[index] if len(node.input) > index else ""
    for _ in range(8):
        if name in constants:
            return constants[name]
        maker = makers.get(name)
        if maker is None or maker.op_type not in _THROUGH:
            return None
        name = maker.input[0]
    return None


def _precision(
    node: NodeProto, makers: dict[str, NodeProto], constants: dict[str, TensorProto], types: dict[str, int]
) -> str:
    activation = makers.get(node.input[0])
    weight = makers.get(node.input[WEIGHTED[node.op_type]])
    weight_quantised = weight is not None and weight.op_type == "DequantizeLinear"
    activation_quantised = activation is not None and activation.op_type == "DequantizeLinear"
    if weight_quantised and weight is not None:
        source = constants.get(weight.input[0])
        stored = type_name(source.data_type) if source is not None else "int8"
        return stored if activation_quantised else f"{stored} weights"
    name = node.input[WEIGHTED[node.op_type]]
    known = types.get(name) or (constants[name].data_type if name in constants else types.get(node.output[0], 0))
    return type_name(known)


def _params(node: NodeProto, makers: dict[str, NodeProto], constants: dict[str, TensorProto]) -> int:
    weight = _weight(node, makers, constants)
    total = math.prod(weight.dims) if weight is not None else 0
    if len(node.input) > 2 and node.input[2]:
        bias = constants.get(node.input[2])
        maker = makers.get(node.input[2])
        if bias is None and maker is not None and maker.input:
            bias = constants.get(maker.input[0])
        total += math.prod(bias.dims) if bias is not None else 0
    return total


def _macs(
    node: NodeProto,
    makers: dict[str, NodeProto],
    constants: dict[str, TensorProto],
    shapes: dict[str, tuple[int, ...]],
) -> int | None:
    weight, output = _weight(node, makers, constants), shapes.get(node.output[0])
    if weight is None:
        return None
    if node.op_type == "Gemm":
        return int(math.prod(weight.dims))
    if output is None:
        return None
    if node.op_type == "Conv":
        return int(math.prod(weight.dims[1:])) * math.prod(output)
    if node.op_type == "ConvTranspose":
        source = shapes.get(node.input[0])
        return None if source is None else int(math.prod(weight.dims[1:])) * math.prod(source)
    return int(weight.dims[-2 if len(weight.dims) > 1 else 0]) * math.prod(output)
