"""Graph passes: each takes a graph and leaves one that computes the same with less work."""

from __future__ import annotations

import numpy as np

from export.c.crossing import settle, widen_operands
from export.c.ir import (
    Activate,
    Add,
    After,
    CentreOfMass,
    Concat,
    Dense,
    Depthwise,
    Dequantise,
    Graph,
    Layer,
    MaxPool,
    Pick,
    Pool,
    Quantise,
    Relu,
    Resize,
    Scale,
    Tensor,
)
from export.c.picks import fold_picks
from runtime.errors import InputError

SMALLEST_NORMAL = np.finfo(np.float32).tiny


def fuse_relu(graph: Graph) -> None:
    """Let the layer before an activation apply it while its result is still in registers."""
    for layer in [x for x in graph.layers if isinstance(x, Relu)]:
        source = layer.inputs[0]
        producer = graph.producer(source)
        kernel = isinstance(producer, (Dense, Depthwise, Add)) and producer.after is None
        if kernel and len(graph.consumers(source)) == 1 and source is not graph.output:
            producer.relu = True  # type: ignore[union-attr]
            producer.output = layer.output  # type: ignore[union-attr]
            graph.layers.remove(layer)
        elif kernel and producer.relu:  # type: ignore[union-attr]
            _replace(graph, layer.output, source)
            graph.layers.remove(layer)
        else:
            ramp = Activate(layer.inputs, layer.output, layer.name, After("ramp", high=float("inf")))
            graph.layers[graph.layers.index(layer)] = ramp


def fuse_activations(graph: Graph) -> None:
    """Let the layer before any other activation apply it to its rows while they are in the cache."""
    for layer in [x for x in graph.layers if isinstance(x, Activate)]:
        source = layer.inputs[0]
        producer = graph.producer(source)
        alone = len(graph.consumers(source)) == 1 and source is not graph.output
        if isinstance(producer, (Dense, Depthwise, Add, Scale)) and producer.after is None and alone:
            producer.after, producer.output = layer.after, layer.output
            graph.layers.remove(layer)


def _replace(graph: Graph, old: Tensor, new: Tensor) -> None:
    for layer in graph.layers:
        layer.inputs = [new if tensor is old else tensor for tensor in layer.inputs]
    if graph.output is old:
        graph.output = new


def drop_dead(graph: Graph) -> None:
    """Remove layers whose result nobody needs."""
    needed = {id(graph.output)}
    kept = []
    for layer in reversed(graph.layers):
        if id(layer.output) in needed:
            needed.update(id(tensor) for tensor in layer.inputs)
            kept.append(layer)
    graph.layers = kept[::-1]


def fuse_add(graph: Graph) -> None:
    """Let a convolution start its sums from the other operand of an addition; in int8 networks only to store codes."""
    int8 = is_int8(graph)
    for layer in [x for x in graph.layers if isinstance(x, Add)]:
        place = graph.layers.index(layer)
        for own, other in ((layer.inputs[1], layer.inputs[0]), (layer.inputs[0], layer.inputs[1])):
            conv = graph.producer(own)
            alone = len(graph.consumers(own)) == 1 and own is not other and own is not graph.output
            free = isinstance(conv, Dense) and not conv.relu and conv.after is None and len(conv.inputs) == 1
            fits = not int8 or layer.output.step is not None
            if isinstance(conv, Dense) and free and alone and fits and (conv.steps is not None) == int8:
                conv.inputs.append(other)
                conv.output, conv.relu, conv.after = layer.output, layer.relu, layer.after
                conv.name = f"{conv.name} + {layer.name}"
                graph.layers[place] = conv
                graph.layers.remove(conv)  # its first place
                break


def pools_follow_producers(graph: Graph) -> None:
    """Move each pool right behind the layer that it reads, so that it sums rows while they are hot."""
    for pool in [x for x in graph.layers if isinstance(x, Pool)]:
        producer = graph.producer(pool.inputs[0])
        graph.layers.remove(pool)
        place = graph.layers.index(producer) + 1 if producer is not None else 0
        graph.layers.insert(place, pool)


