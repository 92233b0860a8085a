"""A fused network of the zoo as the graph that calibration works on, without a detour over ONNX."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from calib.graph import Graph, Node
from runtime.errors import InputError
from runtime.spec import ModelSpec


def trace(model: nn.Module, spec: ModelSpec) -> Graph:
    """The graph of a fused network; its parameters have the names of the state dict, as in the exported ONNX file."""
    try:
        traced = fx.symbolic_trace(model)
    except Exception as error:
        raise InputError(
            f"{spec.architecture}: its computation cannot be followed ({error}); int8 does not know it"
        ) from error
    return _Tracer(traced, spec).graph()


class _Tracer:
    def __init__(self, traced: fx.GraphModule, spec: ModelSpec) -> None:
        self.traced, self.spec = traced, spec
        self.names: dict[fx.Node, str] = {}
        self.nodes: list[Node] = []
        self.parameters: dict[str, NDArray[np.float32]] = {}

    def graph(self) -> Graph:
        source = output = ""
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                source = self.names[node] = "input"
            elif node.op == "output":
                output = self.names[node.args[0]]
            else:
                self._node(node)
        size = self.spec.input_size
        return Graph(tuple(self.nodes), self.parameters, source, output, (3, size, size))

    def _node(self, node: fx.Node) -> None:
        if node.op == "call_module":
            module = self.traced.get_submodule(str(node.target))
            reader = next((read for kind, read in _MODULES.items() if isinstance(module, kind)), None)
            if reader is None:
                raise self.unknown(type(module).__name__, node)
            reader(self, node, module)
            return
        function = _FUNCTIONS.get(node.target) if node.op.startswith("call_") else None
        if function is None:
            raise self.unknown(str(node.target), node)
        function(self, node)

    def unknown(self, what: str, node: fx.Node) -> InputError:
        return InputError(
            f"{self.spec.architecture}: int8 does not know {what} ({node.name}); it knows the PFLD family"
        )

    def add(self, node: fx.Node, op: str, inputs: list[fx.Node], **rest: Any) -> None:
        name = str(node.target) if node.op == "call_module" else node.name
        self.names[node] = node.name
        self.nodes.append(Node(op, name, tuple(self.names[i] for i in inputs), node.name, **rest))

    def conv(self, node: fx.Node, conv: nn.Conv2d) -> None:
        if conv.padding_mode != "zeros" or conv.dilation != (1, 1) or isinstance(conv.padding, str):
            raise self.unknown("a convolution with dilation or odd padding", node)
        high, wide = conv.padding
        values = {"pads": (high, wide, high, wide), "strides": tuple(conv.stride), "group": conv.groups}
        self.add(node, "Conv", list(node.all_input_nodes), attributes=values, **self._weights(node, conv))

    def linear(self, node: fx.Node, linear: nn.Linear) -> None:
        self.add(node, "Gemm", list(node.all_input_nodes), attributes={"transB": 1}, **self._weights(node, linear))

    def _weights(self, node: fx.Node, layer: nn.Conv2d | nn.Linear) -> dict[str, str | None]:
        weight, bias = f"{node.target}.weight", None if layer.bias is None else f"{node.target}.bias"
        for name, value in ((weight, layer.weight), (bias, layer.bias)):
            if name is not None and value is not None:
                self.parameters[name] = value.detach().cpu().contiguous().numpy().copy()
        return {"weight": weight, "bias": bias}

    def relu(self, node: fx.Node, _: nn.Module) -> None:
        self.add(node, "Relu", list(node.all_input_nodes))

    def same(self, node: fx.Node, _: nn.Module) -> None:
        self.names[node] = self.names[node.all_input_nodes[0]]

    def cat(self, node: fx.Node) -> None:
        if (node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) != 1:
            raise self.unknown("a concat along another axis than the channels", node)
        parts: Any = node.args[0]
        self.add(node, "Concat", list(parts))

    def sum(self, node: fx.Node) -> None:
        if len(node.all_input_nodes) != 2:
            raise self.unknown("an addition of a constant", node)
        self.add(node, "Add", list(node.all_input_nodes))

    def mean(self, node: fx.Node) -> None:
        if tuple(node.args[1:]) != ((2, 3),) or node.kwargs:
            raise self.unknown("a mean over other axes than height and width", node)
        self.add(
            node, "Pool", [node.all_input_nodes[0]], attributes={"kernel": None, "strides": None, "keepdims": False}
        )

    def flatten(self, node: fx.Node) -> None:
        if tuple(node.args[1:]) != (1,) or node.kwargs:
            raise self.unknown("a flattening from another axis", node)
        self.add(node, "Flatten", [node.all_input_nodes[0]])


_MODULES: dict[type[nn.Module], Callable[[_Tracer, fx.Node, Any], None]] = {
    nn.Conv2d: _Tracer.conv,
    nn.Linear: _Tracer.linear,
    nn.ReLU: _Tracer.relu,
    nn.Identity: _Tracer.same,
}
_FUNCTIONS: dict[Any, Callable[[_Tracer, fx.Node], None]] = {
    torch.cat: _Tracer.cat,
    operator.add: _Tracer.sum,
    "mean": _Tracer.mean,
    "flatten": _Tracer.flatten,
}
