"""Weights in the order in which the kernels read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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


def to_lanes(values: NDArray[Any], pixel: Pixel) -> NDArray[Any]:
    """Spread the last axis from channels to lanes; lanes without a channel are zero."""
    out = np.zeros((*values.shape[:-1], pixel.lanes), values.dtype)
    out[..., pixel.lane_of_channel()] = values
    return out


def tail_group(layer: Dense, output: Pixel) -> int:
    """How many inputs share the last vector of a 1x1 convolution's outputs: 0 (it is full enough), 2 or 4."""
    left = output.left
    many = layer.output.shape.height > 1 and layer.kernel == 1 and layer.stride == 1 and layer.picks is None
    return 0 if layer.steps is not None or not many or not 0 < left <= 8 else 4 if left <= 4 else 2


def _pack_tail(columns: Floats, group: int, runs: list[int]) -> Floats:
    """[run][k / group][output][k % group], runs filled up with zeros."""
    parts, at = [], 0
    for count in runs:
        rows = np.pad(columns[at : at + count, : VECTOR // group], ((0, -count % group), (0, 0)))
        parts.append(rows.reshape(-1, group, VECTOR // group).transpose(0, 2, 1).reshape(-1))
        at += count
    return np.concatenate(parts)


def pack_dense(layer: Dense, output: Pixel, runs: list[int], order: list[int]) -> tuple[Floats, Floats]:
    """(weights, bias): [panel][k][lane], k running over kernel rows, kernel columns, input channels; then the tail.

    `runs` and `order`: the runs of a pixel's inputs, and in which order the inputs are read.
    """
    matrix = layer.weights[:, order].transpose(2, 3, 1, 0).reshape(-1, layer.weights.shape[0])
    lanes = to_lanes(matrix, output)
    group = tail_group(layer, output)
    parts, lane = [], 0
    for size in panels(output.vectors - (group > 0)):
        parts.append(lanes[:, lane : lane + size * VECTOR].reshape(-1))
        lane += size * VECTOR
    if group:
        parts.append(_pack_tail(lanes[:, lane : lane + VECTOR], group, runs))
    return np.ascontiguousarray(np.concatenate(parts)), to_lanes(layer.bias, output)


def pack_ordered(layer: Dense, output: Pixel) -> tuple[Floats, Floats]:
    """(weights, bias): [vector][k][lane], k in the order of the weight's memory: the order of the sums."""
    lanes = to_lanes(layer.weights.reshape(len(layer.weights), -1).T, output)[:, : output.vectors * VECTOR]
    packed = lanes.reshape(len(lanes), output.vectors, VECTOR).transpose(1, 0, 2)
    return np.ascontiguousarray(packed).reshape(-1), to_lanes(layer.bias, output)


def pack_depthwise(layer: Depthwise, pixel: Pixel) -> tuple[Floats, Floats]:
    """(weights, bias): [vector][tap][lane]."""
    count = layer.kernel**2
    taps = to_lanes(layer.weights.reshape(layer.weights.shape[0], count).T, pixel)
    packed = taps.reshape(count, pixel.vectors, VECTOR).transpose(1, 0, 2)
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


def pad_groups(values: NDArray[Any], counts: list[int]) -> NDArray[Any]:
    """Spread the first axis from channels to runs that are padded to multiples of four."""
    parts, at = [], 0
    for count in counts:
        parts.append(np.pad(values[at : at + count], [(0, -count % 4)] + [(0, 0)] * (values.ndim - 1)))
        at += count
    return np.concatenate(parts)


def pack_dense_int8(layer: Dense, output: Pixel, runs: list[int]) -> NDArray[np.int8]:
    """[panel][k / 4][lane][k % 4]; `runs` are the run lengths along k, each padded to a multiple of four."""
    matrix = layer.weights.transpose(2, 3, 1, 0).reshape(-1, layer.weights.shape[0])
    lanes = pad_groups(to_lanes(matrix, output), runs).astype(np.int8)
    groups = lanes.reshape(-1, 4, lanes.shape[1]).transpose(0, 2, 1)
    parts, lane = [], 0
    for size in panels(output.vectors):
        parts.append(groups[:, lane : lane + size * VECTOR].reshape(-1))
        lane += size * VECTOR
    return np.asarray(np.concatenate(parts), np.int8)


def pack_dense_micro(layer: Dense, output: Pixel, runs: list[int]) -> NDArray[np.int8]:
    """[lane][k]; `runs` as above."""
    matrix = layer.weights.transpose(2, 3, 1, 0).reshape(-1, layer.weights.shape[0])
    return np.ascontiguousarray(pad_groups(to_lanes(matrix, output), runs).astype(np.int8).T).reshape(-1)


def byte_order(lanes: int) -> NDArray[np.intp]:
    """How interleaving orders 64 bytes: [block][sub][lane] holds channel 16 * (lane / 4) + 4 * sub + lane % 4."""
    block, sub, lane = np.mgrid[0 : lanes // 64, 0:4, 0:16]
    return np.asarray(block * 64 + 16 * (lane // 4) + 4 * sub + lane % 4).reshape(-1)


def pack_depthwise_taps(layer: Depthwise, pixel: Pixel) -> NDArray[np.int8]:
    """[tap][lane]."""
    taps = to_lanes(layer.weights.reshape(len(layer.weights), 9).T, pixel)
    return np.ascontiguousarray(taps).astype(np.int8).reshape(-1)


def pack_depthwise_int8(layer: Depthwise, pixel: Pixel) -> NDArray[np.int8]:
    """[block of 64][column][sub][lane][row]; the fourth row is zero."""
    taps = to_lanes(layer.weights.transpose(1, 2, 0), pixel)[..., byte_order(pixel.lanes)]  # row, column, position
    taps = np.concatenate([taps, np.zeros_like(taps[:1])]).astype(np.int8)
    blocks = taps.reshape(4, 3, pixel.lanes // 64, 64).transpose(2, 1, 3, 0)
    return np.ascontiguousarray(blocks).reshape(-1)
