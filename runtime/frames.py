"""Where pictures come from, videos, cameras, folders and patterns, and the writer for annotated videos."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import InputError, UsageError
from runtime.files import atomic_path, require_file
from runtime.images import Image
from runtime.lazy import require

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".pgm", ".ppm"})
VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".mjpeg", ".wmv"})
DEFAULT_RATE = 25.0
MAX_BROKEN = 100
"""Frames in a row that may fail to decode before a video counts as ended."""


@dataclass(frozen=True)
class Frame:
    """One frame; `image` is None where it could not be decoded."""

    number: int
    seconds: float
    image: Image | None


@dataclass(frozen=True)
class Clip:
    """An opened video or camera."""

    name: str
    rate: float
    count: int | None
    """Frames, where the file says so."""
    frames: Iterator[Frame]


def kind_of(source: str) -> str:
    """`camera`, `video`, `folder` or `picture`, by name alone.

    >>> kind_of("0"), kind_of("clip.MP4"), kind_of("photo.jpg")
    ('camera', 'video', 'picture')
    """
    if source.isdecimal() and not Path(source).exists():
        return "camera"
    if Path(source).is_dir():
        return "folder"
    return "video" if Path(source).suffix.lower() in VIDEOS else "picture"


def expand(sources: Sequence[str]) -> list[str]:
    """Files, cameras, folders and patterns -> single pictures, videos and cameras, in a stable order."""
    found: list[str] = []
    for source in sources:
        kind = kind_of(source)
        if kind == "folder":
            inside = [p for p in Path(source).rglob("*") if p.suffix.lower() in PICTURES | VIDEOS and p.is_file()]
            if not inside:
                raise InputError(f"{source}: a folder without pictures or videos")
            found += [str(p) for p in sorted(inside)]
        elif kind != "camera" and not Path(source).exists() and glob.has_magic(source):
            matches = sorted(glob.glob(source, recursive=True))  # noqa: PTH207 - patterns may be absolute
            if not matches:
                raise InputError(f"{source}: no file matches this pattern")
            found += expand(matches)
        else:
            if kind != "camera":
                require_file(source)
            found.append(source)
    if not found:
        raise UsageError("give at least one picture, video, folder or camera number")
    return found


@contextmanager
def open_clip(source: str) -> Iterator[Clip]:
    """Open a video file or a camera; released on leaving."""
    cv2 = require("cv2", "reading a video")
    camera = kind_of(source) == "camera"
    capture = cv2.VideoCapture(int(source)) if camera else cv2.VideoCapture(str(require_file(source)))
    try:
        if not capture.isOpened():
            what = "no camera with this number opens here" if camera else "cannot be opened as a video"
            raise InputError(f"{source}: {what}")
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        rate = rate if np.isfinite(rate) and 1 <= rate <= 1000 else DEFAULT_RATE
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        known = None if camera or count <= 0 else count
        yield Clip(source, rate, known, _read(capture, source, rate, known, camera))
    finally:
        capture.release()


def _read(capture: Any, source: str, rate: float, count: int | None, camera: bool) -> Iterator[Frame]:
    """Frames until the end; those that fail to decode come as None and do not end the clip before its time."""
    number, broken, whole = 0, 0, 0
    clock = _camera_clock() if camera else None
    while True:
        grabbed = capture.grab()
        done, image = capture.retrieve() if grabbed else (False, None)
        seconds = clock() if clock else number / rate
        if done and image is not None and image.size:
            broken, whole = 0, whole + 1
            yield Frame(number, seconds, np.asarray(image, dtype=np.uint8))
        else:
            ended = camera or count is None or number >= count
            broken += 1
            if broken > MAX_BROKEN or (not grabbed and ended):
                break
            yield Frame(number, seconds, None)
        number += 1
    if whole == 0:
        raise InputError(f"{source}: a video without a single frame that can be decoded")


def _camera_clock() -> Callable[[], float]:
    import time

    start = time.monotonic()
    return lambda: time.monotonic() - start


class VideoWriter:
    """Writes frames of one size; the file takes its name only when it is complete."""

    def __init__(self, path: Path | str, rate: float) -> None:
        self._path = Path(path)
        if self._path.suffix.lower() not in (".mp4", ".avi"):
            raise UsageError(f"{path}: annotated videos are written as .mp4 or .avi")
        self._rate = rate
        self._writer: Any = None
        self._size: tuple[int, int] | None = None
        self._hold = atomic_path(self._path)
        self._temporary: Path | None = None

    def __enter__(self) -> VideoWriter:
        self._temporary = self._hold.__enter__()
        return self

    def write(self, image: Image) -> None:
        """Add a frame; the first one sets the size."""
        cv2 = require("cv2", "writing a video")
        size = (image.shape[1], image.shape[0])
        if self._writer is None:
            code = "mp4v" if self._path.suffix.lower() == ".mp4" else "MJPG"
            self._writer = cv2.VideoWriter(str(self._temporary), cv2.VideoWriter_fourcc(*code), self._rate, size)
            self._size = size
            if not self._writer.isOpened():
                raise InputError(f"{self._path}: OpenCV here cannot write this kind of video; try .avi")
        if size != self._size:
            image = np.asarray(cv2.resize(image, self._size))
        self._writer.write(image)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool | None:
        if self._writer is not None:
            self._writer.release()
        if kind is None and self._writer is None:
            error = InputError(f"{self._path}: no frame was written")
            kind, trace = InputError, None
            self._hold.__exit__(kind, error, trace)
            raise error
        return self._hold.__exit__(kind, error, trace)
