"""Reading and writing pictures: BGR uint8, header checked before the pixels are allocated."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.files import read_bytes, write_atomic

Image = NDArray[np.uint8]
MAX_IMAGE_BYTES = 128 << 20
MAX_IMAGE_PIXELS = 100_000_000

_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def read_image(path: Path | str) -> Image:
    """Read a photo (JPEG, PNG, BMP, WebP) as BGR uint8, EXIF rotation honoured."""
    return decode_image(read_bytes(path, MAX_IMAGE_BYTES), str(path))


def decode_image(data: bytes, where: str = "image") -> Image:
    """Decode the bytes of a photo; a picture of more than 100 megapixels is refused by its header."""
    import cv2

    size = header_size(data)
    if size and size[0] * size[1] > MAX_IMAGE_PIXELS:
        raise InputError(f"{where}: {size[0]} x {size[1]} pixels, the limit is {MAX_IMAGE_PIXELS}; scale it down first")
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise InputError(f"{where}: cannot be decoded as a picture") from error
    if image is None:
        raise InputError(f"{where}: cannot be decoded as a picture (JPEG, PNG, BMP or WebP expected)")
    return np.asarray(image, dtype=np.uint8)


def write_image(path: Path | str, image: Image) -> None:
    """Write a picture atomically; the suffix chooses the format."""
    import cv2

    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".jpg", ".jpeg", ".bmp", ".webp"):
        raise InputError(f"{path}: unknown picture suffix {suffix!r}; use .png or .jpg")
    done, buffer = cv2.imencode(suffix, image)
    if not done:
        raise InputError(f"{path}: the picture could not be encoded")
    write_atomic(path, lambda stream: stream.write(buffer.tobytes()))


def header_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from a PNG, JPEG, BMP or WebP header; None when unknown."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    if data[:2] == b"BM" and len(data) >= 26:
        width, height = struct.unpack("<ii", data[18:26])
        return abs(width), abs(height)
    if data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if data[:2] == b"\xff\xd8":
        return _jpeg_size(data)
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 < len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
