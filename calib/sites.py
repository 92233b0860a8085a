"""Where a network is quantised: which tensors become int8, and which of them must share one scale."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from calib.graph import PASSING, Graph, Node


@dataclass(frozen=True)
class Sites:
    """The tensors that are read as int8 and the scale groups behind them."""

    quantised: frozenset[str]
    """Names of the weighted nodes that run in int8."""
    readers: frozenset[tuple[str, str]]
    """(node name, tensor): reads that see the int8 value."""
    group: dict[str, str]
    """Tensor -> name of its scale group; covers the read tensors and all that flows into them unchanged."""

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.group.values()))

    def members(self, group: str) -> tuple[str, ...]:
        return tuple(tensor for tensor, name in self.group.items() if name == group)


def find_sites(graph: Graph, float_nodes: Collection[str] = ()) -> Sites:
    """Int8 on the inputs of convolutions, pools and additions, and on maps that are multiplied by factors.

    Fully connected layers, what is computed from a pool alone, and `float_nodes` stay float.
    """
    vectors = _vectors(graph)
    quantised = frozenset(
        n.name for n in graph.weighted if n.op == "Conv" and n.name not in float_nodes and n.inputs[0] not in vectors
    )
    readers: list[tuple[str, str]] = []
    for node in graph.nodes:
        if node.name in quantised or (node.op in ("Pool", "MaxPool") and node.name not in float_nodes):
            readers.append((node.name, node.inputs[0]))
        elif node.op == "Mul":
            readers.extend((node.name, name) for name in node.inputs if name not in vectors)
        elif node.op == "Add":
            fused = _fused_input(graph, node, quantised)
            readers.extend((node.name, name) for name in node.inputs if name != fused)
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    waiting = list(dict.fromkeys(tensor for _, tensor in readers))
    while waiting:
        tensor = waiting.pop(0)
        parent.setdefault(tensor, tensor)
        node_ = graph.producer(tensor)
        if node_ is None or node_.op not in PASSING:
            continue
        for source in node_.inputs:
            if source not in parent:
                parent[source] = source
                waiting.append(source)
            parent[find(source)] = find(tensor)
    order = {node.output: index for index, node in enumerate(graph.nodes)}
    tensors = sorted(parent, key=lambda name: order.get(name, -1))
    names: dict[str, str] = {}
    for tensor in tensors:
        names.setdefault(find(tensor), tensor)
    return Sites(quantised, frozenset(readers), {tensor: names[find(tensor)] for tensor in tensors})


def _vectors(graph: Graph) -> set[str]:
    """Means over a map, and what is computed from them alone."""
    found: set[str] = set()
    for node in graph.nodes:
        if node.op == "Pool" or all(name in found for name in node.inputs):
            found.add(node.output)
    return found


def _fused_input(graph: Graph, add: Node, quantised: Collection[str]) -> str | None:
    """The input of an addition that stays in the accumulator: a convolution that only it reads; the later one wins."""
    for name in reversed(add.inputs):
        producer = graph.producer(name)
        if producer is not None and producer.name in quantised and len(graph.consumers(name)) == 1:
            return name
    return None
