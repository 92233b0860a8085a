"""Bytes that a layer must touch at least: every input, weight and output once, padding not counted."""

from __future__ import annotations

from export.c.ir import Dense, Depthwise, Layer
from export.c.plan import InputLayer, element

BIAS = 4


def map_bytes(layer: Layer) -> int:
    """Inputs and output."""
    total = sum(tensor.shape.elements * element(tensor) for tensor in (*layer.inputs, layer.output))
    return total + (layer.output.shape.elements if isinstance(layer, InputLayer) else 0)  # the face: a byte per value


def weight_bytes(layer: Layer) -> int:
    """Weights and bias."""
    if not isinstance(layer, (Dense, Depthwise)):
        return 0
    return int(layer.weights.size) * factor_bytes(layer) + BIAS * int(layer.bias.size)


def factor_bytes(layer: Layer) -> int:
    """What a layer multiplies: 1, int8 codes; 4, floats."""
    return 1 if getattr(layer, "steps", None) is not None else 4
