"""What is in a data set, in numbers: faces, sizes, flags, poses, and everything that is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.data.pose import estimate_pose
from train.data.problems import KINDS, Problems, problems_of
from train.data.sample import ATTRIBUTES, FaceSample, FaceSource

YAW_EDGES = (0, 15, 30, 45, 60, 90)
SMALLEST, MIDDLE, LARGEST = "smallest", "median", "largest"


@dataclass(frozen=True)
class Spread:
    """The range of a quantity."""

    smallest: float
    median: float
    largest: float

    @staticmethod
    def of(values: NDArray[Any]) -> Spread | None:
        """None when there is nothing to spread."""
        known = values[np.isfinite(values)]
        if len(known) == 0:
            return None
        return Spread(float(known.min()), float(np.median(known)), float(known.max()))

    def __str__(self) -> str:
        return f"{self.smallest:.0f} / {self.median:.0f} / {self.largest:.0f}"


@dataclass(frozen=True)
class Stats:
    """Everything `describe` found out about a source."""

    name: str
    split: str | None
    layout: str
    faces: int
    photos: int
    groups: int
    widths: NDArray[np.float64]
    heights: NDArray[np.float64]
    sides: NDArray[np.float64]
    """Longer side of each landmark box, in photo pixels."""
    annotated_boxes: int
    faces_with_points_outside: int
    attributes: dict[str, int] | None
    angles: NDArray[np.float64]
    """(N, 3) yaw, pitch, roll in degrees; NaN where they cannot be told."""
    angles_given: int
    problems: Problems

    def yaw_counts(self) -> dict[str, int]:
        """Faces by how far they look to the side."""
        yaw = np.abs(self.angles[:, 0])
        yaw = yaw[np.isfinite(yaw)]
        counts, _ = np.histogram(np.minimum(yaw, YAW_EDGES[-1]), bins=YAW_EDGES)
        names = [f"{low}-{high}" for low, high in pairwise(YAW_EDGES)]
        return dict(zip(names, counts.tolist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""

        def spread(values: NDArray[Any]) -> dict[str, float] | None:
            found = Spread.of(values)
            return None if found is None else {SMALLEST: found.smallest, MIDDLE: found.median, LARGEST: found.largest}

        return {
            "name": self.name,
            "split": self.split,
            "layout": self.layout,
            "faces": self.faces,
            "photos": self.photos,
            "groups": self.groups,
            "photo_width": spread(self.widths),
            "photo_height": spread(self.heights),
            "landmark_box_side": spread(self.sides),
            "annotated_boxes": self.annotated_boxes,
            "faces_with_points_outside": self.faces_with_points_outside,
            "attributes": self.attributes,
            "pose": {
                "given": self.angles_given,
                "estimated": int(np.isfinite(self.angles[:, 0]).sum()) - self.angles_given,
                "yaw_degrees": self.yaw_counts(),
            },
            "broken": {
                "count": len(self.problems),
                "by_kind": {KINDS.get(kind, kind): number for kind, number in sorted(self.problems.counts.items())},
                "faces": [str(problem) for problem in self.problems],
            },
        }


def describe(source: FaceSource, progress: Callable[[], object] | None = None) -> Stats:
    """Look at every label of a source (photos are opened only when no file header tells their size)."""
    samples: list[FaceSample] = []
    angles = np.full((len(source), 3), np.nan)
    sizes = np.full((len(source), 2), np.nan)
    outside = given = 0
    for index in range(len(source)):
        sample = source.sample(index)
        samples.append(sample)
        sizes[index] = _photo_size(source, index)
        pose = sample.angles or estimate_pose(sample.points, source.layout)
        given += sample.angles is not None
        angles[index] = np.degrees(pose) if pose is not None else np.nan
        edge = sizes[index] - 0.5
        outside += bool(((sample.points < -0.5) | (sample.points > edge)).any())
        if progress:
            progress()
    extent = np.stack([np.nanmax(s.points, axis=0) - np.nanmin(s.points, axis=0) for s in samples])
    flagged = [sample.attributes for sample in samples if sample.attributes is not None]
    return Stats(
        name=source.name,
        split=getattr(source, "split", None),
        layout=source.layout.name,
        faces=len(samples),
        photos=len({sample.image for sample in samples}),
        groups=len({sample.group or str(sample.image) for sample in samples}),
        widths=sizes[:, 0],
        heights=sizes[:, 1],
        sides=extent.max(axis=1).astype(np.float64),
        annotated_boxes=sum(sample.box is not None for sample in samples),
        faces_with_points_outside=outside,
        attributes={name: sum(flags[at] for flags in flagged) for at, name in enumerate(ATTRIBUTES)}
        if flagged
        else None,
        angles=angles,
        angles_given=given,
        problems=problems_of(source),
    )


def _photo_size(source: FaceSource, index: int) -> tuple[float, float]:
    look_up = getattr(source, "photo_size", None)
    size = look_up(index) if callable(look_up) else None
    if size is None:
        height, width = source.photo(index).shape[:2]
        return float(width), float(height)
    return float(size[0]), float(size[1])


def rows(stats: Stats) -> list[tuple[str, str]]:
    """The table: what, how much."""
    small = f"{SMALLEST} / {MIDDLE} / {LARGEST}"
    unknown = "unknown"
    table: list[tuple[str, str]] = [
        ("split", stats.split or unknown),
        ("points", stats.layout),
        ("faces", str(stats.faces)),
        ("photos", str(stats.photos)),
        ("groups that a split keeps together", str(stats.groups)),
        (f"photo width, {small}", str(Spread.of(stats.widths) or unknown)),
        (f"photo height, {small}", str(Spread.of(stats.heights) or unknown)),
        (f"landmark box side, {small}", str(Spread.of(stats.sides) or unknown)),
        ("annotated boxes", str(stats.annotated_boxes)),
        ("faces with points outside the photo", str(stats.faces_with_points_outside)),
    ]
    flags = stats.attributes
    table += [(f"flag {name}", unknown if flags is None else str(flags[name])) for name in ATTRIBUTES]
    source = "given" if stats.angles_given == stats.faces else "estimated from the points"
    table += [(f"yaw {name} degrees ({source})", str(number)) for name, number in stats.yaw_counts().items()]
    table.append(("broken faces", str(len(stats.problems))))
    table += [(f"  {KINDS.get(kind, kind)}", str(number)) for kind, number in sorted(stats.problems.counts.items())]
    return table
