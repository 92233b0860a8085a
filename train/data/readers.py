"""Landmark lists and `.pts` files -> one kind of source. Broken faces are reported, never hidden."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from runtime.errors import InputError
from runtime.files import read_bytes, require_file
from runtime.images import Image, read_image
from runtime.layouts import Layout, plain_layout
from train.data.angles import read_angles
from train.data.confidence import Weights, WeightTable
from train.data.lines import MAX_LINE_BYTES, Line, LineError, check_points, layout_of_count, parse_line
from train.data.photos import Album, Size, group_of, images_folder, outside_photo, photo_beside
from train.data.problems import OnError, Problems
from train.data.sample import FaceSample

MAX_PTS_BYTES = 1 << 20
PROBE = 20
"""So many paths of a list decide which folder holds its photos."""

Progress = Callable[[], object]


@dataclass(frozen=True)
class Entry:
    """A face as a label file states it, before its photo was looked at."""

    where: str
    name: str
    line: Line
    weights: Weights | None = None


class ListSource:
    """Faces whose photos are files; `problems` tells what was left out and why."""

    def __init__(
        self,
        name: str,
        layout: Layout,
        samples: Sequence[FaceSample],
        sizes: Sequence[Size | None] | None = None,
        problems: Problems | None = None,
        split: str | None = None,
    ) -> None:
        self._name = name
        self._layout = layout
        self._samples = tuple(samples)
        self._sizes = tuple(sizes) if sizes is not None else (None,) * len(self._samples)
        self.problems = problems if problems is not None else Problems()
        self.split = split

    @property
    def name(self) -> str:
        return self._name

    @property
    def layout(self) -> Layout:
        return self._layout

    def __len__(self) -> int:
        return len(self._samples)

    def sample(self, index: int) -> FaceSample:
        return self._samples[index]

    def photo(self, index: int) -> Image:
        sample = self._samples[index]
        try:
            return read_image(sample.image)
        except InputError as error:
            raise InputError(f"{sample.origin}: {error}") from error

    def photo_size(self, index: int) -> Size | None:
        """Width and height as the file's header tells them."""
        return self._sizes[index]


def read_list(
    path: Path | str,
    images: Path | str | None = None,
    on_error: OnError = "skip",
    progress: Progress | None = None,
) -> ListSource:
    """Read a landmark list (WFLW, its subset lists, 68-point lists, or path first)."""
    source = Path(path)
    problems = Problems(on_error)
    entries = _entries(source, problems)
    if not entries:
        raise InputError(f"{source}: no usable line; {problems.summary()}")
    folder = Path(images) if images is not None else images_folder(source.parent, [e.name for e in entries[:PROBE]])
    unknown_flags = not any(entry.line.flags and any(entry.line.flags) for entry in entries)
    if unknown_flags:
        entries = [replace(entry, line=replace(entry.line, flags=None)) for entry in entries]
    return assemble(source.stem, entries, folder, problems, split_of(source.stem), progress)


def _entries(source: Path, problems: Problems) -> list[Entry]:
    entries: list[Entry] = []
    table, faces = WeightTable.beside(source), 0
    for number, raw in _numbered_lines(source):
        if not raw.strip():
            continue
        faces += 1
        where = f"{source}:{number}"
        try:
            line = parse_line(raw)
            if entries and line.layout != entries[0].line.layout:
                raise LineError(
                    "columns", f"{line.layout.count} points, the lines above have {entries[0].line.layout.count}"
                )
        except LineError as error:
            problems.add(error.kind, where, str(error))
            continue
        weights = table.row(faces - 1, line.path, line.layout.count) if table else None
        entries.append(Entry(where, line.path, line, weights))
    if table:
        table.check_count(faces)
    return entries


def _numbered_lines(source: Path) -> Iterator[tuple[int, bytes]]:
    """Lines of a file, cut off where no landmark line goes on: a file of one endless line costs no memory."""
    try:
        with require_file(source).open("rb") as stream:
            for number in itertools.count(1):
                raw = stream.readline(MAX_LINE_BYTES + 1)
                rest = raw
                while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                    rest = stream.readline(MAX_LINE_BYTES + 1)
                if not raw:
                    return
                yield number, raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
    except OSError as error:
        raise InputError(f"{source}: cannot read: {error.strerror or error}") from error


