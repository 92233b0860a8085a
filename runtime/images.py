"""Reading and writing pictures: BGR uint8, header checked before the pixels are allocated."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.files import read_bytes, write_atomic
from runtime.lazy import require

Image = NDArray[np.uint8]
MAX_IMAGE_BYTES = 128 << 20
MAX_IMAGE_PIXELS = 100_000_000

_EXPECTED = "expected JPEG, PNG, BMP, WebP, GIF, TIFF or PNM"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN = 0xDA
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_SHORT = 256, 257, 3


def read_image(path: Path | str) -> Image:
    """Read a photo (JPEG, PNG, BMP, WebP) as BGR uint8, EXIF rotation honoured."""
    return decode_image(read_bytes(path, MAX_IMAGE_BYTES), str(path))


def decode_image(data: bytes, where: str = "image") -> Image:
    """Decode the bytes of a photo; a picture of more than 100 megapixels is refused by its header."""
    cv2 = require("cv2", "decoding a picture")

    size = header_size(data)
    if size is None:
        raise InputError(f"{where}: cannot be decoded as a picture: {_first_bytes(data)}; {_EXPECTED}")
    if size[0] * size[1] > MAX_IMAGE_PIXELS:
        raise InputError(f"{where}: {size[0]} x {size[1]} pixels, the limit is {MAX_IMAGE_PIXELS}; scale it down first")
    if _is_cut_off(data):
        raise InputError(f"{where}: cannot be decoded as a picture: the file is cut off, its end is missing")
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise InputError(f"{where}: cannot be decoded as a picture") from error
    if image is None:
        raise InputError(f"{where}: cannot be decoded as a picture: damaged, or a form that OpenCV here cannot read")
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
    """Width and height from the header of a picture; None when it is none of the forms that we read."""
    for start, read in _HEADERS:
        if data.startswith(start):
            try:
                return read(data)
            except (struct.error, IndexError, ValueError):
                return None
    return None


def _png_size(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def _bmp_size(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack("<ii", data[18:26])
    return abs(width), abs(height)


def _gif_size(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack("<HH", data[6:10])
    return width, height


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[8:16]
    if kind == b"WEBPVP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"WEBPVP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"WEBPVP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack(order + "I", data[4:8])
    (count,) = struct.unpack(order + "H", data[at : at + 2])
    found: dict[int, int] = {}
    for entry in range(min(count, 256)):
        place = at + 2 + 12 * entry
        tag, form = struct.unpack(order + "HH", data[place : place + 4])
        value = data[place + 8 : place + (10 if form == _TIFF_SHORT else 12)]
        found[tag] = struct.unpack(order + ("H" if form == _TIFF_SHORT else "I"), value)[0]
    width, height = found.get(_TIFF_WIDTH), found.get(_TIFF_HEIGHT)
    return (width, height) if width and height else None


def _pnm_size(data: bytes) -> tuple[int, int] | None:
    text = re.sub(rb"#[^\n]*", b"", data[2:1024])
    numbers = text.split()[:2]
    return (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 else None


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and place of every segment up to the first scan."""
    at = 2
    while at + 9 < len(data):
        if data[at] != 0xFF:
            return
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        yield marker, at
        if marker == _JPEG_SCAN:
            return
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    for marker, at in _jpeg_segments(data):
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
    return None


_HEADERS: tuple[tuple[bytes, Callable[[bytes], tuple[int, int] | None]], ...] = (
    (b"\xff\xd8", _jpeg_size),
    (b"\x89PNG\r\n\x1a\n", _png_size),
    (b"BM", _bmp_size),
    (b"RIFF", _webp_size),
    (b"GIF8", _gif_size),
    (b"II*\0", _tiff_size),
    (b"MM\0*", _tiff_size),
    *((b"P%d" % digit, _pnm_size) for digit in (1, 2, 3, 4, 5, 6)),
)


def _is_cut_off(data: bytes) -> bool:
    """A PNG without its last chunk, a JPEG without its end mark: decoders would fill the rest with grey."""
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-4096:]
    if data.startswith(b"\xff\xd8"):
        scans = [at for marker, at in _jpeg_segments(data) if marker == _JPEG_SCAN]
        return not scans or data.rfind(b"\xff\xd9") < scans[0]
    return False


def _first_bytes(data: bytes) -> str:
    head = data[:64]
    if head and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return f"it holds text ({head[:24].decode('ascii')!r}...)"
    return f"its first bytes are {head[:8].hex(' ') or 'none'}"
