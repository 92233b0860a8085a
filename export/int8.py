"""Write a calibrated plan as an ONNX Q/DQ graph: the input model, with int8 weights and Q/DQ pairs where the plan says.

The same pairs serve ONNX Runtime, TensorRT and the C compiler: symmetric int8, zero point 0, one scale per tensor or
per output channel, bias in float. docs/int8.md tells what the graph means in integers.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from calib.graph import read_graph
from calib.plan import Plan, accumulator_unit, snap_biases
from runtime.errors import CheckFailedError, InputError

FIRST_OPSET = 13
"""Scales per channel exist from here on."""


def write_int8(model: ModelProto, plan: Plan, where: str = "model") -> ModelProto:
    """The int8 model; names, metadata and the opset (raised to 13 where it is older) stay."""
    result = _raised(model, where)
    before = read_graph(result, where)
    if [node.output for node in before.nodes] != [node.output for node in plan.graph.nodes]:
        raise InputError(f"{where}: the plan was made for another network; calibrate this one")
    _check_plan(plan)
    plan = snap_biases(plan)
    graph = result.graph
    del graph.value_info[:]
    constants = _Constants(graph)
    _quantise_weights(graph, plan, constants)
    _insert_pairs(graph, plan, constants)
    for name, value in plan.graph.parameters.items():
        if name in constants.used_after(graph):
            constants.replace(name, value)
    constants.drop_unused()
    _check_accumulators(plan)
    onnx.checker.check_model(result, full_check=True)
    return result


def _raised(model: ModelProto, where: str) -> ModelProto:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset >= FIRST_OPSET:
        copy = ModelProto()
        copy.CopyFrom(model)
        return copy
    from onnx import version_converter

    try:
        raised = version_converter.convert_version(model, FIRST_OPSET)
    except Exception as error:
        raise InputError(
            f"{where}: opset {opset} could not be raised to {FIRST_OPSET}; export the model again"
        ) from error
    raised.metadata_props.extend(p for p in model.metadata_props if p.key not in {q.key for q in raised.metadata_props})
    raised.ir_version = max(raised.ir_version, 7)
    return raised


class _Constants:
    """The initializers of a graph, Constant nodes turned into such."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        for node in [n for n in graph.node if n.op_type == "Constant"]:
            tensor = next(a.t for a in node.attribute if a.name == "value")
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
            graph.node.remove(node)
        self.place = {tensor.name: index for index, tensor in enumerate(graph.initializer)}
        self.names = set(self.place) | {name for n in graph.node for name in (*n.input, *n.output)}

    def fresh(self, wanted: str) -> str:
        """A name that nothing has yet."""
        name, number = wanted, 1
        while name in self.names:
            number += 1
            name = f"{wanted}_{number}"
        self.names.add(name)
        return name

    def add(self, wanted: str, value: NDArray[np.generic]) -> str:
        name = self.fresh(wanted)
        self.place[name] = len(self.graph.initializer)
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def scalar(self, wanted: str, value: np.generic) -> str:
        name = self.fresh(wanted)
        self.place[name] = len(self.graph.initializer)
        self.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
        return name

    def replace(self, name: str, value: NDArray[np.float32]) -> None:
        self.graph.initializer[self.place[name]].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))

    def used_after(self, graph: onnx.GraphProto) -> set[str]:
        return {name for node in graph.node for name in node.input} & set(self.place)

    def drop_unused(self) -> None:
        used = {name for node in self.graph.node for name in node.input}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used]
        declared = [value for value in self.graph.input if value.name not in self.place]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        del self.graph.input[:]
        self.graph.input.extend(declared)


