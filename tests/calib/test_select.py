"""Choosing calibration faces, and turning them into harder ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nets
import numpy as np
import pytest

from calib.augment import HARD, NONE, augment, augmented, centre
from calib.select import choose, cut_with_margin, face_features, margin_pixels, refuse_no_faces, select_faces
from runtime.errors import UsageError
from runtime.geometry import crop_region, warp
from runtime.layouts import WFLW98, Layout
from runtime.spec import CropRule, ModelSpec
from train.data.sample import FaceSample
from train.evaluate import face_box

SPEC = ModelSpec("ghostone", input_size=64, crop=CropRule(padding=0))


@dataclass
class Blobs:
    """A source of smooth pictures with an upright grid of points."""

    count: int
    pictures: np.ndarray
    name: str = "blobs"
    layout: Layout = WFLW98

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int) -> FaceSample:
        rows, columns = np.divmod(np.arange(98), 10)
        points = np.stack([12 + columns * 1.6 + index % 3, 12 + rows * 1.6], axis=1).astype(np.float32)
        return FaceSample(Path(f"blob{index}"), points, WFLW98.name)

    def photo(self, index: int) -> np.ndarray:
        return self.pictures[index]


def source(count: int = 30) -> Blobs:
    return Blobs(count, nets.faces(count, seed=9, margin=8))


@pytest.mark.parametrize("rounding", ["none", "pixel"])
def test_the_middle_of_a_cut_is_the_networks_own_crop(rounding: str) -> None:
    spec = ModelSpec("ghostone", input_size=64, crop=CropRule(rounding=rounding))  # type: ignore[arg-type]
    faces = source(3)
    for index in range(3):
        wide = cut_with_margin(faces, index, spec)
        region = crop_region(face_box(faces.sample(index), spec), spec.crop)
        own = warp(faces.photo(index), region.to_crop(64), 64)
        assert wide.shape == (64 + 2 * margin_pixels(64),) * 2 + (3,)
        gap = np.abs(centre(wide[None], 64)[0].astype(int) - own)
        assert gap.max() <= 3
        assert (gap > 0).mean() < 0.2, "only the last bits of the fixed-point weights may differ"


def test_coverage_takes_the_outliers_and_first_n_would_not() -> None:
    random = np.random.default_rng(0)
    table = random.normal(0, 1, (400, 3))
    table[390:] += 12 * np.eye(3)[np.arange(10) % 3]
    chosen = choose(table, 40)
    assert set(range(390, 400)) & set(chosen.tolist()), "far clusters are visited"
    for axis in range(3):
        assert (table[chosen, axis] > 8).any()
    assert len(set(chosen.tolist())) == 40
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, choose(table, 40))
    np.testing.assert_array_equal(choose(table, 1000), np.arange(400))


def test_light_and_pose_are_features() -> None:
    crops = nets.faces(12, margin=0)
    crops[3] = crops[3] // 4
    poses = np.zeros((12, 3))
    poses[5, 0] = 1.2
    table = face_features(crops, poses, np.zeros((12, 6)))
    assert int(np.argmax(table[:, 0])) == 5
    assert int(np.argmin(table[:, 3])) == 3
    assert np.allclose(table.mean(0), 0, atol=1e-9)


def test_selection_is_repeatable_and_keeps_everything_when_there_is_little() -> None:
    one, two = select_faces(source(), SPEC, count=10), select_faces(source(), SPEC, count=10)
    assert one.digest == two.digest
    assert len(one) == len(one.names) == 10
    assert len(select_faces(source(6), SPEC, count=10)) == 6
    asked: list[int] = []

    def predict(crops: np.ndarray) -> np.ndarray:
        asked.append(len(crops))
        return np.zeros((len(crops), 196), dtype=np.float32)

    faces = source()
    faces.sample = lambda index: FaceSample(
        Path("x"), np.full((98, 2), [20, 20], np.float32) + np.eye(98, 2) * 9, "wflw98"
    )  # type: ignore[method-assign, assignment]
    select_faces(faces, SPEC, count=10, predict=predict)


@pytest.mark.parametrize("kind", ["noise", "empty"])
def test_noise_and_empty_crops_are_refused(kind: str) -> None:
    random = np.random.default_rng(1)
    pictures = (
        random.integers(0, 256, (20, 48, 48, 3)).astype(np.uint8)
        if kind == "noise"
        else np.zeros((20, 48, 48, 3), np.uint8)
    )
    with pytest.raises(UsageError, match=f"20 of 20 crops are {kind}"):
        refuse_no_faces(pictures)
    mixed = nets.faces(20, margin=0)
    mixed[0] = pictures[0, :32, :32]
    refuse_no_faces(mixed)
    refuse_no_faces(augmented(nets.faces(20), nets.SIZE, 40, 0, HARD))


def test_no_faces_and_impossible_counts_are_refused() -> None:
    with pytest.raises(UsageError, match="no calibration faces"):
        select_faces(source(0), SPEC)
    with pytest.raises(UsageError, match="cannot choose"):
        select_faces(source(), SPEC, count=0)


def test_augmentation_depends_on_seed_and_number_alone() -> None:
    faces = nets.faces(5)
    row = augmented(faces, nets.SIZE, 12, 7, HARD)
    np.testing.assert_array_equal(row[8:], augmented(faces, nets.SIZE, 4, 7, HARD, first=8))
    assert (row != augmented(faces, nets.SIZE, 12, 8, HARD)).any()
    assert len({r.tobytes() for r in row}) == 12
    plain = augment(faces, nets.SIZE, 2, 0, 0, NONE)
    np.testing.assert_array_equal(plain, centre(faces, nets.SIZE)[2])
