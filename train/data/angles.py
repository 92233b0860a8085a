"""`angles.csv` beside the photos: the true head pose of each, when somebody knows it."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from runtime.errors import InputError
from runtime.files import read_bytes

ANGLES_NAME = "angles.csv"
HEADER = ["path", "yaw", "pitch", "roll"]
MAX_BYTES = 1 << 30
Angles = tuple[float, float, float]


def read_angles(folder: Path) -> dict[str, Angles]:
    """Photo path -> yaw, pitch, roll in radians, from `angles.csv` of a folder; empty when there is none."""
    path = folder / ANGLES_NAME
    if not path.is_file():
        return {}
    try:
        rows = list(csv.reader(io.StringIO(read_bytes(path, MAX_BYTES).decode("utf-8"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a table of angles: {error}") from error
    if not rows or rows[0] != HEADER:
        raise InputError(f"{path}:1: expected the columns {','.join(HEADER)}")
    return dict(_row(path, number, row) for number, row in enumerate(rows[1:], start=2) if row)


def _row(path: Path, number: int, row: list[str]) -> tuple[str, Angles]:
    try:
        name, yaw, pitch, roll = row[0], *(float(value) for value in row[1:])
    except (ValueError, IndexError):
        raise InputError(f"{path}:{number}: expected a path and three angles, found {','.join(row)[:100]}") from None
    if not all(math.isfinite(angle) and abs(angle) <= 2 * math.pi for angle in (yaw, pitch, roll)):
        raise InputError(f"{path}:{number}: angles must be radians, found {yaw:g}, {pitch:g}, {roll:g}")
    return name, (yaw, pitch, roll)
