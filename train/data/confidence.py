"""`LIST.weights.csv` beside a landmark list: how much each point of each face counts in training."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.files import read_bytes

SUFFIX = ".weights.csv"
MAX_BYTES = 1 << 30
MAX_WEIGHT = 100.0

Weights = NDArray[np.float32]


def weights_beside(path: Path) -> Path:
    """Where the weights of a list would lie.

    >>> weights_beside(Path("faces/list_98pt_rect_attr_train.txt")).name
    'list_98pt_rect_attr_train.weights.csv'
    """
    return path.with_name(path.stem + SUFFIX)


def weights_text(names: Sequence[str], weights: Sequence[Weights]) -> str:
    """The table as text: a row per face, in the order of the list."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["path", *range(len(weights[0]) if weights else 0)])
    for name, row in zip(names, weights, strict=True):
        writer.writerow([name, *(f"{value:.4g}" for value in row.tolist())])
    return stream.getvalue()


class WeightTable:
    """The rows of a `.weights.csv`, taken line by line as the list is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = read_bytes(path, MAX_BYTES).decode("utf-8-sig")
            self._rows = list(csv.reader(io.StringIO(text, newline="")))
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}: not a table of weights in UTF-8 text ({error})") from None
        if not self._rows or self._rows[0][:1] != ["path"]:
            found = ",".join(self._rows[0])[:60] if self._rows else "nothing"
            raise InputError(f"{path}:1: expected the columns path,0,1,..., found {found!r}")

    @staticmethod
    def beside(path: Path) -> WeightTable | None:
        """The table that belongs to a list; None when there is none."""
        place = weights_beside(path)
        return WeightTable(place) if place.is_file() else None

    def __len__(self) -> int:
        return len(self._rows) - 1

    def check_count(self, lines: int) -> None:
        """Raise when the list has another number of lines."""
        if len(self) != lines:
            raise InputError(f"{self.path}: {len(self)} rows, its list has {lines} lines; one of them was changed")

    def row(self, number: int, name: str, points: int) -> Weights:
        """The weights of the list's line `number` (from 0), whose photo is `name`."""
        where = f"{self.path}:{number + 2}"
        if number >= len(self):
            raise InputError(f"{self.path}: {len(self)} rows, its list has more lines; one of them was changed")
        row = self._rows[number + 1]
        if row[:1] != [name]:
            found = row[0] if row else ""
            raise InputError(f"{where}: weights of {found!r}, the list's line shows {name!r}; one of them was changed")
        if len(row) != points + 1:
            raise InputError(f"{where}: {len(row) - 1} weights, the face has {points} points")
        try:
            weights = np.array([float(cell) for cell in row[1:]], dtype=np.float32)
        except ValueError as error:
            raise InputError(f"{where}: {error}") from None
        if not (np.isfinite(weights) & (weights >= 0) & (weights <= MAX_WEIGHT)).all():
            index = int(np.argmin(np.isfinite(weights) & (weights >= 0) & (weights <= MAX_WEIGHT)))
            raise InputError(f"{where}: point {index} weighs {row[index + 1]}, expected 0..{MAX_WEIGHT:g}")
        return weights


def full_weights(weights: Weights | None, points: NDArray[np.float32]) -> Weights:
    """The weights of a face with every choice made: 1 without any, 0 for a point that is not labelled."""
    known = np.isfinite(points).all(axis=-1)
    chosen = np.ones(len(points), dtype=np.float32) if weights is None else weights
    return np.where(known, chosen, 0).astype(np.float32)
