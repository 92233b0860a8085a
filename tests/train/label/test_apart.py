"""Faces of a test set are taken out of new labels, whichever others were left out before."""

from __future__ import annotations

import numpy as np

from runtime.layouts import WFLW98
from train.data.combine import SubsetSource
from train.data.open import open_source
from train.label.apart import LabelledSource, leave_out_twins
from train.label.job import Labels


def test_the_right_faces_go() -> None:
    source = open_source("synth:7@3")
    points = np.stack([source.sample(row).points for row in range(7)]).astype(np.float32)
    points[0] = np.nan
    some, nothing = np.ones((7, 98), np.float32), np.zeros(7, np.float32)
    fates = ("unreadable", "kept", "disagreement", "kept", "kept", "kept", "kept")
    labels = Labels(points, some, nothing, nothing, fates, some)
    told: list[int] = []
    tests = [SubsetSource(source, [3]), SubsetSource(source, [2, 6])]
    left = leave_out_twins(source, labels, WFLW98, tests, lambda: told.append(1))
    assert left.fates == ("unreadable", "kept", "disagreement", "twin", "kept", "kept", "twin")
    assert left.kept == [1, 4, 5] and len(told) == 5 + 3
    assert leave_out_twins(source, labels, WFLW98, []) is labels


def test_the_new_points_say_where_the_face_is() -> None:
    source = open_source("synth:2@3")
    points = np.stack([source.sample(row).points + 5 for row in range(2)]).astype(np.float32)
    some, nothing = np.ones((2, 98), np.float32), np.zeros(2, np.float32)
    labelled = LabelledSource(source, Labels(points, some, nothing, nothing, ("twin", "kept"), some), WFLW98)
    assert len(labelled) == 1 and labelled.name == source.name
    np.testing.assert_array_equal(labelled.sample(0).points, points[1])
    np.testing.assert_array_equal(labelled.photo(0), source.photo(1))
