"""Would TensorRT take this graph? The rules in words, for graphs with or without Q/DQ, ours or foreign.

Refusals are things NVIDIA's parser or builder rejects; warnings are accepted and cost speed or accuracy.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from export.onnx_file import ONNX_DOMAINS, graphs_of, opset_of
from export.onnx_info import WEIGHTED, type_name
from runtime.errors import UsageError

Level = Literal["refused", "warning"]

LAST_OPSET = {"8.6": 17, "10.0": 20, "10.9": 22, "10.13": 24, "11": 24}
"""The newest operator set each TensorRT line reads."""
DEFAULT_TARGET = "11"
_FIRST_QDQ_OPSET, _FIRST_PER_CHANNEL_OPSET, _FIRST_HALF_SCALE_OPSET = 10, 13, 19
_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
_IO_TYPES = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.DOUBLE,
    TensorProto.INT8,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.BOOL,
)
_INTEGER_OPS = {
    "QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearAveragePool",
    "QGemm", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear",
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing that TensorRT refuses or suffers from."""

    level: Level
    rule: str
    node: str
    message: str

    def __str__(self) -> str:
        return f"{self.level}: {self.node}: {self.message}"


@dataclass
class _Graph:
    """A graph with the look-ups that the rules share."""

    model: ModelProto
    target: str
    constants: dict[str, TensorProto] = field(default_factory=dict)
    makers: dict[str, NodeProto] = field(default_factory=dict)
    users: dict[str, list[NodeProto]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.constants = {t.name: t for t in graph.initializer}
        for node in graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "value":
                    self.constants[node.output[0]] = attribute.t
            for output in node.output:
                self.makers[output] = node
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    @cached_property
    def quantisers(self) -> list[NodeProto]:
        return [n for n in self.model.graph.node if n.op_type in _QUANTISERS]

    def value(self, name: str) -> NDArray[Any] | None:
        return np.asarray(numpy_helper.to_array(self.constants[name])) if name in self.constants else None

    def is_constant(self, name: str) -> bool:
        """A constant, or a constant that was quantised on the spot."""
        maker = self.makers.get(name)
        if name in self.constants:
            return True
        return maker is not None and maker.op_type in _QUANTISERS and self.is_constant(maker.input[0])

    def maker(self, name: str, op_type: str) -> NodeProto | None:
        node = self.makers.get(name)
        return node if node is not None and node.op_type == op_type else None

    def scale(self, node: NodeProto) -> NDArray[Any] | None:
        return self.value(node.input[1]) if len(node.input) > 1 else None


def check_contract(model: ModelProto, target: str = DEFAULT_TARGET) -> list[Finding]:
    """All findings for one TensorRT version, refusals first; an empty list means: taken as it is."""
    line = _line(target)
    graph = _Graph(model, line)
    findings = [finding for rule in _RULES for finding in rule(graph)]
    return sorted(findings, key=lambda f: f.level != "refused")


def refusals(findings: list[Finding]) -> list[Finding]:
    """Only what TensorRT would not take."""
    return [f for f in findings if f.level == "refused"]


def _line(target: str) -> str:
    """The table row for a version: `10.3` falls under 10.0, `10.16` under 10.13."""
    try:
        wanted = tuple(int(part) for part in target.split("."))[:2]
    except ValueError:
        wanted = ()
    rows = [row for row in LAST_OPSET if wanted and tuple(int(p) for p in row.split(".")) <= wanted]
    if not rows:
        near = difflib.get_close_matches(target, LAST_OPSET, 1)
        raise UsageError(
            f"unknown TensorRT version {target!r}{f'; did you mean {near[0]}?' if near else ''}; "
            f"known lines: {', '.join(LAST_OPSET)}"
        )
    return rows[-1]


def _name(node: NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]}"


def _refused(rule: str, node: NodeProto | str, message: str) -> Finding:
    return Finding("refused", rule, node if isinstance(node, str) else _name(node), message)


def _warning(rule: str, node: NodeProto | str, message: str) -> Finding:
    return Finding("warning", rule, node if isinstance(node, str) else _name(node), message)


def _opset(graph: _Graph) -> Iterator[Finding]:
    opset, last = opset_of(graph.model), LAST_OPSET[graph.target]
    if opset > last:
        yield _refused(
            "opset", "model", f"opset {opset}, TensorRT {graph.target} reads up to {last}; export with --opset {last}"
        )
    if opset < 9:
        yield _refused("opset", "model", f"opset {opset}, TensorRT reads 9 and newer; convert the model first")
    if graph.quantisers and opset < _FIRST_QDQ_OPSET:
        yield _refused("opset", "model", f"opset {opset} has no QuantizeLinear; it came with {_FIRST_QDQ_OPSET}")


