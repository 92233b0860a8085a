"""One line of a landmark list -> numbers and a path. Strict: what fits no known form is refused with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.layouts import LAYOUTS, Layout

MAX_LINE_BYTES = 1 << 16
MAX_COORDINATE = 1e6
BOX_COLUMNS = 4
FLAG_COLUMNS = 6
EXTRA = BOX_COLUMNS + FLAG_COLUMNS

_BY_COUNT = {layout.count: layout for layout in LAYOUTS.values()}
_FULL = {2 * layout.count + EXTRA: layout for layout in LAYOUTS.values()}
_BARE = {2 * layout.count: layout for layout in LAYOUTS.values()}


class LineError(Exception):
    """Why a line is no face; `kind` is one of the problem kinds."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class Line:
    """A well-formed line."""

    path: str
    points: NDArray[np.float32]
    layout: Layout
    box: tuple[float, float, float, float] | None
    flags: tuple[bool, bool, bool, bool, bool, bool] | None


def known_forms() -> str:
    """The column counts that are understood, in words."""
    full = ", ".join(f"{count + 1} ({layout.name})" for count, layout in sorted(_FULL.items()))
    bare = ", ".join(f"{count + 1} ({layout.name})" for count, layout in sorted(_BARE.items()))
    return f"{full} with box and flags, or {bare} without"


def parse_line(raw: bytes) -> Line:
    """Read one line: points, perhaps box and flags, then the path; or the path first, then the points."""
    if len(raw) > MAX_LINE_BYTES:
        raise LineError("text", f"a line of more than {MAX_LINE_BYTES} bytes")
    try:
        text = raw.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise LineError("text", f"not UTF-8 text ({error.reason} at byte {error.start})") from None
    tokens = text.split()
    leading = _leading_numbers(tokens)
    if leading == 0:
        return _path_first(tokens)
    if leading == len(tokens):
        raise LineError("columns", f"found {leading} numbers and no image path")
    layout = _FULL.get(leading) or _BARE.get(leading)
    if layout is None:
        what = f"found {leading} numbers before the path ({len(tokens)} columns)"
        raise LineError("columns", f"{what}, expected {known_forms()}")
    path = text.split(maxsplit=leading)[leading]
    points = check_points(_numbers(tokens[: 2 * layout.count]))
    if leading in _BARE:
        return Line(path, points, layout, None, None)
    at = 2 * layout.count
    box = _box(_numbers(tokens[at : at + BOX_COLUMNS]))
    return Line(path, points, layout, box, _flags(tokens[at + BOX_COLUMNS : leading]))


def _path_first(tokens: Sequence[str]) -> Line:
    trailing = _leading_numbers(tokens[::-1])
    layout = _BARE.get(trailing)
    if layout is None or trailing == len(tokens):
        raise LineError("columns", f"found {len(tokens)} columns, expected {known_forms()}")
    points = check_points(_numbers(tokens[-trailing:]))
    return Line(" ".join(tokens[:-trailing]), points, layout, None, None)


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return "_" not in token and token.isascii()


def _leading_numbers(tokens: Sequence[str]) -> int:
    for index, token in enumerate(tokens):
        if not _is_number(token):
            return index
    return len(tokens)


def _numbers(tokens: Sequence[str]) -> NDArray[np.float64]:
    return np.array([float(token) for token in tokens])


def check_points(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Flat coordinates -> (N, 2); refuse NaN, infinity, absurd sizes and a face without extent."""
    points = values.reshape(-1, 2)
    finite = np.isfinite(points).all(axis=1)
    if not finite.all():
        index = int(np.argmin(finite))
        raise LineError(
            "points", f"point {index} is ({points[index, 0]:g}, {points[index, 1]:g}), expected finite numbers"
        )
    near = (np.abs(points) <= MAX_COORDINATE).all(axis=1)
    if not near.all():
        index = int(np.argmin(near))
        raise LineError("points", f"point {index} is ({points[index, 0]:g}, {points[index, 1]:g}), beyond any photo")
    width, height = np.ptp(points, axis=0)
    if min(width, height) < 1:
        raise LineError("points", f"all points within {width:.3g} x {height:.3g} pixels, no face is that small")
    return points.astype(np.float32)


def _box(values: NDArray[np.float64]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(v) for v in values)
    if not np.isfinite(values).all() or np.abs(values).max() > MAX_COORDINATE or x1 <= x0 or y1 <= y0:
        raise LineError("points", f"the box is ({x0:g}, {y0:g}, {x1:g}, {y1:g}), expected x0 < x1 and y0 < y1")
    return x0, y0, x1, y1


def _flags(tokens: Sequence[str]) -> tuple[bool, bool, bool, bool, bool, bool]:
    values = [float(token) for token in tokens]
    if any(value not in (0.0, 1.0) for value in values):
        raise LineError("number", f"the six flags are {' '.join(tokens)}, expected 0 or 1 each")
    a, b, c, d, e, f = (value == 1.0 for value in values)
    return a, b, c, d, e, f


def layout_of_count(count: int) -> Layout | None:
    """The built-in layout with so many points."""
    return _BY_COUNT.get(count)
