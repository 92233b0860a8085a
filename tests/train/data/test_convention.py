"""Two sets of labels: matched faces, the systematic part apart from the scatter, in the frame of the eyes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import InputError, UsageError
from runtime.images import read_image
from runtime.layouts import IBUG68, IBUG68_IN_WFLW98, Layout, plain_layout
from train.data.convention import compare_labels, draw_difference
from train.data.open import open_source
from train.data.sample import FaceSample, FaceSource

FACES = open_source("synth:40@3")
Move = Callable[[NDArray[np.float64], int], NDArray[np.float64]]


class Moved:
    """The same faces with other points."""

    def __init__(self, move: Move, layout: Layout = FACES.layout, source: FaceSource = FACES) -> None:
        self.move, self.layout, self.source = move, layout, source

    name = "moved"

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int) -> FaceSample:
        sample = self.source.sample(index)
        points = self.move(np.asarray(sample.points, dtype=np.float64), index)
        return replace(sample, points=points.astype(np.float32), layout=self.layout.name)

    def photo(self, index: int) -> NDArray[np.uint8]:
        return self.source.photo(index)


def in_eye_frame(points: NDArray[np.float64], x: float, y: float) -> NDArray[np.float64]:
    """An offset given along and across the eyes, in eye distances, as pixels of the photo."""
    gap = points[72] - points[60]
    return x * gap + y * np.array([-gap[1], gap[0]])


def test_a_rule_is_told_from_noise() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, (len(FACES), 98, 2))

    def chin_lower(points: NDArray[np.float64], index: int) -> NDArray[np.float64]:
        moved = points + noise[index] * np.hypot(*(points[72] - points[60]))
        moved[:33] += in_eye_frame(points, 0.0, 0.05)
        return moved

    found = compare_labels(Moved(chin_lower), FACES)
    assert found.faces == tuple((i, i) for i in range(len(FACES)))
    rows = {name: values for name, *values in found.rows()}
    assert list(rows) == ["all", "contour", "brows", "nose", "eyes", "mouth", "pupils"]
    assert rows["contour"][1] == pytest.approx(0.05, abs=0.004)
    assert rows["mouth"][1] < 0.008
    scatter = 0.02 * np.sqrt(np.pi / 2)
    assert rows["contour"][2] == pytest.approx(scatter, rel=0.1) == rows["mouth"][2]
    np.testing.assert_allclose(found.shift[:33].mean(0), [0, 0.05], atol=0.003)


def test_turned_faces_share_one_frame() -> None:
    """The offset is along the eyes, wherever these look; in pixels it would cancel out."""
    found = compare_labels(Moved(lambda points, _: points + in_eye_frame(points, 0.03, 0.0)), FACES)
    np.testing.assert_allclose(found.shift, np.tile([0.03, 0.0], (98, 1)), atol=2e-4)
    assert found.scatter.max() < 2e-4
    np.testing.assert_allclose((found.mean_face[60] + found.mean_face[72]) / 2, 0, atol=1e-6)


@pytest.mark.parametrize("swap", [False, True])
def test_68_points_against_98(swap: bool) -> None:
    few = Moved(lambda points, _: points[list(IBUG68_IN_WFLW98)] + in_eye_frame(points, 0.0, 0.02), IBUG68)
    found = compare_labels(FACES, few) if swap else compare_labels(few, FACES)
    assert found.layout.name == "ibug68"
    np.testing.assert_allclose(found.shift, np.tile([0, -0.02 if swap else 0.02], (68, 1)), atol=2e-4)


def test_unknown_points_are_left_aside() -> None:
    def without_nose(points: NDArray[np.float64], index: int) -> NDArray[np.float64]:
        moved = points.copy()
        moved[51:60] = np.nan
        if index == 0:
            moved[76] = np.nan
        return moved

    found = compare_labels(Moved(without_nose), FACES)
    assert "nose" not in {name for name, *_ in found.rows()}
    assert all(np.isfinite(values).all() for _, *values in found.rows())


def test_faces_of_one_photo_are_matched_by_place() -> None:
    class OnePhoto(Moved):
        def sample(self, index: int) -> FaceSample:
            sample = super().sample(index)
            return replace(sample, image=Path("group.jpg"), points=sample.points + np.float32(200 * index))

    class Backwards(OnePhoto):
        def sample(self, index: int) -> FaceSample:
            return super().sample(len(self) - 1 - index)

    last = len(FACES) - 1
    found = compare_labels(OnePhoto(lambda p, _: p), Backwards(lambda p, _: p))
    assert found.faces == tuple((i, last - i) for i in range(len(FACES)))
    assert found.distance.max() == 0


def test_a_face_is_matched_once() -> None:
    """A list that names one face twice: the nearer label counts, and only that."""

    class Twice(Moved):
        def __len__(self) -> int:
            return 2

        def sample(self, index: int) -> FaceSample:
            sample = self.source.sample(0)
            return replace(sample, points=sample.points + np.float32(3 * index))

    found = compare_labels(Twice(lambda p, _: p), Moved(lambda p, _: p))
    assert found.faces == ((0, 0),) and found.distance.max() == 0


def test_nothing_in_common_is_said() -> None:
    with pytest.raises(InputError, match="no face in common"):
        compare_labels(FACES, open_source("synth:4@8"))
    with pytest.raises(InputError, match="no face in common"):
        compare_labels(Moved(lambda p, _: p + 1000), FACES)
    with pytest.raises(UsageError, match="which points are the eyes"):
        compare_labels(Moved(lambda p, _: p[:5], plain_layout(5)), FACES)
    with pytest.raises(InputError, match="two known eyes"):
        compare_labels(FACES, Moved(lambda p, _: np.where(np.arange(98)[:, None] == 60, np.nan, p)))


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = compare_labels(Moved(lambda p, _: p + 1), FACES)
    draw_difference(found, ("a", "b"), tmp_path / "d.png")
    assert read_image(tmp_path / "d.png").shape == (600, 1200, 3)
