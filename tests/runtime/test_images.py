from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import InputError
from runtime.images import decode_image, read_image, write_image


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def test_png_keeps_every_pixel(tmp_path: Path) -> None:
    image = np.random.default_rng(5).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    write_image(tmp_path / "a.png", image)
    assert np.array_equal(read_image(tmp_path / "a.png"), image)


@pytest.mark.parametrize(
    "data", [b"hello, not a picture", b"\xff\xd8\xff", png_header(8, 8), b"GIF89a" + bytes(20), b"\x00" * 64]
)
def test_what_is_no_picture(data: bytes) -> None:
    with pytest.raises(InputError, match="cannot be decoded"):
        decode_image(data, "x.jpg")


def test_a_picture_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(InputError, match="20000 x 20000 pixels"):
        decode_image(png_header(20000, 20000), "bomb.png")


def test_a_jpeg_bomb_is_refused_by_its_header() -> None:
    frame = b"\xff\xd8" + b"\xff\xe0\x00\x04ab" + b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", 30000, 40000) + bytes(12)
    with pytest.raises(InputError, match="40000 x 30000 pixels"):
        decode_image(frame, "bomb.jpg")


def test_seeded_damage_never_raises_anything_else(tmp_path: Path) -> None:
    image = np.random.default_rng(6).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    rng = np.random.default_rng(11)
    for suffix in (".png", ".jpg", ".bmp", ".webp"):
        write_image(tmp_path / f"a{suffix}", image)
        whole = bytearray((tmp_path / f"a{suffix}").read_bytes())
        for _ in range(40):
            data = bytearray(whole)
            for at in rng.integers(0, len(data), 4):
                data[at] = rng.integers(0, 256)
            try:
                decoded = decode_image(bytes(data[: rng.integers(1, len(data) + 1)]))
            except InputError:
                continue
            assert decoded.dtype == np.uint8 and decoded.ndim == 3


def test_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown picture suffix '\.tga'"):
        write_image(tmp_path / "a.tga", np.zeros((2, 2, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
