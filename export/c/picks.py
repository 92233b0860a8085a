"""Channel slices and shuffles cost nothing: convolutions read the channels they want where they were written.

A shuffling network joins what it keeps with what it computed, again and again. Here the joined map only ever grows:
every new half is written behind the others, and a choice of channels becomes runs of lanes that a
1x1 convolution reads. Channels that are read together are computed side by side, so that the runs are few.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from export.c.ir import Concat, Dense, Depthwise, Graph, Layer, Pick, Tensor


def fold_picks(graph: Graph) -> None:
    """Turn every choice of channels that can be into runs of lanes; what is left is copied."""
    if not any(isinstance(layer, Pick) for layer in graph.layers):
        return
    _grow_concats(graph)
    _drop_unread(graph)
    _compute_together(graph)
    for layer in list(graph.layers):
        producer = graph.producer(layer.inputs[0]) if layer.inputs else None
        if isinstance(producer, Pick) and isinstance(layer, Dense) and _points(layer):
            _read_in_place(layer, producer)
    _drop_unread(graph)
    for layer in [x for x in graph.layers if isinstance(x, Pick)]:
        _copy_in_order(graph, layer)


def runs(channels: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Stretches of neighbouring channels.

    >>> runs([4, 5, 6, 1, 2, 9])
    ((4, 3), (1, 2), (9, 1))
    """
    found: list[tuple[int, int]] = []
    for channel in channels:
        if found and channel == sum(found[-1]):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((channel, 1))
    return tuple(found)


def _points(layer: Dense) -> bool:
    return layer.kernel == 1 and layer.stride == 1 and layer.pad == 0 and layer.picks is None


def _grow_concats(graph: Graph) -> None:
    """Picks of picks become one; a concat of a pick and new maps becomes a pick of a longer concat."""
    picked: dict[int, Pick] = {}
    joined: dict[int, Tensor] = {}
    claimed: set[int] = set()
    for layer in list(graph.layers):
        if isinstance(layer, Pick):
            before = picked.get(id(layer.inputs[0]))
            if before is not None:
                layer.inputs = list(before.inputs)
                layer.channels = tuple(before.channels[c] for c in layer.channels)
            picked[id(layer.output)] = layer
        elif isinstance(layer, Concat):
            first = picked.get(id(layer.inputs[0]))
            source = first.inputs[0] if first else None
            plain = all(id(part) not in picked for part in layer.inputs[1:])
            if first is None or source is None or not plain or id(source) not in joined or id(source) in claimed:
                joined[id(layer.output)] = layer.output
                claimed.update(id(part) for part in layer.inputs)
                continue
            claimed.update(id(part) for part in (source, *layer.inputs[1:]))
            _grow(graph, layer, first, source)
            joined[id(layer.output)] = layer.output
            made = graph.layers[graph.layers.index(layer) + 1]
            assert isinstance(made, Pick)  # noqa: S101 - _grow put it there
            picked[id(made.output)] = made


def _grow(graph: Graph, layer: Concat, first: Pick, source: Tensor) -> None:
    old, shape = layer.output, layer.output.shape
    fresh = sum(part.shape.channels for part in layer.inputs[1:])
    whole = source.shape.channels
    longer = Tensor(f"{old.name} grown", type(shape)(shape.height, shape.width, whole + fresh), old.step)
    channels = (*first.channels, *range(whole, whole + fresh))
    layer.inputs, layer.output = [source, *layer.inputs[1:]], longer
    graph.layers.insert(graph.layers.index(layer) + 1, Pick([longer], old, f"{layer.name} shuffle", channels))


def _drop_unread(graph: Graph) -> None:
    for layer in reversed(graph.layers):
        if isinstance(layer, Pick) and layer.output is not graph.output and not graph.consumers(layer.output):
            graph.layers.remove(layer)


