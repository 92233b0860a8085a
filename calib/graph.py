"""A fp32 landmark network read from ONNX into a small typed graph that torch can run, hook and differentiate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional as F

from runtime.errors import InputError

OPSETS = range(9, 22)
WEIGHTED = frozenset({"Conv", "Gemm"})
PASSING = frozenset({"Concat", "Slice", "Gather", "MaxPool"})
"""Operators whose outputs are values of their inputs: stored as int8, both have one scale."""
_MAX_ELEMENTS = 64 << 20


@dataclass(frozen=True)
class Node:
    """One operation: activations in, one activation out, constants already resolved."""

    op: str
    name: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    weight: str | None = None
    """Initializer name of the weight of a weighted op."""
    bias: str | None = None


@dataclass(frozen=True)
class Graph:
    """Nodes in running order, with the float parameters they use."""

    nodes: tuple[Node, ...]
    parameters: Mapping[str, NDArray[np.float32]]
    input: str
    output: str
    input_shape: tuple[int, int, int]

    @property
    def weighted(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if node.op in WEIGHTED)

    def producer(self, tensor: str) -> Node | None:
        """The node that makes a tensor; None for the graph's input."""
        return self._producers().get(tensor)

    def consumers(self, tensor: str) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if tensor in node.inputs)

    def _producers(self) -> dict[str, Node]:
        return {node.output: node for node in self.nodes}

    def tensors(self) -> dict[str, Tensor]:
        """Fresh torch copies of all parameters."""
        return {name: torch.from_numpy(value.copy()) for name, value in self.parameters.items()}


Hook = Callable[[Node, str, Tensor], Tensor]
"""(consumer, tensor name, value) -> what the consumer reads instead."""
WeightHook = Callable[[Node, Tensor], Tensor]


