"""Weights in the order in which the kernels read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.c.ir import Dense, Depthwise
from export.c.layout import VECTOR, Pixel, padded

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Weights:
    """Where a layer's weights and bias begin in the weight array."""

    weights: int
    bias: int


def panels(vectors: int) -> list[int]:
    """Split vectors into panels of at most 4, as evenly as possible: the rule that the kernels follow too."""
    sizes = []
    while vectors:
        count = -(-vectors // 4)
        sizes.append(-(-vectors // count))
        vectors -= sizes[-1]
    return sizes


def to_lanes(values: Floats, pixel: Pixel) -> Floats:
    """Spread the last axis from channels to lanes; lanes without a channel are zero."""
    out = np.zeros((*values.shape[:-1], pixel.lanes), values.dtype)
    out[..., pixel.lane_of_channel()] = values
    return out


def pack_dense(layer: Dense, output: Pixel) -> tuple[Floats, Floats]:
    """(weights, bias): [panel][k][lane], k running over kernel rows, kernel columns, input channels."""
    matrix = layer.weights.transpose(2, 3, 1, 0).reshape(-1, layer.weights.shape[0])
    lanes = to_lanes(matrix, output)
    parts, lane = [], 0
    for size in panels(output.vectors):
        parts.append(lanes[:, lane : lane + size * VECTOR].reshape(-1))
        lane += size * VECTOR
    return np.ascontiguousarray(np.concatenate(parts)), to_lanes(layer.bias, output)


def pack_depthwise(layer: Depthwise, pixel: Pixel) -> tuple[Floats, Floats]:
    """(weights, bias): [vector][tap][lane]."""
    taps = to_lanes(layer.weights.reshape(layer.weights.shape[0], 9).T, pixel)
    packed = taps.reshape(9, pixel.vectors, VECTOR).transpose(1, 0, 2)
    return np.ascontiguousarray(packed).reshape(-1), to_lanes(layer.bias, pixel)


def pack_all(parts: list[Floats]) -> tuple[Floats, list[int]]:
    """One array, every part at a multiple of VECTOR; returns the array and the parts' places."""
    places, blocks, at = [], [], 0
    for part in parts:
        places.append(at)
        block = np.zeros(padded(part.size), np.float32)
        block[: part.size] = part
        blocks.append(block)
        at += block.size
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32), places
