"""Helpers for reading ONNX nodes, and the error that names one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from runtime.errors import InputError


def label(node: onnx.NodeProto) -> str:
    """How an error names a node."""
    return f"{node.op_type} {(node.name or (node.output[0] if node.output else '?'))!r}"


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes as plain Python values."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def refuse(node: onnx.NodeProto, found: str, expected: str) -> InputError:
    return InputError(f"C export: {label(node)}: {found} is not supported; expected {expected}")


def uniform(node: onnx.NodeProto, values: list[int], what: str) -> int:
    """The one value that all of them have."""
    if len(set(values)) != 1:
        raise refuse(node, f"{what} {values}", "equal values")
    return int(values[0])


def finite(node: onnx.NodeProto, array: NDArray[Any]) -> NDArray[np.float32]:
    values = np.asarray(array, np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"C export: {label(node)}: weights hold NaN or infinity")
    return values