def _starts(graph: Graph) -> dict[int, tuple[int, int]]:
    """Where each part of a concat lies: (the outermost concat's id, first channel)."""
    parent: dict[int, tuple[Tensor, int]] = {}
    for layer in graph.layers:
        if isinstance(layer, Concat):
            at = 0
            for part in layer.inputs:
                parent[id(part)] = (layer.output, at)
                at += part.shape.channels
    found: dict[int, tuple[int, int]] = {}
    for key in parent:
        tensor, at = parent[key]
        while id(tensor) in parent:
            tensor, more = parent[id(tensor)]
            at += more
        found[key] = (id(tensor), at)
    for layer in graph.layers:
        found.setdefault(id(layer.output), (id(layer.output), 0))
    return found


def _compute_together(graph: Graph) -> None:
    """Reorder the outputs of convolutions so that channels with the same readers are neighbours."""
    starts = _starts(graph)
    picks = [layer for layer in graph.layers if isinstance(layer, Pick)]
    for layer in graph.layers:
        readers = graph.consumers(layer.output)
        if not isinstance(layer, Dense) or len(layer.inputs) > 1 or len(readers) != 1:
            continue
        if not isinstance(readers[0], Concat) or not _only_picked(graph, readers[0].output):
            continue
        root, start = starts[id(layer.output)]
        count = layer.output.shape.channels
        mine = [p for p in picks if starts[id(p.inputs[0])][0] == root]
        base = {id(p): start - starts[id(p.inputs[0])][1] for p in mine}
        sets = {id(p): set(p.channels) for p in mine}
        signature = [tuple(base[id(p)] + c not in sets[id(p)] for p in mine) for c in range(count)]
        order = sorted(range(count), key=lambda c: signature[c])
        place = {channel: position for position, channel in enumerate(order)}
        layer.weights, layer.bias = layer.weights[order], layer.bias[order]
        layer.steps = None if layer.steps is None else layer.steps[order]
        for p in mine:
            low = base[id(p)]
            p.channels = tuple(low + place[c - low] if low <= c < low + count else c for c in p.channels)


def _only_picked(graph: Graph, tensor: Tensor) -> bool:
    """Whether a concat is read by picks alone, here and wherever it goes on."""
    readers = graph.consumers(tensor)
    fine = tensor is not graph.output
    for reader in readers:
        joined = isinstance(reader, Concat) and _only_picked(graph, reader.output)
        fine = fine and (joined or isinstance(reader, Pick))
    return fine


def _read_in_place(layer: Dense, pick: Pick) -> None:
    order = sorted(range(len(pick.channels)), key=lambda i: pick.channels[i])
    layer.picks = runs([pick.channels[i] for i in order])
    layer.weights = np.ascontiguousarray(layer.weights[:, order])
    layer.inputs = [pick.inputs[0], *layer.inputs[1:]]


def _copy_in_order(graph: Graph, pick: Pick) -> None:
    """Copy channels in the order in which they lie, where a depthwise and a dense layer behind can take that order."""
    readers = graph.consumers(pick.output)
    depthwise: Layer | None = readers[0] if len(readers) == 1 else None
    behind = graph.consumers(depthwise.output) if isinstance(depthwise, Depthwise) else []
    if not isinstance(depthwise, Depthwise) or len(behind) != 1 or depthwise.output is graph.output:
        return
    dense = behind[0]
    if not isinstance(dense, Dense) or dense.picks is not None or dense.inputs[0] is not depthwise.output:
        return
    if len(dense.inputs) > 1 and dense.inputs[1] is depthwise.output:
        return
    order = sorted(range(len(pick.channels)), key=lambda i: pick.channels[i])
    pick.channels = tuple(pick.channels[i] for i in order)
    depthwise.weights, depthwise.bias = depthwise.weights[order], depthwise.bias[order]
    depthwise.steps = None if depthwise.steps is None else depthwise.steps[order]
    dense.weights = np.ascontiguousarray(dense.weights[:, order])
