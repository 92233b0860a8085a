"""The integers behind an int8 layer, exactly as the specification of the int8 network defines them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.c.ir import Add, Concat, Dense, Depthwise, Graph, Pool, Tensor
from export.c.reference import face_input
from runtime.errors import InputError
from runtime.spec import ModelSpec

INT32 = 2**31
NEGLIGIBLE = 2.0**-100


@dataclass(frozen=True)
class Scales:
    """Bias in accumulator units, and the float32 multiplier per channel that turns sums into codes (or real values)."""

    bias: NDArray[np.int64]
    multiplier: NDArray[np.float32]


def step_of(tensor: Tensor) -> np.float64:
    if tensor.step is None:
        raise InputError(f"C export: {tensor.name!r} has no int8 scale")
    return np.float64(tensor.step)


def scales(layer: Dense | Depthwise) -> Scales:
    """Bias and multipliers of an int8 convolution."""
    steps = np.asarray(layer.steps, np.float64)
    unit = step_of(layer.inputs[0]) * steps
    bias = np.clip(np.rint(layer.bias.astype(np.float64) / unit), -INT32, INT32 - 1).astype(np.int64)
    codes = np.abs(layer.weights.reshape(len(unit), -1)).sum(axis=1).astype(np.float64)
    if (np.abs(bias) + 255 * codes >= INT32).any():
        raise InputError(f"C export: layer {layer.name!r} could overflow its 32-bit sum")
    out = 1.0 if layer.output.step is None else float(layer.output.step)
    multiplier = (unit / out).astype(np.float32)
    if layer.output.step is not None and ((np.abs(bias) + 128 * codes) * multiplier >= 2.0**30).any():
        raise InputError(f"C export: layer {layer.name!r}: the int8 scale of its output is far too small")
    return Scales(bias, np.where(multiplier < NEGLIGIBLE, np.float32(0), multiplier))


def addend(source: Tensor, target: Tensor) -> np.float32:
    """What one unit of an added tensor is worth in units of the sum."""
    scale = np.float32(step_of(source) / step_of(target))
    if scale >= 2.0**22:
        raise InputError(f"C export: {target.name!r}: its int8 scale is far too small for what is added")
    return scale


def add_scales(layer: Add) -> tuple[np.float32, np.float32]:
    return addend(layer.inputs[0], layer.output), addend(layer.inputs[1], layer.output)


def pool_scale(layer: Pool) -> np.float32:
    shape = layer.inputs[0].shape
    return np.float32(step_of(layer.inputs[0]) / (shape.height * shape.width))


def never_negative(graph: Graph, tensor: Tensor) -> bool:
    """Whether every code of a tensor is at least 0, because activations made all of it."""
    producer = graph.producer(tensor)
    if isinstance(producer, Concat):
        return all(never_negative(graph, part) for part in producer.inputs)
    return isinstance(producer, (Dense, Depthwise, Add)) and producer.relu


def face_codes(spec: ModelSpec, step: np.float32) -> NDArray[np.int8]:
    """(256, 3): the code of every byte in every channel of the face."""
    table = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    values = face_input(table, spec).astype(np.float32)
    return np.asarray(np.clip(np.rint(values / step), -128, 127), np.int8)


def face_formula(codes: NDArray[np.int8]) -> tuple[list[int], list[int]] | None:
    """Integers a, b per channel with code = clamp((byte * a + b) >> 16) for every byte, when such exist."""
    factors, shifts = [], []
    for channel in range(3):
        wanted = codes[:, channel].astype(np.int64)
        found = _line(wanted)
        if found is None:
            return None
        factors.append(found[0])
        shifts.append(found[1])
    return factors, shifts


def _line(wanted: NDArray[np.int64]) -> tuple[int, int] | None:
    inside = np.flatnonzero((wanted > -128) & (wanted < 127))
    if len(inside) < 2:
        return None
    byte = np.arange(256)
    slope = (wanted[inside[-1]] - wanted[inside[0]]) / (inside[-1] - inside[0]) * 65536
    spread = 65536 // max(1, int(inside[-1] - inside[0]))
    for factor in range(int(slope) - spread, int(slope) + spread + 2, max(1, spread // 128)):
        low = (wanted[inside] * 65536 - inside * factor).max()
        high = ((wanted[inside] + 1) * 65536 - 1 - inside * factor).min()
        if low <= high:
            shift = int(low + high) // 2
            small = np.abs(byte * factor + shift).max() < 2**30
            if small and np.array_equal(np.clip((byte * factor + shift) >> 16, -128, 127), wanted):
                return int(factor), shift
    return None


def as_codes(weights: NDArray[Any]) -> NDArray[np.int8]:
    return np.asarray(weights).astype(np.int8)
