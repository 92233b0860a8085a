"""Weights of a fused family model out of an ONNX graph: by order of the wiring, checked against shapes and names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from export.onnx_layers import OnnxLayer, weighted_layers
from runtime.errors import InputError

_QUANTISED = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "DynamicQuantizeLinear"})
_RECIPES = (
    (_QUANTISED, "is quantised; import the float32 file that it was made from"),
    (
        frozenset({"BatchNormalization"}),
        "still holds BatchNormalization nodes; fold them first (onnxsim IN.onnx OUT.onnx) and import the result",
    ),
    (frozenset({"If", "Loop", "Scan"}), "holds control flow, which no model of this family has"),
)


@dataclass(frozen=True)
class OnnxWeight:
    """Weight and bias of one layer, as PyTorch lays them out."""

    op: str
    names: tuple[str, str | None]
    weight: Tensor
    bias: Tensor | None
    geometry: tuple[tuple[int, ...], ...]
    """strides, pads (top, left), dilations, groups of a convolution; empty for a Gemm."""


def read_weights(model: ModelProto, where: str) -> list[OnnxWeight]:
    """All weighted layers of a float32 graph, in the order in which the network runs them."""
    graph = model.graph
    present = {node.op_type for node in graph.node}
    for operators, sentence in _RECIPES:
        if present & operators:
            raise InputError(f"{where}: the graph {sentence}")
    constants = _Constants(graph, where)
    return [_weight(layer, constants, where) for layer in weighted_layers(graph, where)]


def named_as(weights: list[OnnxWeight], outline: nn.Module, where: str) -> dict[str, Tensor]:
    """Give the weights the names of a fused model's layers, one by one; `outline` has as many layers.

    A stored name that belongs to another layer of the model is an error: the order cannot be trusted then.
    """
    state: dict[str, Tensor] = {}
    known = set(outline.state_dict())
    layers = [(name, module) for name, module in outline.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    for (name, module), weight in zip(layers, weights, strict=True):
        wanted = "Gemm" if isinstance(module, nn.Linear) else "Conv"
        if weight.op != wanted:
            raise InputError(f"{where}: layer {name} should be a {wanted}, the graph has a {weight.op} in its place")
        if isinstance(module, nn.Conv2d):
            _same_geometry(name, module, weight, where)
        parts = {"weight": (weight.names[0], weight.weight), "bias": (weight.names[1], weight.bias)}
        for part, (stored, tensor) in parts.items():
            if tensor is None:
                continue
            key = f"{name}.{part}"
            if stored in known and stored != key:
                raise InputError(f"{where}: tensor {stored!r} stands where {key} is expected; the wiring differs")
            state[key] = tensor
    return state


def _same_geometry(name: str, module: nn.Conv2d, weight: OnnxWeight, where: str) -> None:
    strides, pads, dilations, (groups,) = weight.geometry
    wanted_pads = tuple(int(p) for p in module.padding) if not isinstance(module.padding, str) else ()
    # Groups scale with the width, which is not known yet: depthwise or not is what can be compared.
    depthwise = module.groups > 1
    found = (strides, pads, dilations, groups > 1 or (depthwise and weight.weight.shape[0] == 1))
    wanted = (tuple(module.stride), wanted_pads, tuple(module.dilation), depthwise)
    if found != wanted or (depthwise and groups != weight.weight.shape[0]):
        raise InputError(
            f"{where}: convolution {name} has stride {strides}, padding {pads}, dilation {dilations}, groups {groups}; "
            f"expected {wanted[0]}, {wanted[1]}, {wanted[2]}, {'depthwise' if depthwise else '1'}"
        )


class _Constants:
    """Constant tensors of a graph by name, wherever the exporter put them."""

    def __init__(self, graph: GraphProto, where: str) -> None:
        self._where = where
        self._tensors: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self._same_as: dict[str, str] = {}
        for node in graph.node:
            if node.op_type == "Constant":
                self._tensors.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
            elif node.op_type == "Identity":
                self._same_as[node.output[0]] = node.input[0]

    def __call__(self, name: str, node: NodeProto) -> Tensor:
        label = f"{node.op_type} {node.name or node.output[0]!r}"
        for _ in range(len(self._same_as)):
            if name not in self._same_as:
                break
            name = self._same_as[name]
        tensor = self._tensors.get(name)
        if tensor is None:
            raise InputError(f"{self._where}: {label} takes {name!r} from the graph instead of a stored weight")
        if tensor.data_type != TensorProto.FLOAT:
            kind = TensorProto.DataType.Name(TensorProto.DataType.ValueType(tensor.data_type)).lower()
            raise InputError(f"{self._where}: weight {name!r} is {kind}; import the float32 file that it was made from")
        values: NDArray[np.float32] = np.array(numpy_helper.to_array(tensor), dtype=np.float32)
        if not np.isfinite(values).all():
            raise InputError(f"{self._where}: weight {name!r} holds NaN or infinity")
        return torch.from_numpy(values)


def _weight(layer: OnnxLayer, constant: _Constants, where: str) -> OnnxWeight:
    node = layer.node
    if node.op_type not in ("Conv", "Gemm") or len(node.input) < 2:
        raise InputError(f"{where}: {node.op_type} {node.name or node.output[0]!r} is no layer of this family")
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    weight = constant(node.input[1], node)
    stored_bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    bias = constant(stored_bias, node) if stored_bias else None
    if node.op_type == "Gemm":
        weight = _gemm_weight(weight, attributes, f"{where}: Gemm {node.name or node.output[0]!r}")
        return OnnxWeight("Gemm", (node.input[1], stored_bias), weight, bias, ())
    if weight.ndim != 4:
        raise InputError(f"{where}: weight {node.input[1]!r} has shape {tuple(weight.shape)}, expected four dimensions")
    return OnnxWeight("Conv", (node.input[1], stored_bias), weight, bias, _geometry(attributes, node, where))


def _gemm_weight(weight: Tensor, attributes: dict[str, object], where: str) -> Tensor:
    if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0 or attributes.get("transA", 0):
        raise InputError(f"{where} scales or transposes its input; no layer of this family does")
    if weight.ndim != 2:
        raise InputError(f"{where} has a weight of shape {tuple(weight.shape)}, expected two dimensions")
    return weight if attributes.get("transB", 0) else weight.t().contiguous()


def _geometry(attributes: dict[str, object], node: NodeProto, where: str) -> tuple[tuple[int, ...], ...]:
    def numbers(name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        value = attributes.get(name, default)
        return tuple(int(v) for v in value) if isinstance(value, (list, tuple)) else default

    pads = numbers("pads", (0, 0, 0, 0))
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET" or len(pads) != 4 or pads[:2] != pads[2:]:
        raise InputError(f"{where}: Conv {node.name or node.output[0]!r} pads unevenly; no layer of this family does")
    groups = attributes.get("group", 1)
    return numbers("strides", (1, 1)), pads[:2], numbers("dilations", (1, 1)), (int(str(groups)),)
