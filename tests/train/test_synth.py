"""Synthetic faces as a source: the same bytes everywhere, sane framing, flags that tell the truth."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime.errors import UsageError
from runtime.geometry import Box, crop_region
from runtime.layouts import WFLW98
from runtime.spec import CropRule
from train.data.sample import ATTRIBUTES, FaceSource
from train.data.synth import SynthSource
from train.data.synth.params import LARGE_PITCH, LARGE_ROLL, LARGE_YAW, draw

ROOT = Path(__file__).resolve().parents[2]
MANY = 400


def digest(source: SynthSource, indices: list[int]) -> str:
    """One hash over photos and labels of some faces."""
    total = hashlib.sha256()
    for index in indices:
        sample = source.sample(index)
        total.update(source.photo(index).tobytes())
        total.update(sample.points.tobytes())
        total.update(repr((sample.box, sample.attributes, sample.angles, sample.group)).encode())
    return total.hexdigest()


DIGEST_IN_CHILD = """
import sys, cv2
sys.path.insert(0, sys.argv[1])
cv2.setNumThreads(int(sys.argv[2]))
from train.data.synth import SynthSource
from tests.train.test_synth import digest
source = SynthSource(1000, seed=5)
source.photo(700)
print(digest(source, list(range(12))))
"""


@pytest.mark.parametrize(("hash_seed", "threads"), [("1", "1"), ("4242", "4")])
def test_another_process_gives_the_same_bytes(hash_seed: str, threads: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONHASHSEED": hash_seed,
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
    }
    command = [sys.executable, "-c", DIGEST_IN_CHILD, str(ROOT), threads]
    child = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert child.stdout.strip() == digest(SynthSource(1000, seed=5), list(range(12)))


def test_order_and_count_do_not_matter() -> None:
    forward, small = SynthSource(50, seed=9), SynthSource(8, seed=9)
    photos = {index: small.photo(index) for index in (7, 2, 5, 0)}
    for index in range(8):
        photo = forward.photo(index)
        if index in photos:
            np.testing.assert_array_equal(photo, photos[index])


def test_seed_and_index_matter() -> None:
    photos = [SynthSource(3, seed).photo(index).tobytes() for seed in (0, 1) for index in range(3)]
    assert len(set(photos)) == 6


def test_every_seed_of_63_bits_is_a_world_of_its_own() -> None:
    seeds = (0, 1 << 32, (1 << 63) - 1)
    assert len({SynthSource(1, seed).sample(0).points.tobytes() for seed in seeds}) == 3


def test_is_a_face_source() -> None:
    source: FaceSource = SynthSource(4, seed=3, size=112)
    sample, photo = source.sample(1), source.photo(1)
    assert (source.name, len(source), source.layout) == ("synth:4@3", 4, WFLW98)
    assert (photo.shape, photo.dtype) == ((112, 112, 3), np.uint8)
    assert (sample.points.shape, sample.points.dtype) == ((98, 2), np.float32)
    assert np.isfinite(sample.points).all()
    assert len({source.sample(index).group for index in range(4)}) == 4


@pytest.mark.parametrize("size", [32, 64, 112, 224, 500])
def test_any_size_shows_the_same_face(size: int) -> None:
    """Points scale with the photo, and so does the picture."""
    small, reference = SynthSource(40, 2, size), SynthSource(40, 2, 160)
    for index in (3, 11):
        scaled = (reference.sample(index).points + 0.5) * size / 160 - 0.5
        np.testing.assert_allclose(small.sample(index).points, scaled, atol=0.02)
        photo = small.photo(index)
        assert photo.shape == (size, size, 3)


def test_points_lie_in_the_photo_and_the_crop_fits() -> None:
    source = SynthSource(MANY, seed=21)
    rule = CropRule()
    outside = fits = 0
    for index in range(MANY):
        sample = source.sample(index)
        outside += int(((sample.points < 0) | (sample.points > 159)).any(axis=1).sum())
        box = Box.around(sample.points)
        assert 0.44 * 160 < max(box.width, box.height) < 0.62 * 160
        region = crop_region(box, rule)
        low, high = (
            (region.cx - region.side / 2, region.cy - region.side / 2),
            (region.cx + region.side / 2, region.cy + region.side / 2),
        )
        fits += min(low) >= -0.5 and max(high) <= 159.5
        assert sample.box is not None
        assert 0 <= sample.box[0] < sample.box[2] <= 159
        assert 0 <= sample.box[1] < sample.box[3] <= 159
    assert outside == 0
    assert fits >= 0.97 * MANY


def test_flags_come_at_the_rates_of_a_wild_data_set() -> None:
    flags = np.array([draw(0, index).attributes for index in range(1500)])
    rates = dict(zip(ATTRIBUTES, flags.mean(axis=0), strict=True))
    limits = {
        "pose": (0.12, 0.28),
        "expression": (0.15, 0.25),
        "illumination": (0.22, 0.33),
        "make-up": (0.08, 0.19),
        "occlusion": (0.27, 0.38),
        "blur": (0.19, 0.30),
    }
    assert {name: rate for name, rate in rates.items() if not limits[name][0] <= rate <= limits[name][1]} == {}


def test_flags_say_what_the_numbers_are() -> None:
    for index in range(500):
        params = draw(13, index)
        pose, expression, light, make_up, occlusion, blur = params.attributes
        yaw, pitch, roll = (abs(angle) for angle in params.angles)
        assert pose == (yaw > LARGE_YAW or pitch > LARGE_PITCH or roll > LARGE_ROLL)
        assert make_up == (params.lipstick > 0)
        assert occlusion == (params.occluder != "none")
        assert blur == (params.blur_amount > 0.3)
        if not expression:
            assert params.mouth_open <= 5
            assert params.smile <= 0.7
            assert min(params.eye_open) >= 0.5
        if not light:
            assert params.exposure == 1.0
            assert params.contrast == 1.0
            assert params.ambient > 0.4


def test_angles_cover_the_promised_range() -> None:
    yaw, pitch, roll = np.degrees([draw(4, index).angles for index in range(2000)]).T
    assert 57 < np.abs(yaw).max() <= 60.2
    assert 27 < np.abs(pitch).max() <= 30.1
    assert 31 < np.abs(roll).max() <= 34.4
    assert (np.abs(yaw) < 30).mean() > 0.65
    assert abs(yaw.mean()) < 2


def test_photos_differ_in_light_and_none_is_blank() -> None:
    source = SynthSource(60, seed=8)
    levels = []
    for index in range(60):
        photo = source.photo(index)
        low, high = (
            np.floor(source.sample(index).points.min(0)).astype(int),
            np.ceil(source.sample(index).points.max(0)).astype(int),
        )
        face = cv2.cvtColor(photo[low[1] : high[1], low[0] : high[0]], cv2.COLOR_BGR2GRAY)
        levels.append(float(face.mean()))
        assert face.std() > 2.5, index
    assert max(levels) - min(levels) > 90


@pytest.mark.parametrize(
    ("count", "seed", "size", "word"),
    [(0, 0, 160, "count"), (5, -1, 160, "seed"), (5, 1 << 63, 160, "seed"), (5, 0, 16, "size"), (5, 0, 5000, "size")],
)
def test_impossible_sources_are_refused(count: int, seed: int, size: int, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        SynthSource(count, seed, size)


@pytest.mark.parametrize("index", [-1, 3, 10**9])
def test_no_face_beyond_the_end(index: int) -> None:
    with pytest.raises(IndexError):
        SynthSource(3).sample(index)
    with pytest.raises(IndexError):
        SynthSource(3).photo(index)


def test_labels_are_not_shared_between_calls() -> None:
    source = SynthSource(2)
    before = source.sample(0).points.copy()
    source.sample(0).points[:] = math.nan
    np.testing.assert_array_equal(source.sample(0).points, before)
