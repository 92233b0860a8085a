"""Metrics against hand-worked values and against a fine numerical integral."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import InputError, UsageError
from runtime.layouts import IBUG68, WFLW98, Normaliser
from train.metrics import (
    area_under_curve,
    error_curve,
    failure_rate,
    nme_per_face,
    normaliser_for,
    score,
    score_subsets,
)

SPAN = Normaliser("span", (0,), (1,))


def faces(count: int = 3, points: int = 98, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 200, (count, points, 2))


def test_nme_is_the_mean_distance_over_the_normaliser() -> None:
    truth = np.array([[[0.0, 0.0], [10.0, 0.0]], [[0.0, 0.0], [0.0, 20.0]]])
    prediction = truth + np.array([[[3.0, 4.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])
    assert nme_per_face(prediction, truth, SPAN) == pytest.approx([2.5 / 10, 1.0 / 20], rel=1e-15)


@pytest.mark.parametrize(
    ("layout", "name", "left", "right"),
    [
        (WFLW98, "inter-ocular", [60], [72]),
        (WFLW98, "inter-pupil", [96], [97]),
        (IBUG68, "inter-ocular", [36], [45]),
        (IBUG68, "inter-pupil", range(36, 42), range(42, 48)),
    ],
)
def test_normalisers_divide_by_the_protocol_s_points(layout, name, left, right) -> None:
    truth = faces(points=layout.count)
    prediction = truth + 1.0
    gap = truth[:, list(left)].mean(1) - truth[:, list(right)].mean(1)
    wanted = np.sqrt(2) / np.linalg.norm(gap, axis=1)
    assert nme_per_face(prediction, truth, normaliser_for(layout, name)) == pytest.approx(wanted, rel=1e-12)


def test_box_normaliser_is_the_root_of_the_area() -> None:
    truth = np.array([[[1.0, 2.0], [5.0, 2.0], [3.0, 11.0]]])
    assert nme_per_face(truth + np.array([3.0, 4.0]), truth, "box") == pytest.approx([5 / np.sqrt(4 * 9)])
    unlabelled = np.concatenate([truth, np.full((1, 1, 2), np.nan)], axis=1)
    assert nme_per_face(unlabelled + np.array([3.0, 4.0]), unlabelled, "box") == pytest.approx([5 / np.sqrt(4 * 9)])


def test_unlabelled_points_do_not_count() -> None:
    truth = faces(1, 4)
    prediction = truth + 1.0
    hidden, wild = truth.copy(), prediction.copy()
    hidden[0, 3] = np.nan
    wild[0, 3] = 1e9
    wanted = np.sqrt(2) / np.linalg.norm(truth[0, 0] - truth[0, 1])
    assert nme_per_face(wild, hidden, SPAN) == pytest.approx([wanted])


def test_a_prediction_that_is_not_finite_is_a_failure() -> None:
    truth = faces(2, 4)
    prediction = truth.copy()
    prediction[1, 2] = np.nan
    errors = nme_per_face(prediction, truth, SPAN)
    assert errors[0] == 0 and errors[1] == np.inf
    assert failure_rate(errors) == 0.5 and area_under_curve(errors) == 0.5


def test_a_face_that_cannot_be_normalised_is_named() -> None:
    truth = faces(4, 4)
    truth[2, 1] = truth[2, 0]
    with pytest.raises(InputError, match=r"face 12 \(1 in all\).*'span' is 0"):
        nme_per_face(truth, truth, SPAN, first_index=10)
    truth[2, 1] = np.nan
    with pytest.raises(InputError, match="unlabelled"):
        nme_per_face(truth, truth, SPAN)


def test_wrong_shapes_and_names_are_refused() -> None:
    with pytest.raises(UsageError, match="expected two arrays"):
        nme_per_face(faces(2), faces(3), SPAN)
    with pytest.raises(UsageError, match="inter-ocular, inter-pupil, box"):
        normaliser_for(WFLW98, "interocular")
    with pytest.raises(UsageError, match="unknown normaliser"):
        nme_per_face(faces(2), faces(2), "bbox")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=40))
def test_area_equals_the_integral_of_the_curve(errors: list[float]) -> None:
    values = np.array(errors)
    steps = (np.arange(200_000) + 0.5) / 200_000 * 0.1
    integral = np.mean([np.mean(values <= step) for step in steps[::100]])
    assert area_under_curve(values) == pytest.approx(integral, abs=1e-3)
    corners, share = error_curve(values)
    exact = float(np.sum(np.diff(corners) * share[:-1])) / 0.1
    assert area_under_curve(values) == pytest.approx(exact, abs=1e-12)


def test_failure_starts_above_the_limit() -> None:
    assert failure_rate(np.array([0.1, 0.1000001, 0.2, 0.0])) == 0.5


def test_subsets_average_over_faces() -> None:
    errors = np.array([0.02, 0.04, 0.3, 0.06])
    flags = np.zeros((4, 6), dtype=bool)
    flags[[0, 2], 0] = True  # pose
    flags[1, 5] = True  # blur
    scores = score_subsets(errors, flags)
    assert list(scores) == ["all", "pose", "blur"]
    assert scores["all"].nme == pytest.approx(0.105) and scores["all"].count == 4
    assert scores["pose"].nme == pytest.approx(0.16) and scores["pose"].failure_rate == 0.5
    assert scores["pose"].auc == pytest.approx(0.4) and scores["blur"].count == 1
    assert list(score_subsets(errors, None)) == ["all"]
    with pytest.raises(UsageError, match="attributes"):
        score_subsets(errors, flags[:3])
    with pytest.raises(UsageError, match="no faces"):
        score(np.array([]))
