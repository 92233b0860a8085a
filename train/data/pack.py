"""Faces decoded and cropped once, memory-mapped ever after. A pack is whole and fits its key, or it is refused."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, ToolkitError, UsageError
from runtime.files import DiskError, read_json, write_json
from runtime.geometry import Box, Region, transform, warp
from runtime.images import Image
from runtime.layouts import Layout, layout_named
from runtime.spec import ModelSpec
from train.data.confidence import full_weights
from train.data.problems import OnError, Problems, problems_of
from train.data.sample import FaceSample, FaceSource

FORMAT = 1
META_NAME = "pack.json"
FACES = "faces.npy"
TABLES = ("points", "photo_boxes", "boxes", "regions", "attributes", "angles")
WEIGHTS = "weights.npy"
"""Only where some face says how much its points count."""
TEXTS = "texts.json"
UNKNOWN_FLAG = -1
MAX_TEXT_BYTES = 1 << 30
WORKERS = 2
QUEUE = 32
ABANDONED_SECONDS = 86_400
PIXELS_HASHED = 3
GENERATED_HASHED = 64
_GENERATED = re.compile(r"synth:\d+@\d+")

Progress = Callable[[], object]


@dataclass(frozen=True)
class PackSettings:
    """How faces are cut: a square of `margin` times the longer side of the landmark box, `size` pixels wide."""

    size: int = 192
    margin: float = 1.8

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 1024:
            raise UsageError(f"pack size {self.size}: expected 16..1024 pixels")
        if not 1 <= self.margin <= 5:
            raise UsageError(f"pack margin {self.margin}: expected 1..5 times the landmark box")

    @staticmethod
    def for_spec(spec: ModelSpec, margin: float = 1.8, zoom: float = 1.14) -> PackSettings:
        """So large that the network's crop is not magnified, not even when augmentation zooms in by `zoom`.

        >>> PackSettings.for_spec(ModelSpec("ghostone"))
        PackSettings(size=192, margin=1.8)
        """
        wanted = spec.input_size / spec.crop.scale * margin * zoom
        return PackSettings(min(1024, math.ceil(wanted / 16) * 16), margin)


def fingerprint(source: FaceSource, settings: PackSettings) -> str:
    """Key of a pack: sha256 over every label, the size of every photo file, some pixels, and the settings."""
    digest = hashlib.sha256(
        json.dumps([FORMAT, source.name, source.layout.name, len(source), asdict(settings)]).encode()
    )
    for index in _labels_to_hash(source):
        sample = source.sample(index)
        rest = (sample.image.name, _file_size(sample.image), sample.box, sample.attributes, sample.angles, sample.group)
        digest.update(repr(rest).encode("utf-8", "surrogateescape"))
        digest.update(np.ascontiguousarray(sample.points, dtype=np.float32).tobytes())
        if sample.weights is not None:
            digest.update(b"weights" + np.ascontiguousarray(sample.weights, dtype=np.float32).tobytes())
    for index in sorted({0, len(source) // 2, len(source) - 1})[:PIXELS_HASHED]:
        digest.update(_pixels(source, index))
    return digest.hexdigest()


def _labels_to_hash(source: FaceSource) -> Sequence[int]:
    """All labels of a data set; a few of synthetic faces, which are what their name says they are."""
    every = max(1, len(source) // GENERATED_HASHED) if _GENERATED.fullmatch(source.name) else 1
    return range(0, len(source), every)


def _pixels(source: FaceSource, index: int) -> bytes:
    try:
        return np.ascontiguousarray(source.photo(index)).tobytes()
    except InputError:
        return b"unreadable"


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


@dataclass(frozen=True)
class _Cut:
    pixels: NDArray[np.uint8]
    points: NDArray[np.float32]
    photo_box: tuple[float, float, float, float]
    box: NDArray[np.float64]
    region: tuple[float, float, float]
    sample: FaceSample


def _cut(source: FaceSource, index: int, settings: PackSettings) -> _Cut:
    """Crop one face with margin, resampled exactly as the runtime resamples."""
    sample = source.sample(index)
    around = Box.around(sample.points.astype(np.float64))
    side = settings.margin * max(around.width, around.height)
    region = Region(*around.centre, side)
    matrix = region.to_crop(settings.size)
    box = np.full(4, np.nan)
    if sample.box is not None:
        box = transform(matrix, np.asarray(sample.box).reshape(2, 2)).reshape(4)
    return _Cut(
        pixels=warp(source.photo(index), matrix, settings.size),
        points=transform(matrix, sample.points.astype(np.float64)).astype(np.float32),
        photo_box=(around.x0, around.y0, around.x1, around.y1),
        box=box,
        region=(region.cx, region.cy, region.side),
        sample=sample,
    )


def build_pack(
    source: FaceSource,
    directory: Path | str,
    settings: PackSettings | None = None,
    *,
    on_error: OnError = "skip",
    progress: Progress | None = None,
    force: bool = False,
    key: str | None = None,
) -> FacePack:
    """Decode and crop every face of a source into `directory`, which appears only when it is complete."""
    target = Path(directory)
    settings = settings or PackSettings()
    if len(source) == 0:
        raise UsageError(f"{source.name}: no faces to pack")
    require_place(target, force)
    _require_room(target, len(source) * settings.size**2 * 3)
    problems = Problems(on_error)
    problems.extend(problems_of(source))
    with _directory_in_place(target) as temporary:
        _fill(source, temporary, settings, problems, progress, key or fingerprint(source, settings))
    pack = FacePack(target)
    pack.problems.extend(problems)
    return pack


def require_place(target: Path, force: bool) -> None:
    """Raise when a pack cannot go there: only a pack or an empty folder may be replaced, and only with `force`."""
    if not target.exists():
        return
    empty = target.is_dir() and not any(target.iterdir())
    if not empty and not (target / META_NAME).is_file():
        raise UsageError(f"{target} exists and is no pack; it will not be overwritten")
    if not empty and not force:
        raise UsageError(f"{target} is a pack already; choose another place, or --force to replace it")


def _require_room(target: Path, needed: int) -> None:
    """Say before the work, not after it, that the disk is too small."""
    place = next(folder for folder in (target.parent, *target.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise DiskError(
            f"{target}: the pack needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free; free some space"
        )


def _fill(
    source: FaceSource, folder: Path, settings: PackSettings, problems: Problems, progress: Progress | None, key: str
) -> None:
    kept: list[_Cut] = []
    before = len(problems)
    header = _npy_header((len(source), settings.size, settings.size, 3))
    # Rows are written as a stream: on a full disk that is an error, where a memory map would kill the process.
    with (folder / FACES).open("wb") as stream:
        stream.write(header)
        for index, future in _in_order(source, settings):
            try:
                cut = future.result()
            except InputError as error:
                problems.add("image", source.sample(index).origin or f"{source.name}:{index}", str(error))
            else:
                stream.write(cut.pixels.tobytes())
                kept.append(_without_pixels(cut))
            if progress:
                progress()
        final = _npy_header((len(kept), settings.size, settings.size, 3))
        if len(final) != len(header):
            raise ToolkitError(f"{folder / FACES}: the header of the array changed its length; this is a bug")
        stream.seek(0)
        stream.write(final)
    if not kept:
        raise InputError(f"{source.name}: no face could be packed; {problems.summary()}")
    _write_tables(folder, kept)
    texts = [[cut.sample.image.as_posix(), cut.sample.origin, cut.sample.group] for cut in kept]
    write_json(folder / TEXTS, texts)
    meta = {
        "format": FORMAT,
        "source": source.name,
        "layout": source.layout.name,
        "split": getattr(source, "split", None),
        "count": len(kept),
        "left_out": len(problems) - before,
        "settings": asdict(settings),
        "key": key,
        "bytes": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    }
    write_json(folder / META_NAME, meta)


def _without_pixels(cut: _Cut) -> _Cut:
    return _Cut(np.empty((0,), np.uint8), cut.points, cut.photo_box, cut.box, cut.region, cut.sample)


def _in_order(source: FaceSource, settings: PackSettings) -> Iterator[tuple[int, Future[_Cut]]]:
    """Crops from the workers, in the order of the source, a bounded number ahead."""
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="pack")
    try:
        waiting: list[tuple[int, Future[_Cut]]] = []
        for index in range(len(source)):
            waiting.append((index, pool.submit(_cut, source, index, settings)))
            if len(waiting) >= QUEUE:
                yield waiting.pop(0)
        yield from waiting
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _npy_header(shape: tuple[int, ...]) -> bytes:
    from io import BytesIO

    stream = BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _write_tables(folder: Path, kept: list[_Cut]) -> None:
    unknown = (UNKNOWN_FLAG,) * 6
    nowhere = (math.nan,) * 3
    tables: dict[str, NDArray[Any]] = {
        "points": np.stack([cut.points for cut in kept]),
        "photo_boxes": np.asarray([cut.photo_box for cut in kept], dtype=np.float64),
        "boxes": np.stack([cut.box for cut in kept]).astype(np.float64),
        "regions": np.asarray([cut.region for cut in kept], dtype=np.float64),
        "attributes": np.asarray([cut.sample.attributes or unknown for cut in kept], dtype=np.int8),
        "angles": np.asarray([cut.sample.angles or nowhere for cut in kept], dtype=np.float32),
    }
    for name, table in tables.items():
        np.save(folder / f"{name}.npy", table, allow_pickle=False)
    if any(cut.sample.weights is not None for cut in kept):
        weights = np.stack([full_weights(cut.sample.weights, cut.sample.points) for cut in kept])
        np.save(folder / WEIGHTS, weights, allow_pickle=False)


@contextmanager
def _directory_in_place(target: Path) -> Iterator[Path]:
    """A temporary directory beside `target` that takes its name on success and is gone on failure."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
    except OSError as error:
        raise DiskError(f"{target}: cannot write: {error.strerror or error}") from error
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o777 & ~mask)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
            target.replace(old / "was")
            temporary.replace(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.replace(target)
    except OSError as error:
        raise DiskError(
            f"{target}: cannot write the pack: {error.strerror or error}; nothing half-written was left"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class FacePack:
    """A packed source: crops of size (S, S) with margin, points in pixels of the crop. Itself a source of faces."""

    def __init__(self, directory: Path | str, expect_key: str | None = None) -> None:
        self.directory = Path(directory)
        self._meta = _checked_meta(self.directory)
        if expect_key is not None and self._meta["key"] != expect_key:
            raise InputError(f"{self.directory}: this pack is stale: its labels, photos or settings changed; {_HOW}")
        self.settings = PackSettings(**self._meta["settings"])
        count, size = self._meta["count"], self.settings.size
        self._layout = layout_named(self._meta["layout"])
        self.images: NDArray[np.uint8] = _table(self.directory / FACES, (count, size, size, 3), np.uint8, mmap=True)
        """(N, S, S, 3) BGR, memory-mapped."""
        points = self._layout.count
        self.points: NDArray[np.float32] = _table(self.directory / "points.npy", (count, points, 2), np.float32)
        self.photo_boxes: NDArray[np.float64] = _table(self.directory / "photo_boxes.npy", (count, 4), np.float64)
        """Landmark boxes in pixels of the photo."""
        self.boxes: NDArray[np.float64] = _table(self.directory / "boxes.npy", (count, 4), np.float64)
        """Annotated boxes in pixels of the crop; NaN where unknown."""
        self.regions: NDArray[np.float64] = _table(self.directory / "regions.npy", (count, 3), np.float64)
        """Centre x, y and side of each crop in the photo."""
        self.attributes: NDArray[np.int8] = _table(self.directory / "attributes.npy", (count, 6), np.int8)
        """0 or 1; -1 where unknown."""
        self.angles: NDArray[np.float32] = _table(self.directory / "angles.npy", (count, 3), np.float32)
        """Yaw, pitch, roll in radians; NaN where unknown."""
        self.weights: NDArray[np.float32] | None = None
        """(N, P) how much each point counts in training; None = every labelled point 1."""
        if WEIGHTS in self._meta["bytes"]:
            self.weights = _table(self.directory / WEIGHTS, (count, points), np.float32)
            if not bool((np.isfinite(self.weights) & (self.weights >= 0)).all()):
                raise InputError(f"{self.directory / WEIGHTS}: weights must be 0 or more; {_HOW}")
        self._texts = _checked_texts(self.directory / TEXTS, count)
        self.problems = Problems()

    @property
    def name(self) -> str:
        return str(self._meta["source"])

    @property
    def key(self) -> str:
        return str(self._meta["key"])

    @property
    def split(self) -> str | None:
        value = self._meta["split"]
        return value if isinstance(value, str) else None

    @property
    def left_out(self) -> int:
        """Faces that could not be packed when it was built."""
        return int(self._meta["left_out"])

    @property
    def layout(self) -> Layout:
        return self._layout

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int) -> FaceSample:
        image, origin, group = self._texts[index]
        flags, angles, box = self.attributes[index], self.angles[index], self.boxes[index]
        a, b, c, d, e, f = (bool(flag > 0) for flag in flags)
        return FaceSample(
            image=Path(image),
            points=np.asarray(self.points[index]),
            layout=self._layout.name,
            box=None if np.isnan(box).any() else (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
            attributes=None if (flags == UNKNOWN_FLAG).any() else (a, b, c, d, e, f),
            angles=None if np.isnan(angles).any() else (float(angles[0]), float(angles[1]), float(angles[2])),
            origin=origin,
            weights=None if self.weights is None else np.asarray(self.weights[index]),
            group=group,
        )

    def photo(self, index: int) -> Image:
        return np.asarray(self.images[index])


_HOW = "build it again with `toolkit data pack`, or delete the folder when it lies in the cache"


def _checked_meta(directory: Path) -> dict[str, Any]:
    path = directory / META_NAME
    if not path.is_file():
        raise InputError(f"{directory}: no {META_NAME}, so this is no pack or only half of one; {_HOW}")
    meta = read_json(path)
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = meta.get("format") if isinstance(meta, dict) else type(meta).__name__
        raise InputError(f"{path}: pack format {found!r}, this version reads {FORMAT}; {_HOW}")
    kinds = {"source": str, "layout": str, "count": int, "left_out": int, "settings": dict, "key": str, "bytes": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(meta.get(name), kind)]
    if wrong or set(meta) != {*kinds, "format", "split"} or set(meta["settings"]) != {"size", "margin"}:
        raise InputError(f"{path}: not the description of a pack ({', '.join(wrong) or 'unexpected keys'}); {_HOW}")
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in meta["settings"].values()):
        raise InputError(f"{path}: settings must be numbers; {_HOW}")
    if not isinstance(meta["settings"]["size"], int) or meta["count"] < 1:
        raise InputError(f"{path}: count and size must be positive whole numbers; {_HOW}")
    expected = {FACES, TEXTS, *(f"{name}.npy" for name in TABLES)}
    if set(meta["bytes"]) - {WEIGHTS} != expected:
        raise InputError(f"{path}: names other files than a pack has; {_HOW}")
    for name, size in meta["bytes"].items():
        found_size = _file_size(directory / name)
        if found_size != size:
            state = "missing" if found_size < 0 else f"{found_size} bytes"
            raise InputError(f"{directory / name}: {state}, expected {size} bytes: half a pack; {_HOW}")
    return meta


def _table(path: Path, shape: tuple[int, ...], dtype: type[np.generic], mmap: bool = False) -> NDArray[Any]:
    try:
        table = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise InputError(f"{path}: cannot be read as an array: {error}; {_HOW}") from error
    if not isinstance(table, np.ndarray) or table.shape != shape or table.dtype != np.dtype(dtype):
        raise InputError(f"{path}: expected {np.dtype(dtype)} {shape}, found {table.dtype} {table.shape}; {_HOW}")
    return table


def _checked_texts(path: Path, count: int) -> list[list[str]]:
    texts = read_json(path, MAX_TEXT_BYTES)
    rows = texts if isinstance(texts, list) else []
    if len(rows) != count or not all(
        isinstance(row, list) and len(row) == 3 and all(isinstance(text, str) for text in row) for row in rows
    ):
        raise InputError(f"{path}: expected image, origin and group of {count} faces; {_HOW}")
    return rows


def default_cache() -> Path:
    """Where packs are kept: $XDG_CACHE_HOME/landmark-toolkit, else ~/.cache/landmark-toolkit."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "landmark-toolkit"


def _sweep(cache: Path) -> None:
    """Remove what builds that were killed a day ago or more have left behind."""
    for left in cache.glob(".*.tmp-*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(left)


def cached_pack(
    source: FaceSource,
    cache_dir: Path | str | None = None,
    settings: PackSettings | None = None,
    *,
    on_error: OnError = "skip",
    progress: Progress | None = None,
) -> FacePack:
    """The pack of a source from the cache, built there the first time. A pack is its own pack."""
    if isinstance(source, FacePack):
        return source
    settings = settings or PackSettings()
    key = fingerprint(source, settings)
    readable = re.sub(r"[^A-Za-z0-9]+", "-", source.name).strip("-")[:40] or "faces"
    directory = (Path(cache_dir) if cache_dir is not None else default_cache()) / "packs" / f"{readable}-{key[:16]}"
    _sweep(directory.parent)
    if directory.exists():
        try:
            return FacePack(directory, expect_key=key)
        except InputError:
            # The cache is ours: a pack that was damaged there is made anew.
            shutil.rmtree(directory, ignore_errors=True)
    try:
        return build_pack(source, directory, settings, on_error=on_error, progress=progress, key=key)
    except (DiskError, UsageError):
        if (directory / META_NAME).is_file():  # another process was faster
            return FacePack(directory, expect_key=key)
        raise
