"""The int8 graph in numpy, integer for integer: the numbers that the self-test expects."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.c import quantised
from export.c.ir import Add, Concat, Dense, Depthwise, Graph, Layer, MaxPool, Pick, Pool
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


def _ordered_product(layer: Dense, x: Array) -> Array:
    total = layer.bias.astype(np.float32)
    weights = layer.weights.reshape(len(total), -1).astype(np.float32)
    for column, value in enumerate(x.reshape(-1).astype(np.float32)):
        total = total + value * weights[:, column]
    return (np.maximum(total, np.float32(0)) if layer.relu else total).reshape(1, 1, -1)


def compute(layer: Layer, inputs: list[Array]) -> Array:
    """One layer: int8 maps hold codes, float ones float32."""
    if isinstance(layer, (MaxPool, Pick)):
        return compute_more(layer, inputs)
    if isinstance(layer, Concat):
        return np.concatenate(inputs, axis=2)
    if isinstance(layer, Pool):
        return np.asarray(inputs[0].sum((0, 1), keepdims=True).astype(np.float32) * quantised.pool_scale(layer))
    if isinstance(layer, Add):
        left, right = quantised.add_scales(layer)
        value = inputs[0].astype(np.float32) * left + inputs[1].astype(np.float32) * right
        return _to_codes(value, 0 if layer.relu else -128)
    if isinstance(layer, Dense) and layer.steps is None:
        return _ordered_product(layer, inputs[0])
    if isinstance(layer, (Dense, Depthwise)):
        return _weighted(layer, inputs)
    raise TypeError(type(layer).__name__)


def run(graph: Graph, face: Array) -> dict[int, Array]:
    """Every tensor's values, by id, from the face's codes."""
    values = {id(graph.input): face.astype(np.int64)}
    for layer in graph.layers:
        values[id(layer.output)] = compute(layer, [values[id(tensor)] for tensor in layer.inputs])
    return values
