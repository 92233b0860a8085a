"""Angles for the auxiliary net: of a projected mean face, in the documented order, through crops and mirrors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime.layouts import IBUG68, WFLW98, Layout
from runtime.meanface import MEAN_FACE
from runtime.spec import ModelSpec
from train.data.augment import AugmentConfig
from train.data.loader import BatchLoader, estimated_angles
from train.data.pack import PackSettings, build_pack
from train.data.pose import estimate_pose
from train.data.sample import FaceSample
from train.data.synth import SynthSource, project

MOVED = AugmentConfig.from_dict({**AugmentConfig.none().to_dict(), "rotation": 40.0, "flip": 0.5, "scale": [0.8, 1.2]})


@pytest.mark.parametrize("layout", [WFLW98, IBUG68], ids=lambda layout: layout.name)
def test_a_turned_mean_face_gives_its_angles_back(layout: Layout) -> None:
    """With the camera that is assumed, which looks at the middle of the face; in radians, yaw, pitch, roll."""
    mean = np.asarray(MEAN_FACE[layout.name])
    mean = mean - np.array([0.0, (mean[:, 1].max() + mean[:, 1].min()) / 2, mean[:, 2].mean()])
    side = float(np.ptp(mean[:, :2], axis=0).max())
    for degrees in ((0, 0, 0), (35, 0, 0), (0, 20, 0), (0, 0, 30), (-40, 10, 5), (15, -20, 25), (-25, 15, -50)):
        truth = np.radians(degrees)
        found = estimate_pose(project(mean, truth, 2.0, (300.0, 200.0), distance=5 * side), layout)
        assert found is not None
        assert np.degrees(np.abs(np.subtract(found, truth))).max() < 3, (degrees, np.degrees(found))
        biggest = int(np.argmax(np.abs(truth)))
        if truth[biggest]:
            assert np.sign(found[biggest]) == np.sign(truth[biggest])


class Nameless(SynthSource):
    """Synthetic faces whose angles nobody knows, apart from the first."""

    @property
    def name(self) -> str:
        return "nameless"

    def sample(self, index: int) -> FaceSample:
        sample = super().sample(index)
        return sample if index == 0 else replace(sample, angles=None)


def test_unknown_angles_are_estimated_where_an_auxiliary_net_wants_them(tmp_path: Path) -> None:
    source, truth = Nameless(24, seed=3), SynthSource(24, seed=3)
    pack = build_pack(source, tmp_path / "p", PackSettings(64))
    assert np.isnan(pack.angles[1:]).all()
    found = estimated_angles(pack)
    known = np.array([truth.sample(i).angles for i in range(24)])
    np.testing.assert_allclose(found[0], known[0], rtol=1e-6)
    away = np.degrees(np.abs(found - known))
    assert np.median(away) < 5 and away.mean() < 8
    spec = ModelSpec("pfld", input_size=64)
    batches = {}
    for wanted in (False, True):
        loader = BatchLoader(pack, spec, MOVED, 24, seed=1, shuffle=False, threads=0, estimate_pose=wanted)
        batches[wanted] = next(loader.epoch(0))
    assert np.isnan(batches[False].angles[1:]).all()
    batch = batches[True]
    assert np.isfinite(batch.angles).all()
    # What was estimated before the crop was turned and mirrored is what is estimated after it.
    after = np.array([estimate_pose(points * 64, WFLW98) for points in batch.targets[1:]])
    apart = np.abs((batch.angles[1:] - after + np.pi) % (2 * np.pi) - np.pi)
    assert np.degrees(apart).mean() < 2.5
    assert (np.sign(batch.angles[1:, 0]) != np.sign(found[1:, 0])).sum() >= 5  # mirrored ones look the other way