def _operators(graph: _Graph) -> Iterator[Finding]:
    for node in graph.model.graph.node:
        if node.op_type in _INTEGER_OPS:
            yield _refused(
                "operator", node, "integer operator of ONNX Runtime; TensorRT wants float operators between Q/DQ pairs"
            )
        elif node.domain not in ONNX_DOMAINS and not onnx.defs.has(node.op_type):
            yield _refused("operator", node, f"operator of the domain {node.domain!r}, which TensorRT does not know")
        elif node.domain not in ONNX_DOMAINS:
            yield _warning(
                "operator", node, f"of the domain {node.domain!r}; TensorRT reads it as the standard operator"
            )
        elif any(True for attribute in node.attribute for _ in graphs_of(attribute)) and graph.quantisers:
            yield _warning("operator", node, "holds an inner graph; quantisation inside it is not looked at here")


def _interface(graph: _Graph) -> Iterator[Finding]:
    ports = [("input", i) for i in graph.model.graph.input if i.name not in graph.constants]
    ports += [("output", o) for o in graph.model.graph.output]
    for what, info in ports:
        kind = info.type.tensor_type.elem_type
        if kind not in _IO_TYPES:
            yield _refused("interface", f"{what} {info.name}", f"type {type_name(kind)}; use float32")
        elif kind != TensorProto.FLOAT:
            yield _warning(
                "interface", f"{what} {info.name}", f"type {type_name(kind)}; the toolkit's files keep float32 here"
            )


def _quantised_types(graph: _Graph) -> Iterator[Finding]:
    for node in graph.quantisers:
        kind = _stored_type(graph, node)
        if kind == TensorProto.INT32:
            yield _refused(
                "bias",
                node,
                f"dequantises an int32 bias ({node.input[0]}); TensorRT wants the bias in float "
                "(in ONNX Runtime: extra_options QuantizeBias=False)",
            )
        elif kind == TensorProto.UINT8:
            yield _refused(
                "type", node, "uint8, TensorRT wants int8 (in ONNX Runtime: activation_type and weight_type QInt8)"
            )
        elif kind in (TensorProto.INT16, TensorProto.UINT16):
            yield _refused("type", node, f"{type_name(kind)}; TensorRT has no 16-bit integers, leave it in float")


def _stored_type(graph: _Graph, node: NodeProto) -> int:
    """Element type on the integer side of a Q or DQ; what ONNX assumes when nothing is written is uint8."""
    if len(node.input) > 2 and node.input[2]:
        zero = graph.constants.get(node.input[2])
        return zero.data_type if zero is not None else TensorProto.UNDEFINED
    if node.op_type == "DequantizeLinear":
        stored = graph.constants.get(node.input[0])
        if stored is not None:
            return stored.data_type
        maker = graph.maker(node.input[0], "QuantizeLinear")
        return _stored_type(graph, maker) if maker is not None else TensorProto.UNDEFINED
    written = next((a.i for a in node.attribute if a.name == "output_dtype"), 0)
    return int(written) or TensorProto.UINT8


def _zero_points(graph: _Graph) -> Iterator[Finding]:
    for node in graph.quantisers:
        if len(node.input) < 3 or not node.input[2]:
            continue
        zero = graph.value(node.input[2])
        if zero is None:
            yield _refused("zero point", node, "the zero point is computed; it must be a constant 0")
        elif zero.astype(np.float64).any():
            yield _refused(
                "zero point",
                node,
                f"zero point {int(zero.flat[int(np.argmax(zero != 0))])}, TensorRT takes 0 only "
                "(in ONNX Runtime: ActivationSymmetric=True, WeightSymmetric=True)",
            )


def _scales(graph: _Graph) -> Iterator[Finding]:
    opset = opset_of(graph.model)
    for node in graph.quantisers:
        scale = graph.scale(node)
        if scale is None:
            yield _refused("scale", node, "the scale is computed; it must be a constant")
            continue
        if not np.isfinite(scale.astype(np.float64)).all() or (scale <= 0).any():
            yield _refused("scale", node, "a scale that is zero, negative or not finite")
        if scale.dtype == np.float16 and opset < _FIRST_HALF_SCALE_OPSET:
            yield _refused(
                "scale",
                node,
                f"float16 scale at opset {opset}; that is allowed from opset {_FIRST_HALF_SCALE_OPSET} on",
            )
        if scale.size > 1:
            yield from _channel_scales(graph, node, scale, opset)


def _channel_scales(graph: _Graph, node: NodeProto, scale: NDArray[Any], opset: int) -> Iterator[Finding]:
    if not graph.is_constant(node.input[0]):
        yield _refused("scale", node, f"{scale.size} scales on an activation; activations take one scale per tensor")
        return
    if opset < _FIRST_PER_CHANNEL_OPSET:
        yield _refused(
            "scale", node, f"scales per channel at opset {opset}; that is allowed from {_FIRST_PER_CHANNEL_OPSET} on"
        )
    axis = next((int(a.i) for a in node.attribute if a.name == "axis"), 1)
    for user in graph.users.get(node.output[0], []):
        wanted = _weight_axis(user)
        if user.op_type in WEIGHTED and wanted is not None and axis != wanted:
            yield _refused(
                "scale", node, f"scales along axis {axis} of the weight of {_name(user)}, expected axis {wanted}"
            )


