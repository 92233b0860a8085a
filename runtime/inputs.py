"""Anything that a person calls a picture -> BGR uint8."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, UsageError
from runtime.images import Image, decode_image, read_image

MAX_ARRAY_PIXELS = 500_000_000

ImageLike: TypeAlias = "NDArray[Any] | str | PathLike[str] | bytes | bytearray | memoryview"
"""An array (BGR, BGRA or grey), the path of a picture, or its bytes."""


def as_image(source: ImageLike, rgb: bool = False) -> Image:
    """BGR uint8 of shape (H, W, 3). `rgb=True` says that an array's channels are RGB or RGBA; files know it themselves.

    >>> as_image(np.zeros((4, 6), np.uint8)).shape
    (4, 6, 3)
    """
    if isinstance(source, (str, PathLike)):
        return read_image(Path(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decode_image(bytes(source), "image bytes")
    if not isinstance(source, np.ndarray):
        raise UsageError(f"image: expected an array, a path or bytes, found {type(source).__name__}")
    return _from_array(source, rgb)


def _from_array(array: NDArray[Any], rgb: bool) -> Image:
    if array.dtype != np.uint8:
        raise InputError(f"image array: expected uint8, found {array.dtype}; scale it to 0..255 and convert it")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in array.shape:
        raise InputError(f"image array: expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), found {array.shape}")
    if array.shape[0] * array.shape[1] > MAX_ARRAY_PIXELS:
        raise InputError(
            f"image array: {array.shape[1]} x {array.shape[0]}, the limit is {MAX_ARRAY_PIXELS} pixels; scale it down"
        )
    if array.ndim == 2 or array.shape[2] == 1:
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    colour = array[..., :3]
    return np.ascontiguousarray(colour[..., ::-1] if rgb else colour)
