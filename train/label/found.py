"""Photos nobody has labelled: faces that a detector finds in them, as a source without points."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

from runtime.detect.protocol import Detector
from runtime.errors import InputError
from runtime.files import write_text
from runtime.images import read_image
from train.data.boxes import HEADER, read_boxes
from train.data.photos import PHOTO_SUFFIXES
from train.data.readers import ListSource


def photos_under(folder: Path) -> list[Path]:
    """Every photo of a folder and of those in it, sorted."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file())
    if not found:
        raise InputError(f"{folder}: no photo in it ({', '.join(PHOTO_SUFFIXES)})")
    return found


def find_faces(
    photos: list[Path],
    detector: Detector,
    table: Path,
    progress: Callable[[], object] | None = None,
    min_face: float = 0.0,
) -> int:
    """Write `boxes.csv` of every face that a detector finds; gives the number of photos that could not be read.

    Faces whose box is shorter than `min_face` pixels on both sides are left out.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(HEADER)
    broken = faces = 0
    for path in photos:
        try:
            detections = detector(read_image(path))
        except InputError:
            detections, broken = [], broken + 1
        for detection in detections:
            box = detector.rule.apply(detection.box)
            if max(box.width, box.height) < min_face:
                continue
            writer.writerow([path.absolute().as_posix(), *(f"{edge:.2f}" for edge in (box.x0, box.y0, box.x1, box.y1))])
            faces += 1
        if progress is not None:
            progress()
    if not faces:
        large = f" of {min_face:g} pixels and more" if min_face else ""
        raise InputError(f"{photos[0].parent}: detector {detector.name} finds no face{large} in {len(photos)} photos")
    write_text(table, stream.getvalue())
    return broken


def found_faces(table: Path, name: str) -> ListSource:
    """The faces of a table made by `find_faces`."""
    source = read_boxes(table)
    samples = [source.sample(index) for index in range(len(source))]
    return ListSource(name, source.layout, samples, problems=source.problems)
