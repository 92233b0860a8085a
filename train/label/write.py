"""Labels on disk: a folder in WFLW's form with weights beside the list, which every command of the toolkit opens."""

from __future__ import annotations

import csv
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import InputError, UsageError
from runtime.files import DiskError, write_json, write_text
from runtime.images import write_image
from runtime.layouts import Layout
from train.data.angles import ANGLES_NAME
from train.data.angles import HEADER as ANGLES_HEADER
from train.data.combine import SubsetSource
from train.data.confidence import weights_beside, weights_text
from train.data.sample import ATTRIBUTES, FaceSample, FaceSource
from train.data.split import split_by_group
from train.label.job import Labels
from train.label.pictures import draw_disagreement, worst_sheet
from train.label.rules import FATES

IMAGES = "images"
FACTS_NAME = "labels.json"
TABLE_NAME = "disagreement.csv"
SPLIT_SEED = 0


def require_place(target: Path) -> None:
    """Raise when labels cannot go there."""
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target}: is a file; name a folder that does not exist yet")
    if target.is_dir() and any(target.iterdir()):
        raise UsageError(f"{target}: exists and is not empty; remove it or name another folder")


def write_labels(
    target: Path,
    source: FaceSource,
    labels: Labels,
    layout: Layout,
    settings: dict[str, Any],
    progress: Callable[[], object] | None = None,
    test_fraction: float = 0.0,
) -> Path:
    """Write list, weights, photos, facts and pictures; the folder appears only when whole.

    With a `test_fraction` about so many of the faces make a test list beside the training list, whole photos at a time.
    """
    kept = labels.kept
    if not kept:
        reasons = ", ".join(f"{count} {FATES[fate]}" for fate, count in labels.counts().items())
        raise InputError(f"{source.name}: no face is left to write ({reasons}); loosen the limits or add models")
    lists = _lists(source, kept, test_fraction)
    require_place(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
    except OSError as error:
        raise DiskError(f"{target}: cannot write: {error.strerror or error}") from error
    try:
        _fill(building, source, labels, layout, {**settings, "test_fraction": test_fraction}, progress, lists)
        building.chmod(0o755)
        if target.exists():
            target.rmdir()
        building.replace(target)
    except OSError as error:
        raise DiskError(f"{target}: cannot write: {error.strerror or error}; nothing half-written was left") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _fill(
    root: Path,
    source: FaceSource,
    labels: Labels,
    layout: Layout,
    settings: dict[str, Any],
    progress: Callable[[], object] | None,
    lists: dict[str, list[int]],
) -> None:
    kept = labels.kept
    names = dict(zip(kept, _names([source.sample(index) for index in kept]), strict=True))
    angles = [",".join(ANGLES_HEADER)]
    for index, name in names.items():
        sample = source.sample(index)
        _place_photo(root / IMAGES / name, source, index)
        if sample.angles is not None:
            angles.append(_row([name, *(f"{angle:.6f}" for angle in sample.angles)]))
        if progress is not None:
            progress()
    for split, rows in lists.items():
        path = root / f"list_{layout.count}pt_rect_attr_{split}.txt"
        write_text(path, "".join(_line(labels.points[row], source.sample(row), names[row]) + "\n" for row in rows))
        write_text(
            weights_beside(path), weights_text([names[row] for row in rows], [labels.weights[row] for row in rows])
        )
    if len(angles) > 1:
        write_text(root / ANGLES_NAME, "\n".join(angles) + "\n")
    write_text(root / TABLE_NAME, _table(source, labels))
    write_json(root / FACTS_NAME, {**settings, "fates": labels.counts()})
    draw_disagreement(labels, settings["rules"], root / "disagreement.png")
    write_image(root / "worst.png", worst_sheet(source, labels, layout))


def _lists(source: FaceSource, kept: list[int], test_fraction: float) -> dict[str, list[int]]:
    """The kept faces by list: one, named as the source's split, or a training and a test list."""
    if not test_fraction:
        return {getattr(source, "split", None) or "train": kept}
    train, test = split_by_group(SubsetSource(source, kept), test_fraction, SPLIT_SEED)
    return {"train": [kept[row] for row in train], "test": [kept[row] for row in test]}


def _names(samples: Sequence[FaceSample]) -> list[str]:
    """A name for the photo of each face, unique by photo: below what all photos have in common, or by number."""
    files = [sample.image.absolute() for sample in samples if sample.image.is_file()]
    if len(files) < len(samples):
        return [f"{number:06d}.png" for number in range(len(samples))]
    common = Path(os.path.commonpath([path.parent for path in files]))
    return [path.relative_to(common).as_posix() for path in files]


def _place_photo(place: Path, source: FaceSource, index: int) -> None:
    """A hard link of the photo where the file system allows it, else a copy; pixels of what is no file."""
    if place.exists():
        return
    original = source.sample(index).image
    if not original.is_file() or place.suffix.lower() != original.suffix.lower():
        write_image(place, source.photo(index))
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        place.hardlink_to(original.resolve())
    except OSError:
        shutil.copyfile(original, place)


def _line(points: np.ndarray[Any, Any], sample: FaceSample, name: str) -> str:
    low, high = np.floor(points.min(0)), np.ceil(points.max(0))
    box = sample.box or (*low.tolist(), *high.tolist())
    flags = sample.attributes or (False,) * len(ATTRIBUTES)
    numbers = [f"{value:.4f}" for value in points.ravel().tolist()]
    return " ".join([*numbers, *(str(round(edge)) for edge in box), *(str(int(flag)) for flag in flags), name])


def _row(cells: Sequence[object]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="").writerow(cells)
    return stream.getvalue()


def _table(source: FaceSource, labels: Labels) -> str:
    """Every face, kept or not: how far the models disagree, and what became of it."""
    rows = ["face,path,disagreement,distance,fate"]
    for index, fate in enumerate(labels.fates):
        numbers = [
            "" if np.isnan(value) else f"{value:.5f}" for value in (labels.disagreement[index], labels.distance[index])
        ]
        rows.append(_row([index, source.sample(index).image.name, *numbers, fate]))
    return "\n".join(rows) + "\n"