def assemble(
    name: str,
    entries: Iterable[Entry],
    folder: Path,
    problems: Problems,
    split: str | None = None,
    progress: Progress | None = None,
) -> ListSource:
    """Look every photo up, leave out what cannot be used, and make the source."""
    album = Album(folder)
    angles = read_angles(folder.parent)
    samples: list[FaceSample] = []
    sizes: list[Size | None] = []
    layout: Layout | None = None
    for entry in entries:
        photo, wrong, size = album.find(entry.name)
        kind = "image"
        if not wrong and size is not None:
            wrong, kind = outside_photo(entry.line.points, size), "points"
        if progress:
            progress()
        if wrong:
            problems.add(kind, entry.where, wrong)
            continue
        layout = entry.line.layout
        samples.append(
            FaceSample(
                image=photo,
                points=entry.line.points,
                layout=layout.name,
                box=entry.line.box,
                attributes=entry.line.flags,
                angles=angles.get(entry.name),
                origin=entry.where,
                weights=entry.weights,
                group=group_of(entry.name),
            )
        )
        sizes.append(size)
    if layout is None:
        raise InputError(f"{name}: no usable face (photos looked for in {folder}); {problems.summary()}")
    return ListSource(name, layout, samples, sizes, problems, split)


def split_of(name: str) -> str | None:
    """Whether a name says train or test.

    >>> split_of("list_98pt_rect_attr_train"), split_of("faces"), split_of("helen/testset")
    ('train', None, 'test')
    """
    words = re.split(r"[^a-z]+", name.lower())
    for split in ("train", "test"):
        if any(word in (split, f"{split}set", f"{split}ing") for word in words):
            return split
    return None


def find_pts(folder: Path) -> list[Path]:
    """All `.pts` files under a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".pts" and path.is_file())


def read_pts(
    files: Sequence[Path],
    root: Path,
    on_error: OnError = "skip",
    split: str | None = None,
    progress: Progress | None = None,
) -> ListSource:
    """Read 300-W `.pts` files, each with its photo beside it; they count pixels from 1, our samples from 0."""
    problems = Problems(on_error)
    entries: list[Entry] = []
    for path in files:
        where = f"{path}:1"
        try:
            line = _parse_pts(path)
            if entries and line.layout.count != entries[0].line.layout.count:
                expected = entries[0].line.layout.count
                raise LineError("columns", f"{line.layout.count} points, the files above have {expected}")
        except LineError as error:
            problems.add(error.kind, where, str(error))
            continue
        photo = photo_beside(path)
        if photo is None:
            problems.add("image", where, f"no photo named {path.stem}.jpg or .png beside it")
            continue
        entries.append(Entry(where, photo.relative_to(root).as_posix(), line))
    if not entries:
        raise InputError(f"{root}: no usable .pts file; {problems.summary()}")
    return assemble(root.name, entries, root, problems, split, progress)


def _parse_pts(path: Path) -> Line:
    try:
        text = read_bytes(path, MAX_PTS_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LineError("text", f"not UTF-8 text ({error.reason} at byte {error.start})") from None
    except InputError as error:
        raise LineError("text", str(error)) from None
    head, brace, rest = text.partition("{")
    body, closing, _ = rest.partition("}")
    if not brace or not closing:
        raise LineError("text", "expected the points between { and }")
    announced = re.search(r"n_points:\s*(\d{1,6})\b", head)
    tokens = body.split()
    try:
        values = np.array([float(token) for token in tokens])
    except ValueError as error:
        raise LineError("number", str(error)) from None
    if len(values) % 2 or len(values) < 4:
        raise LineError("columns", f"found {len(values)} numbers, expected x y of each point")
    count = len(values) // 2
    if announced and int(announced[1]) != count:
        raise LineError("columns", f"n_points says {announced[1]}, found {count} points")
    layout = layout_of_count(count) or plain_layout(count)
    return Line("", check_points(values - 1), layout, None, None)


def looks_like_list(path: Path) -> bool:
    """Whether one of the first lines of a text file is a landmark line."""
    try:
        with require_file(path).open("rb") as stream:
            lines = stream.read(1 << 16).split(b"\n")[:5]
    except (InputError, OSError):
        return False
    for raw in lines:
        try:
            parse_line(raw)
        except LineError:
            continue
        return True
    return False