def _quantise_weights(graph: onnx.GraphProto, plan: Plan, constants: _Constants) -> None:
    by_output = {node.output: node for node in plan.graph.weighted if node.name in plan.sites.quantised}
    made: dict[str, str] = {}
    nodes: list[NodeProto] = []
    for node in graph.node:
        planned = by_output.get(node.output[0])
        if planned is not None:
            weight = str(planned.weight)
            if weight not in made:
                codes, steps = plan.codes(weight), plan.weight_scales[weight]
                name = constants.fresh(f"{weight}_dequantized")
                inputs = [
                    constants.add(f"{weight}_quantized", codes),
                    constants.add(f"{weight}_scale", steps.astype(np.float32)),
                    constants.add(f"{weight}_zero_point", np.zeros(len(steps), dtype=np.int8)),
                ]
                nodes.append(helper.make_node("DequantizeLinear", inputs, [name], name=name, axis=0))
                made[weight] = name
            node.input[1] = made[weight]
        nodes.append(node)
    _replace_nodes(graph, nodes)


def _insert_pairs(graph: onnx.GraphProto, plan: Plan, constants: _Constants) -> None:
    readers: dict[str, list[str]] = {}
    outputs = {node.name: node.output for node in plan.graph.nodes}
    for reader, tensor in sorted(plan.sites.readers):
        readers.setdefault(tensor, []).append(outputs[reader])
    zero = constants.scalar("int8_zero_point", np.int8(0))
    steps: dict[str, str] = {}
    pairs: dict[str, tuple[list[NodeProto], str]] = {}
    for tensor in plan.sites.group:
        if tensor not in readers:
            continue
        group = plan.sites.group[tensor]
        if group not in steps:
            steps[group] = constants.scalar(f"{group}_scale", np.float32(plan.scales[group]))
        stored = constants.fresh(f"{tensor}_quantized")
        read = constants.fresh(f"{tensor}_dequantized")
        pairs[tensor] = (
            [
                helper.make_node("QuantizeLinear", [tensor, steps[group], zero], [stored], name=stored),
                helper.make_node("DequantizeLinear", [stored, steps[group], zero], [read], name=read),
            ],
            read,
        )
    planned = {node.output: node for node in plan.graph.nodes}
    for node in graph.node:
        plan_node = planned.get(node.output[0])
        if plan_node is None:
            continue
        for place, tensor in enumerate(plan_node.inputs):
            if (plan_node.name, tensor) in plan.sites.readers:
                node.input[place] = pairs[tensor][1]
    nodes: list[NodeProto] = list(pairs[plan.graph.input][0]) if plan.graph.input in pairs else []
    for node in graph.node:
        nodes.append(node)
        if node.output[0] in pairs:
            nodes.extend(pairs[node.output[0]][0])
    _replace_nodes(graph, nodes)


def _replace_nodes(graph: onnx.GraphProto, nodes: Iterable[NodeProto]) -> None:
    kept = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        kept.append(copy)
    del graph.node[:]
    graph.node.extend(kept)


def _check_plan(plan: Plan) -> None:
    for name, steps in [*plan.weight_scales.items(), *plan.scales.items()]:
        values = np.asarray(steps, dtype=np.float32)
        if not np.isfinite(values).all() or (values <= 0).any():
            raise CheckFailedError(f"int8 scale of {name!r} is not a positive number; choose other calibration faces")


def _check_accumulators(plan: Plan) -> None:
    """No input at all may overflow the int32 sum: checked by the sum of the weights' magnitudes."""
    for node in plan.graph.weighted:
        if node.name not in plan.sites.quantised:
            continue
        codes = plan.codes(str(node.weight)).astype(np.int64)
        largest = np.abs(codes).sum(axis=(1, 2, 3)) * 128
        if node.bias:
            largest = largest + np.abs(integer_bias(plan, node.name))
        if largest.max() >= 2**31:
            raise CheckFailedError(f"layer {node.name!r} could overflow its 32-bit sum; leave it in float")


def integer_bias(plan: Plan, name: str) -> NDArray[np.int64]:
    """The bias of an int8 convolution in accumulator units: rne(bias / (s_x * s_w))."""
    node = next(n for n in plan.graph.weighted if n.name == name)
    unit = accumulator_unit(plan, node)
    bias = plan.graph.parameters[str(node.bias)].astype(np.float64)
    return np.rint(bias / unit).astype(np.int64)


def is_int8(model: ModelProto) -> bool:
    """Whether a model holds int8 weights between Q/DQ pairs."""
    return any(tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 4 for tensor in model.graph.initializer)
