"""`python -m train.data.synth PICTURE.png`: the sheet of the documentation.

Faces as they come, then one head turned from side to side with its points.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from runtime.errors import ToolkitError
from runtime.images import Image, write_image
from runtime.layouts import WFLW98
from train.data.contact import draw_points, tile
from train.data.synth.marks import mark
from train.data.synth.params import draw
from train.data.synth.photo import render
from train.data.synth.source import SynthSource, placed

SEED, COLUMNS, ROWS, CELL = 5, 8, 3, 112
COARSE = 6
"""Grey levels that become one, so that the picture stays small."""
TURNS = ((-72, 0, 0), (-48, 5, 0), (-24, 0, 12), (0, 24, 0), (0, -24, 0), (24, 0, -18), (48, 5, 0), (72, 0, 0))
"""Yaw, pitch, roll of the last row in degrees."""


def sheet() -> Image:
    """Rows of different faces, and a row of one face under many poses."""
    source = SynthSource(COLUMNS * ROWS, SEED, CELL)
    cells = [*(source.photo(index) for index in range(len(source))), *(_turned(angles) for angles in TURNS)]
    return np.asarray(tile(cells, COLUMNS) // COARSE * COARSE + COARSE // 2, np.uint8)


def _turned(degrees: tuple[float, float, float]) -> Image:
    yaw, pitch, roll = (float(angle) for angle in np.radians(degrees))
    params = replace(draw(SEED, 0), angles=(yaw, pitch, roll), occluder="none", blur="none", noise=0.0, exposure=1.0)
    marks = mark(params)
    scale, centre, points = placed(params, marks, CELL)
    photo = render(params, marks, scale, centre, SEED, 0, CELL)
    draw_points(photo, points, WFLW98, lines=False)
    return photo


def main() -> int:
    """Write the sheet to the path given."""
    if len(sys.argv) != 2:
        print("usage: python -m train.data.synth PICTURE.png", file=sys.stderr)
        return 2
    try:
        write_image(Path(sys.argv[1]), sheet())
    except ToolkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