def run(
    graph: Graph,
    parameters: Mapping[str, Tensor],
    batch: Tensor,
    on_input: Hook | None = None,
    on_weight: WeightHook | None = None,
    keep: dict[str, Tensor] | None = None,
    nodes: tuple[Node, ...] | None = None,
    start: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Run the graph; hooks may replace what a node reads, `keep` collects the tensors that it already has a key for.

    With `nodes` (a slice of the graph's) and `start` (the tensors it begins from) only that part runs, and its last
    output is returned.
    """
    values: dict[str, Tensor] = {graph.input: batch} if start is None else dict(start)
    chosen = graph.nodes if nodes is None else nodes
    last_use = {name: index for index, node in enumerate(chosen) for name in node.inputs}
    result = batch
    for index, node in enumerate(chosen):
        read = [values[name] for name in node.inputs]
        if on_input is not None:
            read = [on_input(node, name, value) for name, value in zip(node.inputs, read, strict=True)]
        result = _EXECUTE[node.op](node, read, parameters, on_weight)
        values[node.output] = result
        if keep is not None and node.output in keep:
            keep[node.output] = result
        for name in node.inputs:
            if last_use[name] == index and name != graph.input:
                values.pop(name, None)
    return result


def _weight(node: Node, parameters: Mapping[str, Tensor], on_weight: WeightHook | None) -> Tensor:
    weight = parameters[str(node.weight)]
    return weight if on_weight is None else on_weight(node, weight)


def _run_conv(node: Node, read: list[Tensor], parameters: Mapping[str, Tensor], on_weight: WeightHook | None) -> Tensor:
    top, left, bottom, right = node.attributes["pads"]
    value, padding = read[0], (top, left)
    if (top, left) != (bottom, right):
        value, padding = F.pad(value, (left, right, top, bottom)), (0, 0)
    return F.conv2d(
        value,
        _weight(node, parameters, on_weight),
        parameters[node.bias] if node.bias else None,
        stride=node.attributes["strides"],
        padding=padding,
        groups=node.attributes["group"],
    )


def _run_gemm(node: Node, read: list[Tensor], parameters: Mapping[str, Tensor], on_weight: WeightHook | None) -> Tensor:
    weight = _weight(node, parameters, on_weight)
    return F.linear(
        read[0], weight if node.attributes["transB"] else weight.t(), parameters[node.bias] if node.bias else None
    )


def _run_pool(node: Node, read: list[Tensor], *_: Any) -> Tensor:
    kernel = node.attributes["kernel"]
    if kernel is None or tuple(read[0].shape[2:]) == kernel:
        pooled = read[0].mean(dim=(2, 3), keepdim=True)
        return pooled if node.attributes["keepdims"] else pooled.flatten(1)
    return F.avg_pool2d(read[0], kernel, node.attributes["strides"])


def _run_slice(node: Node, read: list[Tensor], *_: Any) -> Tensor:
    return read[0][:, node.attributes["start"] : node.attributes["end"]]


def _run_max_pool(node: Node, read: list[Tensor], *_: Any) -> Tensor:
    return F.max_pool2d(read[0], node.attributes["kernel"], node.attributes["strides"], node.attributes["pad"])


def _run_gather(node: Node, read: list[Tensor], *_: Any) -> Tensor:
    return read[0].index_select(1, torch.tensor(node.attributes["channels"]))


def _run_ramp(node: Node, read: list[Tensor], *_: Any) -> Tensor:
    return torch.clamp(read[0] * node.attributes["alpha"] + node.attributes["beta"], 0, 1)


_EXECUTE: dict[str, Callable[..., Tensor]] = {
    "Gather": _run_gather,
    "HardSigmoid": _run_ramp,
    "HardSwish": lambda _, read, *_rest: F.hardswish(read[0]),
    "MaxPool": _run_max_pool,
    "Mul": lambda _, read, *_rest: read[0] * read[1],
    "Conv": _run_conv,
    "Gemm": _run_gemm,
    "Relu": lambda _, read, *_rest: F.relu(read[0]),
    "Clip": lambda node, read, *_: torch.clamp(read[0], node.attributes["min"], node.attributes["max"]),
    "Add": lambda _, read, *_rest: read[0] + read[1],
    "Concat": lambda _, read, *_rest: torch.cat(read, 1),
    "Slice": _run_slice,
    "Pool": _run_pool,
    "Flatten": lambda _, read, *_rest: read[0].flatten(1),
}


def read_graph(model: onnx.ModelProto, where: str = "model") -> Graph:
    """Read a family network; anything that this reader does not know is an InputError that lists what it does know."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset not in OPSETS:
        raise InputError(
            f"{where}: opset {opset}, this version reads {OPSETS.start} to {OPSETS.stop - 1}; export again"
        )
    return _Reader(model, where).graph()


class _Reader:
    def __init__(self, model: onnx.ModelProto, where: str) -> None:
        self.model, self.where = model, where
        self.constants: dict[str, NDArray[Any]] = {}
        for initializer in model.graph.initializer:
            self.constants[initializer.name] = self._array(initializer, initializer.name)
        for node in model.graph.node:
            if node.op_type == "Constant":
                value = next((a.t for a in node.attribute if a.name == "value"), None)
                if value is None:
                    raise InputError(f"{where}: Constant {node.name!r} holds no tensor; simplify the model first")
                self.constants[node.output[0]] = self._array(value, node.output[0])
        self.parameters: dict[str, NDArray[np.float32]] = {}

    def _array(self, tensor: onnx.TensorProto, name: str) -> NDArray[Any]:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise InputError(f"{self.where}: {name!r} lies in an external file; save the model as one file first")
        if any(d < 0 for d in tensor.dims) or int(np.prod(list(tensor.dims), dtype=np.float64)) > _MAX_ELEMENTS:
            raise InputError(f"{self.where}: {name!r} has the shape {list(tensor.dims)}, more than this toolkit takes")
        return np.asarray(numpy_helper.to_array(tensor))

    def graph(self) -> Graph:
        inputs = [value for value in self.model.graph.input if value.name not in self.constants]
        if len(inputs) != 1 or len(self.model.graph.output) != 1:
            found = f"{len(inputs)} inputs and {len(self.model.graph.output)} outputs"
            raise InputError(f"{self.where}: expected one input and one output, found {found}")
        shape = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim]
        if len(shape) != 4 or min(shape[1:]) < 1:
            raise InputError(f"{self.where}: expected a fixed input of (batch, channels, height, width), found {shape}")
        nodes: list[Node] = []
        taken: set[str] = set()
        for source in self.model.graph.node:
            if source.op_type == "Constant":
                continue
            node = self._node(source)
            if node.name in taken:
                node = replace(node, name=node.output)
            taken.add(node.name)
            nodes.append(node)
        renamed: dict[str, str] = {}
        kept: list[Node] = []
        for node in nodes:
            sources = tuple(renamed.get(name, name) for name in node.inputs)
            if node.op == "Identity":
                renamed[node.output] = sources[0]
                continue
            kept.append(replace(node, inputs=sources))
        output = self.model.graph.output[0].name
        known = {inputs[0].name}
        for node in kept:
            missing = [name for name in node.inputs if name not in known]
            if missing:
                raise InputError(
                    f"{self.where}: {node.op} {node.name!r} reads {missing[0]!r}, which nothing before it makes"
                )
            known.add(node.output)
        output = renamed.get(output, output)
        if output not in known or not any(node.op in WEIGHTED for node in kept):
            raise InputError(f"{self.where}: no network with convolutions leads to the output {output!r}")
        return Graph(
            tuple(kept), self.parameters, inputs[0].name, output, (int(shape[1]), int(shape[2]), int(shape[3]))
        )

    def _node(self, node: onnx.NodeProto) -> Node:
        reader = _READERS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        name = node.name or (node.output[0] if node.output else "")
        if reader is None:
            hint = {
                "BatchNormalization": "fold it into the convolution first (fuse or simplify)",
                "QuantizeLinear": "the model is quantised already; start from the fp32 file",
                "Cast": "start from the fp32 file",
            }.get(node.op_type, "simplify the model; a network with this operator stays float")
            known = ", ".join(sorted(_READERS))
            raise InputError(
                f"{self.where}: operator {node.op_type} ({name!r}) is not known here; {hint}; known: {known}"
            )
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        return reader(self, node, name, attributes)

    def fail(self, node: onnx.NodeProto, what: str) -> InputError:
        return InputError(f"{self.where}: {node.op_type} {node.name or node.output[0]!r}: {what}")

    def constant(self, node: onnx.NodeProto, index: int) -> NDArray[Any] | None:
        """The constant at an input place; None where the input is absent."""
        if len(node.input) <= index or not node.input[index]:
            return None
        if node.input[index] not in self.constants:
            raise self.fail(node, f"input {index} must be a constant")
        return self.constants[node.input[index]]

    def parameter(self, node: onnx.NodeProto, index: int, rank: int) -> str | None:
        value = self.constant(node, index)
        if value is None:
            return None
        if value.dtype != np.float32 or value.ndim != rank or not np.isfinite(value).all():
            raise self.fail(
                node, f"input {index} must be finite float32 of rank {rank}, found {value.dtype} {list(value.shape)}"
            )
        name = str(node.input[index])
        self.parameters[name] = np.ascontiguousarray(value)
        return name

    def conv(self, node: onnx.NodeProto, name: str, attributes: dict[str, Any]) -> Node:
        weight = self.parameter(node, 1, 4)
        if weight is None:
            raise self.fail(node, "has no weight")
        pads = tuple(attributes.get("pads", (0, 0, 0, 0)))
        auto = attributes.get("auto_pad", b"NOTSET")
        if auto not in (b"NOTSET", b"VALID") or any(d != 1 for d in attributes.get("dilations", ())) or len(pads) != 4:
            raise self.fail(node, "only explicit 2-D padding without dilation is known")
        values = {
            "pads": pads,
            "strides": tuple(attributes.get("strides", (1, 1))),
            "group": int(attributes.get("group", 1)),
        }
        return Node("Conv", name, (node.input[0],), node.output[0], values, weight, self.parameter(node, 2, 1))

    def gemm(self, node: onnx.NodeProto, name: str, attributes: dict[str, Any]) -> Node:
        if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0 or attributes.get("transA", 0):
            raise self.fail(node, "only alpha = beta = 1 without transA is known")
        weight = self.parameter(node, 1, 2)
        values = {"transB": int(attributes.get("transB", 0))}
        return Node("Gemm", name, (node.input[0],), node.output[0], values, weight, self.parameter(node, 2, 1))

    def pool(self, node: onnx.NodeProto, name: str, attributes: dict[str, Any]) -> Node:
        kernel = tuple(attributes["kernel_shape"])
        if any(attributes.get("pads", ())) or attributes.get("ceil_mode", 0) or len(kernel) != 2:
            raise self.fail(node, "only 2-D pooling without padding is known")
        strides = tuple(attributes.get("strides", (1, 1)))
        return Node(
            "Pool", name, (node.input[0],), node.output[0], {"kernel": kernel, "strides": strides, "keepdims": True}
        )

    def global_pool(self, node: onnx.NodeProto, name: str, attributes: dict[str, Any]) -> Node:
        axes: Any = (2, 3)
        if node.op_type == "ReduceMean":
            constant = self.constant(node, 1)
            axes = attributes.get("axes", () if constant is None else constant.tolist())
        if sorted(int(a) % 4 for a in axes) != [2, 3]:
            raise self.fail(node, f"a mean over the axes {list(axes)}; only the mean over height and width is known")
        values = {"kernel": None, "strides": None, "keepdims": bool(attributes.get("keepdims", 1))}
        return Node("Pool", name, (node.input[0],), node.output[0], values)

    def concat(self, node: onnx.NodeProto, name: str, attributes: dict[str, Any]) -> Node:
        if attributes.get("axis") not in (1, -3):
            raise self.fail(node, "only the channel axis is known")
        return Node("Concat", name, tuple(node.input), node.output[0])

    def slice(self, node: onnx.NodeProto, name: str, attributes: dict[str, Any]) -> Node:
        def ints(key: str, index: int) -> list[int]:
            if key in attributes:
                return [int(v) for v in attributes[key]]
            constant = self.constant(node, index)
            return [] if constant is None else [int(v) for v in constant.reshape(-1)]

        starts, ends, axes, steps = ints("starts", 1), ints("ends", 2), ints("axes", 3), ints("steps", 4)
        plain = axes in ([1], [-3]) and steps in ([], [1]) and len(starts) == len(ends) == 1
        if not plain or not 0 <= starts[0] < ends[0]:
            raise self.fail(node, "only neighbouring channels (axis 1, step 1, counted from the first) can be cut out")
        return Node("Slice", name, (node.input[0],), node.output[0], {"start": starts[0], "end": ends[0]})

    def gather(self, node: onnx.NodeProto, name: str, attributes: dict[str, Any]) -> Node:
        channels = self.constant(node, 1)
        if channels is None or channels.ndim != 1 or attributes.get("axis", 0) not in (1, -3) or channels.min() < 0:
            raise self.fail(node, "only a list of channels can be gathered")
        return Node("Gather", name, (node.input[0],), node.output[0], {"channels": tuple(int(c) for c in channels)})

    def max_pool(self, node: onnx.NodeProto, name: str, attributes: dict[str, Any]) -> Node:
        kernel, pads = tuple(attributes["kernel_shape"]), tuple(attributes.get("pads", (0, 0, 0, 0)))
        strides = tuple(attributes.get("strides", (1, 1)))
        plain = attributes.get("auto_pad", b"NOTSET") == b"NOTSET" and not attributes.get("ceil_mode", 0)
        if not plain or len(set(kernel)) != 1 or len(set(strides)) != 1 or len(set(pads)) != 1 or len(kernel) != 2:
            raise self.fail(node, "only square windows with even padding are known")
        if set(attributes.get("dilations", [1])) != {1} or 2 * pads[0] > kernel[0]:
            raise self.fail(node, "only windows without dilation, padded by half of themselves at most, are known")
        values = {"kernel": kernel, "strides": strides, "pad": pads[0]}
        return Node("MaxPool", name, (node.input[0],), node.output[0], values)

    def hard(self, node: onnx.NodeProto, name: str, attributes: dict[str, Any]) -> Node:
        values = {"alpha": float(attributes.get("alpha", 0.2)), "beta": float(attributes.get("beta", 0.5))}
        return Node(node.op_type, name, (node.input[0],), node.output[0], values)

    def mul(self, node: onnx.NodeProto, name: str, _: dict[str, Any]) -> Node:
        if any(source in self.constants for source in node.input):
            raise self.fail(node, "works on a constant; simplify the model first")
        return Node("Mul", name, tuple(node.input), node.output[0])

    def flatten(self, node: onnx.NodeProto, name: str, attributes: dict[str, Any]) -> Node:
        if node.op_type == "Flatten":
            plain = attributes.get("axis", 1) == 1
        elif node.op_type == "Reshape":
            shape = self.constant(node, 1)
            target = [] if shape is None else [int(v) for v in shape]
            plain = len(target) == 2 and (target[1] == -1 or target[0] == -1 or target[0] in (0, 1))
        else:
            constant = self.constant(node, 1)
            axes = attributes.get("axes", () if constant is None else constant.tolist())
            plain = sorted(int(a) % 4 for a in axes) == [2, 3]
        if not plain:
            raise self.fail(node, "only a flattening to (batch, channels) is known")
        return Node("Flatten", name, (node.input[0],), node.output[0])

    def clip(self, node: onnx.NodeProto, name: str, attributes: dict[str, Any]) -> Node:
        low, high = self.constant(node, 1), self.constant(node, 2)
        bottom = float(attributes.get("min", -np.inf) if low is None else low)
        top = float(attributes.get("max", np.inf) if high is None else high)
        if bottom != 0 or top <= 0:
            raise self.fail(node, f"clips to {bottom:g}..{top:g}; only clips from 0 upward are known")
        return Node("Clip", name, (node.input[0],), node.output[0], {"min": bottom, "max": top})

    def plain(self, node: onnx.NodeProto, name: str, _: dict[str, Any]) -> Node:
        op = "Identity" if node.op_type == "Dropout" else node.op_type
        if any(source in self.constants for source in node.input[: 2 if op == "Add" else 1]):
            raise self.fail(node, "works on a constant; simplify the model first")
        return Node(op, name, tuple(node.input[: 2 if op == "Add" else 1]), node.output[0])


_READERS: dict[str, Callable[[_Reader, onnx.NodeProto, str, dict[str, Any]], Node]] = {
    "Conv": _Reader.conv,
    "Gemm": _Reader.gemm,
    "AveragePool": _Reader.pool,
    "GlobalAveragePool": _Reader.global_pool,
    "ReduceMean": _Reader.global_pool,
    "Concat": _Reader.concat,
    "Slice": _Reader.slice,
    "Gather": _Reader.gather,
    "HardSigmoid": _Reader.hard,
    "HardSwish": _Reader.hard,
    "MaxPool": _Reader.max_pool,
    "Mul": _Reader.mul,
    "Reshape": _Reader.flatten,
    "Flatten": _Reader.flatten,
    "Squeeze": _Reader.flatten,
    "Clip": _Reader.clip,
    "Relu": _Reader.plain,
    "Add": _Reader.plain,
    "Identity": _Reader.plain,
    "Dropout": _Reader.plain,
}