def _weight_axis(node: NodeProto) -> int | None:
    """The axis of a weight that counts output channels."""
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}.get(node.op_type)


def _pairs(graph: _Graph) -> Iterator[Finding]:
    for node in graph.quantisers:
        if node.op_type == "QuantizeLinear":
            others = [u for u in graph.users.get(node.output[0], []) if u.op_type != "DequantizeLinear"]
            if others:
                yield _refused(
                    "pair", node, f"its int8 values go to {_name(others[0])}; only DequantizeLinear may read them"
                )
            elif node.output[0] in {o.name for o in graph.model.graph.output}:
                yield _warning(
                    "pair", node, "its int8 values are an output of the model; the reader must know the scale"
                )
            continue
        if node.input[0] in graph.constants:
            continue
        maker = graph.maker(node.input[0], "QuantizeLinear")
        if maker is None:
            yield _refused("pair", node, "dequantises something that no QuantizeLinear made; expected a Q/DQ pair")
            continue
        mine, its = graph.scale(node), graph.scale(maker)
        if mine is not None and its is not None and not np.array_equal(mine, its):
            yield _warning("pair", node, "its scale is not the scale of its QuantizeLinear: the values are multiplied")


def _weights(graph: _Graph) -> Iterator[Finding]:
    for node in graph.model.graph.node:
        if node.op_type not in WEIGHTED or len(node.input) < 2:
            continue
        activation = graph.maker(node.input[0], "DequantizeLinear")
        name = node.input[WEIGHTED[node.op_type]]
        weight = graph.maker(name, "DequantizeLinear")
        if weight is not None and not graph.is_constant(weight.input[0]) and node.op_type != "MatMul":
            yield _refused("weight", node, "its quantised weight is computed, not a constant")
        if activation is not None and weight is None and graph.is_constant(name):
            yield _warning("weight", node, "int8 input and float weight: runs in float; quantise the weight as well")
        if weight is not None and activation is None:
            yield _warning("weight", node, "int8 weight and float input: saves memory only, the arithmetic is float")


def _placement(graph: _Graph) -> Iterator[Finding]:
    for node in graph.model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
            for quantiser in graph.users.get(node.output[0], []):
                if quantiser.op_type != "QuantizeLinear":
                    continue
                for pair in graph.users.get(quantiser.output[0], []):
                    for user in graph.users.get(pair.output[0], []):
                        if user.op_type == "Relu":
                            yield _warning(
                                "placement",
                                quantiser,
                                f"Q/DQ between {_name(node)} and {_name(user)} keeps the two from being fused; "
                                "quantise the inputs of weighted layers only",
                            )
        if node.op_type in ("AveragePool", "GlobalAveragePool", "ReduceMean"):
            yield from _pooled(graph, node)


def _pooled(graph: _Graph, node: NodeProto) -> Iterator[Finding]:
    before = graph.maker(node.input[0], "DequantizeLinear")
    for after in graph.users.get(node.output[0], []):
        if before is not None and after.op_type == "QuantizeLinear":
            mine, its = graph.scale(before), graph.scale(after)
            if mine is not None and its is not None and np.array_equal(mine, its):
                yield _warning(
                    "pool", node, "puts out int8 at its input's scale; that ruins landmarks, leave its output in float"
                )


def _concats(graph: _Graph) -> Iterator[Finding]:
    """A concatenation is free in int8 only when all its parts and its result share one scale."""
    for node in graph.model.graph.node:
        if node.op_type != "Concat":
            continue
        scales: list[float] = []
        for name in node.input:
            part = graph.maker(name, "DequantizeLinear")
            scales += _quantised_scales(graph, name) if part is None else _flat(graph.scale(part))
        scales += _quantised_scales(graph, node.output[0])
        if len(set(scales)) > 1:
            low, high = min(scales), max(scales)
            yield _warning(
                "concat",
                node,
                f"its parts have different scales ({low:.4g} .. {high:.4g}); give them one to avoid a requantisation",
            )


def _quantised_scales(graph: _Graph, name: str) -> list[float]:
    """Scales at which a float tensor is quantised by its readers."""
    return [
        value
        for user in graph.users.get(name, [])
        if user.op_type == "QuantizeLinear"
        for value in _flat(graph.scale(user))
    ]


def _flat(scale: NDArray[Any] | None) -> list[float]:
    return [] if scale is None or scale.size != 1 else [float(scale.reshape(-1)[0])]


_RULES: tuple[Callable[[_Graph], Iterator[Finding]], ...] = (
    _opset,
    _operators,
    _interface,
    _quantised_types,
    _zero_points,
    _scales,
    _pairs,
    _weights,
    _placement,
    _concats,
)
