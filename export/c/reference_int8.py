"""The int8 graph in numpy, integer for integer: the numbers that the self-test expects."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.c import quantised
from export.c.ir import Add, Concat, Dense, Depthwise, Dequantise, Graph, Layer, MaxPool, Pick, Pool, Quantise
from export.c.reference import windows
from export.c.reference_more import compute_more

Array = NDArray[Any]


def _to_codes(values: Array, low: int) -> Array:
    return np.clip(np.rint(values), low, 127).astype(np.int64)


def _weighted(layer: Dense | Depthwise, inputs: list[Array]) -> Array:
    x = inputs[0].astype(np.float64)
    numbers = quantised.scales(layer)
    weights = layer.weights.astype(np.float64)
    if isinstance(layer, Dense):
        if layer.picks is not None:
            x = x[:, :, [c for first, count in layer.picks for c in range(first, first + count)]]
        seen = windows(x, layer.kernel, layer.stride, layer.pad)
        rows, columns = seen.shape[:2]
        sums = (seen.reshape(rows * columns, -1) @ weights.reshape(len(weights), -1).T).reshape(rows, columns, -1)
    else:
        sums = np.einsum("rcoyx,oyx->rco", windows(x, 3, layer.stride, 1), weights)
    sums = sums + numbers.bias
    value = sums.astype(np.int64).astype(np.float32) * numbers.multiplier
    if layer.output.step is None:
        return np.maximum(value, np.float32(0)) if layer.relu else np.asarray(value)
    if len(inputs) > 1:
        value = value + inputs[1].astype(np.float32) * quantised.addend(layer.inputs[1], layer.output)
    return _to_codes(value, 0 if layer.relu else -128)


def _ordered(layer: Dense | Depthwise, x: Array) -> Array:
    """Float sums in the order of the weight's memory, every product and sum rounded to float32."""
    x = x.astype(np.float32)
    if isinstance(layer, Dense) and layer.picks is not None:
        x = x[:, :, [c for first, count in layer.picks for c in range(first, first + count)]]
    weights = layer.weights.reshape(len(layer.weights), -1).astype(np.float32)
    kernel, pad = (layer.kernel, layer.pad) if isinstance(layer, Dense) else (3, 1)
    seen = windows(x, kernel, layer.stride, pad)
    rows, columns, channels = seen.shape[:3]
    seen = seen.reshape(rows, columns, channels, -1)
    total: Array = np.broadcast_to(layer.bias.astype(np.float32), (rows, columns, len(weights)))
    for k in range(weights.shape[1]):
        channel, place = divmod(k, kernel**2)
        value = seen[:, :, channel, place, None] if isinstance(layer, Dense) else seen[..., place]
        total = total + value * weights[:, k]
    return np.maximum(total, np.float32(0)) if layer.relu else np.asarray(total)


def _add(layer: Add, inputs: list[Array]) -> Array:
    if layer.output.step is None:
        total = inputs[0] + inputs[1]
        return np.maximum(total, np.float32(0)) if layer.relu else np.asarray(total)
    left, right = quantised.add_scales(layer)
    value = inputs[0].astype(np.float32) * left + inputs[1].astype(np.float32) * right
    return _to_codes(value, 0 if layer.relu else -128)


def compute(layer: Layer, inputs: list[Array]) -> Array:
    """One layer: int8 maps hold codes, float ones float32."""
    if isinstance(layer, (MaxPool, Pick)):
        return compute_more(layer, inputs)
    if isinstance(layer, Concat):
        return np.concatenate(inputs, axis=2)
    if isinstance(layer, Pool):
        return np.asarray(inputs[0].sum((0, 1), keepdims=True).astype(np.float32) * quantised.pool_scale(layer))
    if isinstance(layer, Add):
        return _add(layer, inputs)
    if isinstance(layer, Quantise):
        return _to_codes(inputs[0] / np.float32(quantised.step_of(layer.output)), -128)
    if isinstance(layer, Dequantise):
        return np.asarray(inputs[0].astype(np.float32) * np.float32(quantised.step_of(layer.inputs[0])))
    if isinstance(layer, (Dense, Depthwise)):
        return _ordered(layer, inputs[0]) if layer.steps is None else _weighted(layer, inputs)
    raise TypeError(type(layer).__name__)


def run(graph: Graph, face: Array) -> dict[int, Array]:
    """Every tensor's values, by id, from the face's codes (or its real numbers where the first layer is float)."""
    values = {id(graph.input): face.astype(np.float32 if graph.input.step is None else np.int64)}
    for layer in graph.layers:
        values[id(layer.output)] = compute(layer, [values[id(tensor)] for tensor in layer.inputs])
    return values
