"""Photos of a data set, before any pixel is decoded: are they there, how large are they, do the points fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.images import MAX_IMAGE_BYTES, header_size

HEADER_BYTES = 1 << 16
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_FACE_NUMBER = re.compile(r"_[ft]\d+$")

Size = tuple[int, int]


class Album:
    """Looks photos up in a folder once, however many faces each one has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, tuple[str, Size | None]] = {}

    def find(self, name: str) -> tuple[Path, str, Size | None]:
        """The photo's path, what is wrong with it ("" for nothing), and its size (None when unknown)."""
        path = self.folder / name
        if name not in self._known:
            self._known[name] = _look(path)
        return path, *self._known[name]


def _look(path: Path) -> tuple[str, Size | None]:
    try:
        if not path.is_file():
            return f"no image {path}", None
        length = path.stat().st_size
        if length == 0:
            return f"the image {path} is empty", None
        if length > MAX_IMAGE_BYTES:
            return f"the image {path} has {length} bytes, the limit is {MAX_IMAGE_BYTES}", None
        with path.open("rb") as stream:
            size = header_size(stream.read(HEADER_BYTES))
            if size is None and length > HEADER_BYTES:
                stream.seek(0)
                size = header_size(stream.read())
        return "", size
    except (OSError, ValueError) as error:
        return f"the image {str(path)[:200]!r} cannot be looked at: {error}", None


def outside_photo(points: NDArray[np.float32], size: Size) -> str:
    """Say when points lie too far outside a photo to be right; "" when they may stay.

    A few points may lie outside (a face cut by the edge). Most must lie inside, and none may be further out than the
    longer side of the box of those inside. A photo whose EXIF turns it is looked at both ways round.
    """
    return min((_outside(points, shape) for shape in (size, size[::-1])), key=len)


def _outside(points: NDArray[np.float32], size: Sequence[int]) -> str:
    edge = np.asarray(size, dtype=np.float64) - 0.5
    inside = ((points >= -0.5) & (points <= edge)).all(axis=1)
    if 2 * int(inside.sum()) < len(points):
        return f"{len(points) - int(inside.sum())} of {len(points)} points lie outside the {size[0]} x {size[1]} photo"
    reach = float(np.ptp(points[inside], axis=0).max())
    beyond = np.maximum(-points, points - edge).max(axis=1)
    worst = int(np.argmax(beyond))
    if beyond[worst] <= reach:
        return ""
    x, y = points[worst]
    return f"point {worst} at ({x:g}, {y:g}) is {beyond[worst]:.0f} px outside the {size[0]} x {size[1]} photo"


def group_of(name: str) -> str:
    """What keeps faces of one photo together: its name, without the `_f3` that marks the third face cut from it.

    >>> group_of("0--Parade/photo_29_f0.jpg"), group_of("helen/12_1.jpg")
    ('0--Parade/photo_29', 'helen/12_1')
    """
    path = Path(name)
    return str(path.with_name(_FACE_NUMBER.sub("", path.stem) or path.stem).as_posix()) if path.name else name


def images_folder(beside: Path, names: Sequence[str], levels: int = 2) -> Path:
    """Where the photos of a list lie: WFLW_images/ or images/ beside it or above it, or its own folder."""
    folders = [beside, *list(beside.parents)[:levels]]
    candidates = [folder / name for folder in folders for name in ("WFLW_images", "images")] + folders
    best, most = candidates[0], 0
    for candidate in candidates:
        hits = sum(_is_file(candidate / name) for name in names)
        if hits > most:
            best, most = candidate, hits
    if most == 0:
        existing = [candidate for candidate in candidates[: 2 * len(folders)] if candidate.is_dir()]
        best = existing[0] if existing else beside
    return best


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def photo_beside(label: Path) -> Path | None:
    """The photo with the same stem as a label file."""
    for suffix in PHOTO_SUFFIXES:
        for candidate in (label.with_suffix(suffix), label.with_suffix(suffix.upper())):
            if _is_file(candidate):
                return candidate
    return None