def flush_denormals(graph: Graph) -> None:
    """Weights below the smallest normal number become zero: no output changes by 1e-30, but each costs 100 cycles."""
    for layer in graph.layers:
        if isinstance(layer, (Dense, Depthwise)):
            layer.weights, layer.bias = (
                np.where(np.abs(v) < SMALLEST_NORMAL, np.float32(0), v) for v in (layer.weights, layer.bias)
            )


def check_int8(graph: Graph) -> None:
    """Every layer finds its inputs in the form that it works on."""
    for layer in graph.layers:
        stored = [tensor.step is not None for tensor in layer.inputs]
        made = layer.output.step is not None
        refuse_float_layer(layer)
        if isinstance(layer, Depthwise) and layer.kernel != 3:
            right = False
        elif isinstance(layer, (Dense, Depthwise)):
            whole = len(stored) == 1 or (stored[1] and made)
            right = whole and stored[0] if layer.steps is not None else not made and stored == [False]
        elif isinstance(layer, (Add, Concat, MaxPool, Pick)):
            right = all(form == made for form in stored)
        elif isinstance(layer, (Pool, Dequantise)):
            right = stored[0] and not made
        else:
            right = isinstance(layer, Quantise) and made and not stored[0]
        if not right:
            forms = ", ".join("int8" if form else "float" for form in stored)
            raise InputError(
                f"C export: {describe(layer)} {layer.name!r} reads {forms} and makes {'int8' if made else 'float'}; "
                f"no kernel does that"
            )


def refuse_float_layer(layer: Layer) -> None:
    """Layers that exist in float only."""
    after: After | None = getattr(layer, "after", None)
    if after is not None or isinstance(layer, (Activate, Scale, Resize, CentreOfMass)):
        what = f"{type(layer).__name__.lower()}{f' with {after.kind}' if after else ''}"
        raise InputError(
            f"C export: layer {layer.name!r} ({what}) would stay in float, which int8 C cannot do yet; "
            "generate the C of this network in float32"
        )


def check(graph: Graph) -> None:
    """Every layer reads what was made before it."""
    made: set[int] = {id(graph.input)}
    for layer in graph.layers:
        missing = [tensor.name for tensor in layer.inputs if id(tensor) not in made]
        if missing:
            raise InputError(f"C export: layer {layer.name!r} reads {missing[0]!r} before it is made")
        made.add(id(layer.output))


def optimise(graph: Graph) -> Graph:
    """All passes in order."""
    drop_dead(graph)
    fuse_relu(graph)
    fuse_activations(graph)
    settle(graph)
    drop_dead(graph)
    fuse_add(graph)
    fold_picks(graph)
    widen_operands(graph)
    pools_follow_producers(graph)
    if is_int8(graph):
        check_int8(graph)
    else:
        flush_denormals(graph)
    check(graph)
    return graph


def is_int8(graph: Graph) -> bool:
    """Whether any tensor is stored in int8."""
    return any(tensor.step is not None for layer in graph.layers for tensor in (*layer.inputs, layer.output))


def is_ordered(layer: Layer, int8: bool) -> bool:
    """Whether a float layer sums in the order that the int8 specification fixes."""
    return int8 and isinstance(layer, (Dense, Depthwise)) and layer.steps is None


def describe(layer: Layer) -> str:
    """One line for reports: what the layer does on which shape."""
    shape = layer.output.shape
    if isinstance(layer, Dense):
        source = layer.inputs[0].shape
        kind = "fc" if source.height == 1 and source.width == 1 else f"conv{layer.kernel}x{layer.kernel}"
        text = f"{kind} {source.channels}->{shape.channels}" + (f" s{layer.stride}" if layer.stride > 1 else "")
        text += " +add" if len(layer.inputs) > 1 else ""
    elif isinstance(layer, Depthwise):
        text = f"dw{layer.kernel}x{layer.kernel} {shape.channels}" + (f" s{layer.stride}" if layer.stride > 1 else "")
    else:
        text = f"{type(layer).__name__.lower()} {shape.channels}"
    after: After | None = getattr(layer, "after", None)
    text += f" {after.kind}" if after else ""
    return f"{text}{' relu' if getattr(layer, 'relu', False) else ''} @{shape.height}x{shape.width}"
