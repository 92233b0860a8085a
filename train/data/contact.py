"""Contact sheets: many faces on one picture, with their points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UsageError
from runtime.geometry import Box, Region, transform, warp
from runtime.images import Image
from runtime.layouts import Layout
from train.data.draws import shuffled
from train.data.sample import FaceSource

MARGIN = 1.7
GREEN, YELLOW, WHITE = (90, 230, 60), (60, 220, 250), (255, 255, 255)
SUBPIXEL_BITS = 4
MAX_SHEET_PIXELS = 64_000_000

Colour = tuple[int, int, int]


def draw_points(image: Image, points: NDArray[Any], layout: Layout, colour: Colour = GREEN, lines: bool = True) -> None:
    """Draw points, and the layout's lines between them, into a picture; unknown (NaN) points are left out."""
    import cv2

    known = np.isfinite(points).all(axis=1)
    fixed = np.rint(np.where(known[:, None], points, 0) * (1 << SUBPIXEL_BITS)).astype(np.int32)
    if lines:
        for line in layout.lines:
            for first, second in pairwise(line):
                if known[first] and known[second]:
                    ends = fixed[first].tolist(), fixed[second].tolist()
                    cv2.line(image, *ends, colour, 1, cv2.LINE_AA, SUBPIXEL_BITS)
    dot = YELLOW if lines else colour
    for index in np.flatnonzero(known):
        cv2.circle(image, fixed[index].tolist(), 1 << SUBPIXEL_BITS, dot, -1, cv2.LINE_AA, SUBPIXEL_BITS)


def face_cell(photo: Image, points: NDArray[Any], layout: Layout, size: int, caption: str = "") -> Image:
    """One face cut out with margin, magnified to `size`, points drawn on top."""
    import cv2

    box = Box.around(np.asarray(points, dtype=np.float64))
    matrix = Region(*box.centre, MARGIN * max(box.width, box.height)).to_crop(size)
    cell = warp(photo, matrix, size)
    draw_points(cell, transform(matrix, np.asarray(points, dtype=np.float64)), layout)
    if caption:
        cv2.putText(cell, caption, (4, size - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(cell, caption, (4, size - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.4, WHITE, 1, cv2.LINE_AA)
    return cell


def tile(cells: Sequence[Image], columns: int) -> Image:
    """Equal cells in rows, the last row filled up with black."""
    rows = -(-len(cells) // columns)
    filled = [*cells, *[np.zeros_like(cells[0])] * (rows * columns - len(cells))]
    return np.vstack([np.hstack(filled[row * columns : (row + 1) * columns]) for row in range(rows)])


def contact_sheet(
    source: FaceSource,
    count: int = 24,
    seed: int = 0,
    *,
    columns: int = 6,
    cell: int = 192,
    indices: Sequence[int] | None = None,
    progress: Callable[[], object] | None = None,
) -> Image:
    """`count` faces chosen by seed (or the given ones), in the order of the source, captioned with their index."""
    if count < 1 or columns < 1 or not 32 <= cell <= 1024:
        raise UsageError(
            f"contact sheet: {count} faces, {columns} columns, cells of {cell} px; expected 1+, 1+ and 32..1024"
        )
    if indices is None:
        order = shuffled(np.arange(len(source)), seed, 0)
        indices = sorted(order[:count].tolist())
    columns = min(columns, len(indices))
    if -(-len(indices) // columns) * columns * cell * cell > MAX_SHEET_PIXELS:
        raise UsageError(f"contact sheet: {len(indices)} cells of {cell} px are too many for one picture; choose fewer")
    cells = []
    for index in indices:
        sample = source.sample(index)
        cells.append(face_cell(source.photo(index), sample.points, source.layout, cell, str(index)))
        if progress:
            progress()
    return tile(cells, columns)
