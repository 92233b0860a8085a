"""Faces that two data sets share: the same picture, perhaps cut, scaled or compressed anew, whatever its name.

Small grey pictures of all faces are compared at once; the likeliest pairs are then laid over each other exactly, in
more detail, so that people who merely look alike in the same light are told from one photo kept twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, UsageError
from runtime.geometry import Box, Region, warp
from runtime.images import Image
from train.data.sample import FaceSample, FaceSource

COARSE, FINE = 24, 64
"""Pixels of the small pictures and of those that are laid over each other."""
MARGIN = 1.3
"""Side of the square that is looked at, in longer sides of the landmark box: hair and background tell photos apart."""
LOOKED_AT = 5
"""Of each face of the smaller set, so many of the other are looked at closely."""
MAYBE = 0.7
"""Correlation of the small pictures below which a pair is not looked at."""
SAME = 0.9
"""Correlation of the details from which two faces count as one picture: copies reach 0.98, other photos 0.75."""
BLOCK = 1024
GRAIN, BROAD = 0.8, 4.0
"""Standard deviations, in fine pixels, between which the details of the close look lie."""
_STEPS, _PRECISION, _SMOOTH = 50, 1e-4, 5

Progress = Callable[[], object]


@dataclass(frozen=True, order=True)
class Twin:
    """Two faces that show the same picture."""

    likeness: float
    """Correlation of their pixels, 1 for equal ones."""
    first: int
    second: int
    """Their numbers in the two sources."""


@dataclass(frozen=True)
class Sketches:
    """Faces, small; unreadable ones are blank and like nothing."""

    coarse: NDArray[np.float32]
    """(F, COARSE * COARSE), mean 0 and length 1."""
    fine: NDArray[np.uint8]
    """(F, FINE, FINE) grey."""
    unreadable: int = 0

    def __len__(self) -> int:
        return len(self.coarse)

    @staticmethod
    def stack(parts: Sequence[Sketches]) -> Sketches:
        """The faces of several sources, one after the other."""
        return Sketches(
            np.concatenate([part.coarse for part in parts]),
            np.concatenate([part.fine for part in parts]),
            sum(part.unreadable for part in parts),
        )


def sketch(source: FaceSource, progress: Progress | None = None) -> Sketches:
    """Cut and shrink every face."""
    import cv2

    coarse = np.zeros((len(source), COARSE * COARSE), np.float32)
    fine = np.zeros((len(source), FINE, FINE), np.uint8)
    unreadable = 0
    for index in range(len(source)):
        try:
            fine[index] = _cut(source.photo(index), source.sample(index))
            small = cv2.resize(fine[index], (COARSE, COARSE), interpolation=cv2.INTER_AREA)
            coarse[index] = _unit(small.astype(np.float32).ravel())
        except InputError:
            unreadable += 1
        if progress is not None:
            progress()
    return Sketches(coarse, fine, unreadable)


def twins(first: Sketches, second: Sketches, least: float = SAME, progress: Progress | None = None) -> list[Twin]:
    """Pairs of faces that show one picture, likest first.

    For each face of the smaller set the likeliest few of the other are looked at; `progress` is told of each face.
    """
    if not 0 < least <= 1:
        raise UsageError(f"likeness {least:g}: expected a number above 0, at most 1")
    swapped = len(second) > len(first)
    few, many = (first, second) if swapped else (second, first)
    found = []
    for at, rows in _candidates(few.coarse, many.coarse):
        for row in rows:
            likeness = overlay(few.fine[at], many.fine[row])
            if likeness >= least:
                found.append(Twin(likeness, *((at, row) if swapped else (row, at))))
        if progress is not None:
            progress()
    return sorted(found, key=lambda twin: (-twin.likeness, twin.first, twin.second))


def _candidates(few: NDArray[np.float32], many: NDArray[np.float32]) -> Iterator[tuple[int, list[int]]]:
    """Each face of the few, and the likeliest of the many."""
    count = min(LOOKED_AT, len(many))
    for start in range(0, len(few), BLOCK):
        like = few[start : start + BLOCK] @ many.T
        best = np.argpartition(-like, count - 1, axis=1)[:, :count]
        for offset, rows in enumerate(best):
            yield start + offset, [int(row) for row in rows if like[offset, row] >= MAYBE]


def overlay(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Correlation of two cut faces after the second was moved, turned and scaled to fit; where they overlap."""
    import cv2

    fixed, moving = _detail(first), _detail(second)
    plain = _correlation(fixed, moving, np.ones_like(first, dtype=bool))
    fit = np.eye(2, 3, dtype=np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _STEPS, _PRECISION)
    try:
        _, fit = cv2.findTransformECC(fixed, moving, fit, cv2.MOTION_AFFINE, criteria, None, _SMOOTH)  # type: ignore[call-overload]
    except cv2.error:
        return plain
    if abs(np.linalg.det(fit[:, :2]) - 1) > 0.5:
        return plain
    moved, seen = (_moved(values, fit) for values in (moving, np.ones_like(moving)))
    whole = seen > 0.99
    return max(plain, _correlation(fixed, moved, whole)) if whole.mean() > 0.5 else plain


def _moved(values: NDArray[np.float32], fit: NDArray[np.float32]) -> NDArray[np.float32]:
    import cv2

    size = (values.shape[1], values.shape[0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(values, fit, size, flags=flags), dtype=np.float32)


def _cut(photo: Image, sample: FaceSample) -> NDArray[np.uint8]:
    import cv2

    if np.isfinite(sample.points).any():
        box = Box.around(np.asarray(sample.points, dtype=np.float64))
    elif sample.box is not None:
        box = Box(*sample.box)
    else:
        raise InputError(f"{sample.image}: neither points nor a box tell where the face is")
    region = Region(*box.centre, MARGIN * max(box.width, box.height))
    # Shrunk in halves, so that no pixel of a large photo is passed over.
    size, halves = FINE, 0
    while size * 2 <= region.side and halves < 5:
        size, halves = size * 2, halves + 1
    cut = warp(photo, region.to_crop(size), size)
    grey = cv2.cvtColor(cut, cv2.COLOR_BGR2GRAY)
    return np.asarray(cv2.resize(grey, (FINE, FINE), interpolation=cv2.INTER_AREA) if halves else grey)


def _detail(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Without the broad light and shade that all faces share, and without the grain that copying changes."""
    import cv2

    values = grey.astype(np.float32)
    return np.asarray(cv2.GaussianBlur(values, (0, 0), GRAIN) - cv2.GaussianBlur(values, (0, 0), BROAD))


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    values = values - values.mean()
    length = float(np.linalg.norm(values))
    return values / length if length > 1 else np.zeros_like(values)


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32], seen: NDArray[np.bool_]) -> float:
    return float(_unit(a[seen]) @ _unit(b[seen]))
