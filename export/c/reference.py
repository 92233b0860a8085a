"""The graph in numpy, in float64: what the generated C is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.c.ir import Add, Concat, Dense, Depthwise, Graph, Layer, Pool
from export.c.reference_more import after, compute_more
from runtime.spec import ModelSpec

Array = NDArray[Any]


def test_face(size: int, seed: int) -> NDArray[np.uint8]:
    """The self-test's face, by the same formula as in the C."""
    y, x, c = np.mgrid[0:size, 0:size, 0:3].astype(np.uint32)
    noise = random_words(size * size * 3, np.uint32(seed)).reshape(size, size, 3) >> np.uint32(26)
    return np.asarray((x * (3 + c) + y * (5 - c)) % 192 + noise, np.uint8)


def random_words(count: int, seed: np.uint32 | int) -> NDArray[np.uint32]:
    """s = s * 1664525 + 1013904223, `count` times, the start left out."""
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.full(count, 1664525, np.uint32), dtype=np.uint32)
        sums = np.cumsum(np.concatenate([[np.uint32(1)], powers[:-1]]).astype(np.uint32), dtype=np.uint32)
        return np.asarray(powers * np.uint32(seed) + sums * np.uint32(1013904223))


def face_input(face: NDArray[np.uint8], spec: ModelSpec) -> Array:
    """Normalised face, float64 (rows, columns, channels), from pixels already in the model's channel order."""
    mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
    scale = np.float32(1 / 255) / std
    return np.asarray(face.astype(np.float32) * scale - mean / std, np.float64)


def windows(x: Array, kernel: int, stride: int, pad: int) -> Array:
    """Rows, columns, channels, kernel rows, kernel columns: the input as each output pixel sees it."""
    wide = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(wide, (kernel, kernel), (0, 1))
    return view[::stride, ::stride]  # rows, columns, channels, ky, kx


def compute(layer: Layer, inputs: list[Array]) -> Array:
    """One layer on float64 maps."""
    x = inputs[0]
    if isinstance(layer, Dense):
        if layer.picks is not None:
            x = x[:, :, [c for first, count in layer.picks for c in range(first, first + count)]]
        seen = windows(x, layer.kernel, layer.stride, layer.pad)
        rows, columns = seen.shape[:2]
        weights = layer.weights.astype(np.float64)
        y = seen.reshape(rows * columns, -1) @ weights.reshape(len(weights), -1).T
        y = y.reshape(rows, columns, -1) + layer.bias
        y = y + inputs[1] if len(inputs) > 1 else y
    elif isinstance(layer, Depthwise):
        seen = windows(x, layer.kernel, layer.stride, layer.pad)
        y = np.einsum("rcoyx,oyx->rco", seen, layer.weights.astype(np.float64)) + layer.bias
    elif isinstance(layer, Add):
        y = x + inputs[1]
    elif isinstance(layer, Concat):
        return np.concatenate(inputs, axis=2)
    elif isinstance(layer, Pool):
        return np.asarray(x.mean((0, 1), keepdims=True))
    else:
        return compute_more(layer, inputs)
    return after(layer, np.maximum(y, 0) if getattr(layer, "relu", False) else np.asarray(y))


def run(graph: Graph, face: Array) -> dict[int, Array]:
    """Every tensor's values, by id."""
    values = {id(graph.input): face}
    for layer in graph.layers:
        values[id(layer.output)] = compute(layer, [values[id(tensor)] for tensor in layer.inputs])
    return values


def checksums(values: Array) -> tuple[float, float]:
    """(weighted sum, sum of magnitudes) as the self-test takes them: rows, columns, channels in order."""
    flat = np.asarray(values, np.float64).reshape(-1)
    words = random_words(flat.size, 0) >> np.uint32(16)
    return float(flat @ (words / 32768.0 - 1.0)), float(np.abs(flat).sum())


def code_sum(codes: Array) -> int:
    """A sum of int8 codes, modulo 2^32, that any wrong, swapped or moved code changes: the int8 self-test."""
    flat = np.asarray(codes, np.int64).reshape(-1).astype(np.uint32)
    with np.errstate(over="ignore"):
        return int((flat * random_words(flat.size, 0)).sum(dtype=np.uint32))
