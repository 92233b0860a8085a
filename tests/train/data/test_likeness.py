"""Faces that two data sets share are found under any name, cut and compression; faces that look alike are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import InputError, UsageError
from runtime.layouts import WFLW98, Layout
from train.data import likeness
from train.data.combine import SubsetSource
from train.data.likeness import COARSE, SAME, Sketches, overlay, sketch, twins
from train.data.open import open_source
from train.data.sample import FaceSample, FaceSource

COUNT = 12


class Copies:
    """Photos of a source, cut anew, scaled, brightened and compressed, their labels a little off."""

    def __init__(self, source: FaceSource, scale: float = 0.7, quality: int = 60) -> None:
        self.source, self.scale, self.quality = source, scale, quality

    name = "copies"
    layout: Layout = WFLW98

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int) -> FaceSample:
        sample = self.source.sample(index)
        off = 0.03 * np.ptp(sample.points, axis=0).max() * np.array([1, -1])
        points = ((sample.points + off - (9, 5)) * self.scale).astype(np.float32)
        return replace(sample, points=points, image=Path(f"other-{index}.jpg"))

    def photo(self, index: int) -> NDArray[np.uint8]:
        photo = self.source.photo(index)[5:-3, 9:]
        small = cv2.resize(photo, None, fx=self.scale, fy=self.scale, interpolation=cv2.INTER_AREA)
        bright = np.clip(small * 0.8 + 30, 0, 255).astype(np.uint8)
        coded = cv2.imencode(".jpg", bright, [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1]
        return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), dtype=np.uint8)


@pytest.fixture(scope="module")
def source() -> FaceSource:
    return open_source(f"synth:{COUNT}@5")


@pytest.fixture(scope="module")
def seen(source: FaceSource) -> Sketches:
    return sketch(source)


def test_copies_are_found_and_nothing_else(source: FaceSource, seen: Sketches) -> None:
    kept = [3, 7, 8]
    found = twins(seen, sketch(Copies(SubsetSource(source, kept))))
    assert {(twin.first, twin.second) for twin in found} == {(3, 0), (7, 1), (8, 2)}
    assert all(SAME <= twin.likeness <= 1 for twin in found)
    assert [twin.likeness for twin in found] == sorted((twin.likeness for twin in found), reverse=True)
    other_way = twins(sketch(Copies(SubsetSource(source, kept))), seen)
    assert {(twin.second, twin.first) for twin in other_way} == {(3, 0), (7, 1), (8, 2)}


def test_other_faces_of_the_same_kind_are_no_twins(seen: Sketches) -> None:
    assert twins(seen, sketch(open_source("synth:60@6"))) == []


def test_the_close_look_lays_them_over_each_other(seen: Sketches) -> None:
    whole = seen.fine[0]
    moved = cv2.warpAffine(whole, np.array([[1.05, 0.02, -3.0], [-0.02, 1.05, 2.0]]), whole.shape[::-1])
    assert np.corrcoef(whole.ravel(), moved.ravel())[0, 1] < 0.8
    assert overlay(whole, np.asarray(moved, dtype=np.uint8)) > 0.93
    assert overlay(whole, whole) == pytest.approx(1, abs=1e-5)
    assert overlay(whole, np.zeros_like(whole)) == 0


def test_light_alone_makes_no_twins() -> None:
    """Two pictures with one broad shade and different details: what all faces lit from one side share."""
    rng = np.random.default_rng(0)
    shade = np.linspace(0, 200, 64)[None, :].repeat(64, 0)
    pair = [np.clip(shade + rng.normal(0, 8, (64, 64)), 0, 255).astype(np.uint8) for _ in range(2)]
    assert np.corrcoef(pair[0].ravel(), pair[1].ravel())[0, 1] > 0.98
    assert overlay(*pair) < 0.5


def test_unreadable_photos_match_nothing(source: FaceSource) -> None:
    class Broken(Copies):
        def photo(self, index: int) -> NDArray[np.uint8]:
            if index == 1:
                raise InputError("cannot be decoded")
            return super().photo(index)

    told: list[int] = []
    seen = sketch(Broken(source), lambda: told.append(1))
    assert seen.unreadable == 1 and len(told) == COUNT and not seen.coarse[1].any()
    assert 1 not in {twin.first for twin in twins(seen, sketch(source))}
    assert len(twins(seen, sketch(source))) == COUNT - 1


def test_a_box_is_enough_and_nothing_is_too_little(source: FaceSource) -> None:
    class Boxes(Copies):
        def sample(self, index: int) -> FaceSample:
            sample = self.source.sample(index)
            box = (*sample.points.min(0).tolist(), *sample.points.max(0).tolist())
            return replace(sample, points=np.full((1, 2), np.nan, np.float32), box=box if index else None)

        def photo(self, index: int) -> NDArray[np.uint8]:
            return self.source.photo(index)

    seen = sketch(Boxes(source))
    assert seen.unreadable == 1
    assert {(twin.first, twin.second) for twin in twins(seen, sketch(source))} == {(i, i) for i in range(1, COUNT)}


def test_stacked_sketches_count_through(source: FaceSource, seen: Sketches) -> None:
    stacked = Sketches.stack([sketch(open_source("synth:4@9")), seen])
    assert len(stacked) == COUNT + 4 and stacked.coarse.shape == (COUNT + 4, COARSE * COARSE)
    assert {twin.first - 4 for twin in twins(stacked, seen)} == set(range(COUNT))


def test_every_face_is_told_of_and_blocks_do_not_matter(seen: Sketches, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    whole = twins(seen, seen, progress=lambda: told.append(1))
    assert len(told) == COUNT
    monkeypatch.setattr(likeness, "BLOCK", 5)
    assert twins(seen, seen) == whole


@pytest.mark.parametrize("least", [0.0, -1.0, 1.1, float("nan")])
def test_a_senseless_limit_is_refused(seen: Sketches, least: float) -> None:
    with pytest.raises(UsageError, match="above 0, at most 1"):
        twins(seen, seen, least)
