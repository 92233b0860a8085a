from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.layouts import IBUG68_IN_WFLW98
from train.data.lines import MAX_LINE_BYTES, LineError, parse_line

MakePoints = Callable[..., NDArray[np.float64]]
MakeLine = Callable[..., str]


@pytest.fixture
def tokens(point_maker: MakePoints, line_maker: MakeLine) -> list[str]:
    return line_maker(point_maker(1), "a/b.jpg", [1, 0, 0, 0, 1, 0]).split()


def raw(tokens: list[str]) -> bytes:
    return " ".join(tokens).encode()


def test_207_columns(tokens: list[str], point_maker: MakePoints) -> None:
    line = parse_line(raw(tokens))
    assert len(tokens) == 207
    assert line.layout.name == "wflw98"
    np.testing.assert_array_equal(line.points, point_maker(1).astype(np.float32))
    assert line.flags == (True, False, False, False, True, False)
    assert line.box == tuple(float(t) for t in tokens[196:200])
    assert line.path == "a/b.jpg"


def test_197_columns_have_no_box_and_no_flags(tokens: list[str]) -> None:
    line = parse_line(raw([*tokens[:196], tokens[-1]]))
    assert (line.layout.name, line.box, line.flags, line.path) == ("wflw98", None, None, "a/b.jpg")


@pytest.mark.parametrize("full", [True, False])
def test_68_points(full: bool, point_maker: MakePoints, line_maker: MakeLine) -> None:
    points = point_maker(1)[list(IBUG68_IN_WFLW98)]
    columns = line_maker(points, "c.png", [0, 1, 0, 0, 0, 0]).split()
    line = parse_line(raw(columns if full else [*columns[:136], columns[-1]]))
    assert (line.layout.name, line.path) == ("ibug68", "c.png")
    np.testing.assert_array_equal(line.points, points.astype(np.float32))
    assert (line.flags is not None) == full


def test_path_first(tokens: list[str]) -> None:
    line = parse_line(raw(["image 007.jpg", *tokens[:196]]))
    assert (line.path, line.layout.name) == ("image 007.jpg", "wflw98")


def test_path_with_blanks_and_windows_line_end(tokens: list[str]) -> None:
    assert parse_line(raw([*tokens[:-1], "my photos/a b.jpg"]) + b"\r").path == "my photos/a b.jpg"


@pytest.mark.parametrize("count", [0, 1, 3, 135, 137, 145, 147, 195, 197, 205, 207, 300])
def test_wrong_column_counts_are_named(tokens: list[str], count: int) -> None:
    numbers = (tokens[:206] * 2)[:count]
    with pytest.raises(LineError, match=r"expected .*207 \(wflw98\)") as caught:
        parse_line(raw([*numbers, "a.jpg"]))
    assert caught.value.kind == "columns"
    assert str(count or "columns") in str(caught.value)


def test_numbers_without_a_path(tokens: list[str]) -> None:
    with pytest.raises(LineError, match="206 numbers and no image path"):
        parse_line(raw(tokens[:206]))


@pytest.mark.parametrize(
    ("at", "text", "kind", "words"),
    [
        (10, "nan", "points", r"point 5 .*nan.*finite"),
        (11, "-inf", "points", r"point 5 .*inf.*finite"),
        (11, "1e400", "points", r"point 5 .*finite"),
        (0, "1e7", "points", r"point 0 .*beyond any photo"),
        (196, "900", "points", r"box .*x0 < x1"),
        (199, "nan", "points", r"box .*nan"),
        (203, "2", "number", r"flags .*0 or 1"),
        (203, "nan", "number", r"flags .*0 or 1"),
        (50, "1_0", "columns", r"found 50 numbers"),
        (50, "x", "columns", r"found 50 numbers"),
    ],
)
def test_bad_fields(tokens: list[str], at: int, text: str, kind: str, words: str) -> None:
    tokens[at] = text
    with pytest.raises(LineError, match=words) as caught:
        parse_line(raw(tokens))
    assert caught.value.kind == kind


def test_a_face_without_extent(tokens: list[str]) -> None:
    with pytest.raises(LineError, match="no face is that small"):
        parse_line(raw([*["5"] * 196, *tokens[196:]]))


@pytest.mark.parametrize("data", [b"\xff\xfe\x00" * 80, bytes(range(128, 256)), b"1 " * 5 + b"\xc3("])
def test_binary_garbage(data: bytes) -> None:
    with pytest.raises(LineError, match="not UTF-8") as caught:
        parse_line(data)
    assert caught.value.kind == "text"


def test_a_huge_line_is_not_taken_apart() -> None:
    with pytest.raises(LineError, match="more than 65536 bytes"):
        parse_line(b"1 " * MAX_LINE_BYTES)
