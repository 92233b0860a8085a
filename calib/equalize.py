"""Cross-layer equalisation: give the channels that share an int8 scale a similar range, without changing the network.

A convolution may scale its output channels if every reader divides by the same factor. ReLU, concat, slice, pooling and
flattening pass a channel's factor on; an addition ties the channels of its two inputs together; the channels of hard
activations keep their scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from calib.graph import Graph
from calib.sites import Sites
from runtime.errors import UsageError

FIXED = -1
"""Class of the channels that must keep their scale."""


def channel_classes(graph: Graph) -> tuple[dict[str, NDArray[np.int64]], int]:
    """For every tensor the class of each channel; channels of one class carry one common factor."""
    parent: list[int] = []

    def find(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    classes: dict[str, NDArray[np.int64]] = {graph.input: np.full(graph.input_shape[0], FIXED)}
    pinned: set[int] = set()

    def pin(values: NDArray[np.int64]) -> None:
        pinned.update(int(v) for v in values if v != FIXED)

    for node in graph.nodes:
        sources = [classes[name] for name in node.inputs]
        if node.weight is not None:
            count = graph.parameters[node.weight].shape[0 if node.op == "Conv" or node.attributes["transB"] else 1]
            if node.op == "Gemm" and node.output == graph.output:
                classes[node.output] = np.full(count, FIXED)
                continue
            classes[node.output] = np.arange(len(parent), len(parent) + count)
            parent.extend(range(len(parent), len(parent) + count))
        elif node.op == "Concat":
            classes[node.output] = np.concatenate(sources)
        elif node.op == "Slice":
            classes[node.output] = sources[0][node.attributes["start"] : node.attributes["end"]]
        elif node.op == "Gather":
            classes[node.output] = sources[0][list(node.attributes["channels"])]
        elif node.op in ("HardSwish", "HardSigmoid"):
            pin(sources[0])
            classes[node.output] = np.full(len(sources[0]), FIXED)
        elif node.op == "Mul":
            free = next((i for i in (0, 1) if (sources[1 - i] == FIXED).all()), None)
            if free is None:
                pin(np.concatenate(sources))
            classes[node.output] = np.full(len(sources[0]), FIXED) if free is None else sources[free]
        elif node.op == "Add":
            for left, right in zip(*sources, strict=True):
                if FIXED in (left, right):
                    pin(np.array([left, right]))
                else:
                    parent[find(int(right))] = find(int(left))
            classes[node.output] = sources[0]
        else:
            if node.op == "Clip" and np.isfinite(node.attributes["max"]):
                pin(sources[0])
            classes[node.output] = sources[0]
    pin(classes[graph.output])
    frozen = {find(index) for index in pinned}
    roots = np.array([FIXED if find(i) in frozen else find(i) for i in range(len(parent))] + [FIXED], dtype=np.int64)
    return {name: roots[value] for name, value in classes.items()}, len(parent)


def apply_factors(graph: Graph, factors: Mapping[str, NDArray[np.float64]]) -> Graph:
    """The same network with the channels of every tensor multiplied by `factors` (as `channel_classes` allows)."""
    changed: dict[str, NDArray[np.float32]] = dict(graph.parameters)
    seen: set[str] = set()
    for node in graph.weighted:
        into, out = factors[node.inputs[0]], factors[node.output]
        names = [name for name in (node.weight, node.bias) if name]
        if np.all(into == 1) and np.all(out == 1):
            seen.update(names)
            continue
        if seen.intersection(names):
            raise UsageError(
                f"{node.op} {node.name!r}: its parameters serve another node too; equalisation is not possible"
            )
        seen.update(names)
        weight = graph.parameters[str(node.weight)].astype(np.float64)
        if node.op == "Gemm":
            weight = weight / into if node.attributes["transB"] else weight / into[:, None]
            weight = weight * out[:, None] if node.attributes["transB"] else weight * out
        else:
            groups = node.attributes["group"]
            per_group = into.reshape(groups, -1)
            outs = weight.shape[0] // groups
            divide = np.repeat(per_group, outs, axis=0)
            weight = weight * out[:, None, None, None] / divide[:, :, None, None]
        changed[str(node.weight)] = weight.astype(np.float32)
        if node.bias:
            changed[node.bias] = (graph.parameters[node.bias].astype(np.float64) * out).astype(np.float32)
    return replace(graph, parameters=changed)


def equalise(
    graph: Graph,
    sites: Sites,
    channel_range: Mapping[str, NDArray[np.float64]],
    strength: float = 1.0,
    limit: float = 16.0,
) -> Graph:
    """Raise the quiet channels of each scale group towards its loudest one.

    `channel_range` holds each channel's largest magnitude for every tensor of `sites.group`. A channel's factor is
    (loudest / own) ** strength, at most `limit`.
    """
    factors = equal_factors(graph, sites, channel_range, strength, limit)
    return apply_factors(graph, factors)


def equal_factors(
    graph: Graph,
    sites: Sites,
    channel_range: Mapping[str, NDArray[np.float64]],
    strength: float,
    limit: float,
) -> dict[str, NDArray[np.float64]]:
    """The factor of each channel of each tensor."""
    classes, count = channel_classes(graph)
    loudest = {group: max(float(channel_range[t].max()) for t in sites.members(group)) for group in sites.groups}
    room = np.full(count, np.inf)
    for tensor, group in sites.group.items():
        for index, own in zip(classes[tensor], channel_range[tensor], strict=True):
            if index != FIXED:
                gain = loudest[group] / own if own > 0 else limit
                room[index] = min(room[index], gain)
    factor = np.where(np.isfinite(room), np.minimum(np.maximum(room, 1.0) ** strength, limit), 1.0)
    table = np.append(factor, 1.0)
    return {tensor: table[index] for tensor, index in classes.items()}
