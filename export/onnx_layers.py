"""The weighted layers of an ONNX graph, in an order that depends on how they are wired and not on the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnx import GraphProto, NodeProto

from runtime.errors import InputError

WEIGHTED = ("Conv", "Gemm", "MatMul", "QLinearConv", "ConvInteger")


@dataclass(frozen=True)
class OnnxLayer:
    """One weighted node, and the tensor that leaves it after its own activation."""

    node: NodeProto
    output: str


def weighted_layers(graph: GraphProto, where: str) -> list[OnnxLayer]:
    """Weighted nodes as they are met when the first output is traced back to the input, operands in order."""
    if not graph.output:
        raise InputError(f"{where}: the graph has no output")
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return [
        OnnxLayer(node, _after_activation(node, readers)) for node in _traced(graph, where) if node.op_type in WEIGHTED
    ]


def _after_activation(node: NodeProto, readers: dict[str, list[NodeProto]]) -> str:
    """The name of what the rest of the graph reads: behind batch normalisation and ReLU, where they alone follow."""
    output: str = node.output[0]
    for expected in ("BatchNormalization", "Relu"):
        following = readers.get(output, [])
        if len(following) == 1 and following[0].op_type == expected and following[0].input[0] == output:
            output = following[0].output[0]
    return output


def _traced(graph: GraphProto, where: str) -> Iterator[NodeProto]:
    """Every node the first output depends on, each after all of its operands."""
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    first = maker.get(graph.output[0].name)
    if first is None:
        raise InputError(f"{where}: nothing computes the output {graph.output[0].name!r}")
    done: set[int] = set()
    open_now: set[int] = set()
    waiting: list[tuple[int, bool]] = [(first, False)]
    while waiting:
        index, operands_done = waiting.pop()
        node = graph.node[index]
        if operands_done:
            done.add(index)
            open_now.discard(index)
            yield node
            continue
        if index in done:
            continue
        if index in open_now:
            raise InputError(f"{where}: node {node.name or node.output[0]!r} depends on its own result")
        open_now.add(index)
        waiting.append((index, True))
        makers = [maker[name] for name in node.input if name in maker]
        waiting.extend((operand, False) for operand in reversed(makers) if operand not in done)
