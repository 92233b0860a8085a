"""Photos with face boxes and no landmarks: enough to calibrate on. A folder holds `boxes.csv`, one face a line."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from runtime.errors import InputError
from runtime.files import read_bytes
from runtime.layouts import plain_layout
from train.data.open import Split, open_source, splits_in
from train.data.photos import Album
from train.data.problems import Problems
from train.data.readers import ListSource
from train.data.sample import FaceSample, FaceSource

BOXES_NAME = "boxes.csv"
HEADER = ("path", "x0", "y0", "x1", "y1")
MAX_BYTES = 64 << 20
NO_POINTS = plain_layout(1)


def open_unlabelled(text: str | Path, *, split: Split | None = None) -> FaceSource:
    """Any source of faces, or a folder of photos with `boxes.csv` (or that file itself), whose faces have no points.

    `split` chooses one half of a labelled data set that has halves.
    """
    path = Path(text)
    if path.suffix.lower() == ".csv" and path.is_file():
        return read_boxes(path)
    if path.is_dir() and (path / BOXES_NAME).is_file():
        return read_boxes(path / BOXES_NAME)
    return open_source(text, split=split if splits_in(text) else None)


def read_boxes(path: Path) -> ListSource:
    """Faces of a table `path,x0,y0,x1,y1`, paths relative to it, boxes in photo pixels; broken rows are left out."""
    try:
        rows = list(csv.reader(io.StringIO(read_bytes(path, MAX_BYTES).decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a table in UTF-8 text ({error})") from None
    if not rows or tuple(cell.strip().lower() for cell in rows[0]) != HEADER:
        found = ",".join(rows[0])[:80] if rows else "nothing"
        raise InputError(f"{path}: the first line must be {','.join(HEADER)!r}, found {found!r}")
    album, problems = Album(path.parent), Problems()
    samples: list[FaceSample] = []
    for number, row in enumerate(rows[1:], 2):
        where = f"{path}:{number}"
        if not row:
            continue
        try:
            box = _box(row)
        except ValueError as error:
            problems.add("columns" if len(row) != len(HEADER) else "number", where, str(error))
            continue
        photo, wrong, _ = album.find(row[0])
        if wrong:
            problems.add("image", where, wrong)
            continue
        points = np.full((1, 2), np.nan, dtype=np.float32)
        samples.append(FaceSample(photo, points, NO_POINTS.name, box, origin=where, group=row[0]))
    if not samples:
        first = f"; the first problem: {problems.kept[0]}" if problems.kept else ""
        raise InputError(f"{path}: no usable face in it{first}")
    return ListSource(path.parent.name, NO_POINTS, samples, problems=problems)


def _box(row: Sequence[str]) -> tuple[float, float, float, float]:
    if len(row) != len(HEADER):
        raise ValueError(f"{len(row)} columns, expected {len(HEADER)}")
    x0, y0, x1, y1 = (float(cell) for cell in row[1:])
    if not all(math.isfinite(v) and abs(v) < 1e6 for v in (x0, y0, x1, y1)) or x1 - x0 < 1 or y1 - y0 < 1:
        raise ValueError(f"box {','.join(row[1:])}: expected x0 < x1 and y0 < y1, in pixels")
    return x0, y0, x1, y1
