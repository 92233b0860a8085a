"""Head pose and openings, against faces whose angles are known."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.layouts import IBUG68_IN_WFLW98
from runtime.meanface import MEAN_FACE
from runtime.pose import OPENINGS, Opening, head_pose
from train.data.synth import mean_face_3d, project


def test_the_table_is_the_synthetic_head_s_mean_face() -> None:
    mean = mean_face_3d()
    assert np.abs(np.asarray(MEAN_FACE["wflw98"]) - mean).max() <= 6e-4
    assert np.abs(np.asarray(MEAN_FACE["ibug68"]) - mean[list(IBUG68_IN_WFLW98)]).max() <= 6e-4


@pytest.mark.parametrize("layout", ["wflw98", "ibug68"])
def test_known_angles_come_back(layout: str) -> None:
    mean = np.asarray(MEAN_FACE[layout])
    for angles in ((0, 0, 0), (30, 0, 0), (-45, 10, 5), (10, -20, 30), (20, 15, -60)):
        points = project(mean, np.radians(angles), 2.0, (300.0, 200.0), distance=900.0)
        pose = head_pose(points, layout)
        assert pose is not None
        away = np.abs(np.subtract((pose.yaw, pose.pitch, pose.roll), angles))
        assert away.max() < 4.5, (angles, pose)  # what an assumed focal length costs


def test_signs_are_as_documented() -> None:
    mean = np.asarray(MEAN_FACE["wflw98"])
    right = head_pose(project(mean, np.radians((25, 0, 0))), "wflw98")
    nose, corners = project(mean, np.radians((25, 0, 0)))[54], project(mean, np.radians((25, 0, 0)))[[60, 72]]
    assert right is not None and right.yaw > 20 and nose[0] > corners.mean(axis=0)[0] + 5


def test_what_fits_no_pose() -> None:
    assert head_pose(np.zeros((5, 2)), "plain5") is None
    assert head_pose(np.full((98, 2), np.nan), "wflw98") is None


@pytest.mark.parametrize("layout", sorted(OPENINGS))
def test_openings_follow_the_lids_and_the_lips(layout: str) -> None:
    front = np.asarray(MEAN_FACE[layout])[:, :2].copy()
    table = OPENINGS[layout]
    before = {name: opening.of(front) for name, opening in table.items()}
    assert before["left"] == pytest.approx(before["right"], rel=1e-3) and 0.15 < before["left"] < 0.6
    for name, opening in table.items():
        shut = front.copy()
        for high, low in opening.pairs:
            shut[low] = shut[high]
        assert opening.of(shut) == 0
        turned = front @ np.array([[0, 1], [-1, 0]]) * 3
        assert opening.of(turned) == pytest.approx(before[name])
    assert Opening((0, 0), ((0, 1),)).of(front) == 0
