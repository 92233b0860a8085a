"""The layers of the networks that the field compares with, in numpy, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.c.ir import Activate, After, CentreOfMass, Layer, MaxPool, Pick, Resize, Scale

Array = NDArray[Any]


def activation(kind: After, y: Array) -> Array:
    """An activation that follows a layer."""
    if kind.kind == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-y)))
    ramp = np.minimum(np.maximum(np.float32(kind.slope) * y + np.float32(kind.shift), 0), np.float32(kind.high))
    return np.asarray(y * ramp if kind.kind == "gate" else ramp)


def after(layer: Layer, y: Array) -> Array:
    kind: After | None = getattr(layer, "after", None)
    return y if kind is None else activation(kind, y)


def compute_more(layer: Layer, inputs: list[Array]) -> Array:
    """One layer on float64 maps."""
    x = inputs[0]
    if isinstance(layer, Activate):
        return activation(layer.after, x)
    if isinstance(layer, Scale):
        return after(layer, x * inputs[1].reshape(1, 1, -1))
    if isinstance(layer, MaxPool):
        return max_pool(x, layer)
    if isinstance(layer, Pick):
        return np.asarray(x[:, :, list(layer.channels)])
    if isinstance(layer, Resize):
        return resize(x, (layer.output.shape.height, layer.output.shape.width), layer.bilinear)
    if isinstance(layer, CentreOfMass):
        flat = x.reshape(-1, x.shape[2])
        share = np.exp(flat - flat.max(axis=0))
        return np.asarray((share / share.sum(axis=0)).T @ layer.cells.astype(np.float64)).reshape(1, 1, -1)
    raise TypeError(type(layer).__name__)


def max_pool(x: Array, layer: MaxPool) -> Array:
    edge = ((layer.pad, layer.pad), (layer.pad, layer.pad), (0, 0))
    wide = np.pad(x, edge, constant_values=-np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min)
    view = np.lib.stride_tricks.sliding_window_view(wide, (layer.kernel, layer.kernel), (0, 1))
    return np.asarray(view[:: layer.stride, :: layer.stride].max(axis=(3, 4)))


def line(size: int, larger: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Array]:
    """For every place of the larger side: the two places it lies between, and how near it is to the second."""
    at = np.clip((np.arange(larger) + 0.5) * size / larger - 0.5, 0, size - 1)
    low = np.floor(at).astype(np.intp)
    return low, np.minimum(low + 1, size - 1), at - low


def resize(x: Array, sides: tuple[int, int], bilinear: bool) -> Array:
    """The map with sides of (height, width)."""
    if not bilinear:
        rows, columns = (np.arange(larger) * size // larger for size, larger in zip(x.shape[:2], sides, strict=True))
        return np.asarray(x[rows][:, columns])
    low, high, share = line(x.shape[0], sides[0])
    x = x[low] * (1 - share)[:, None, None] + x[high] * share[:, None, None]
    low, high, share = line(x.shape[1], sides[1])
    return np.asarray(x[:, low] * (1 - share)[:, None] + x[:, high] * share[:, None])
