"""The thin-plate spline hits every known point, reproduces affine maps, and survives degenerate faces."""

from __future__ import annotations

import numpy as np
import pytest

from train.label.pin import pin

POINTS = np.random.default_rng(3).uniform(20, 120, (98, 2))
KNOWN = np.arange(0, 98, 2)


def known_at(values: np.ndarray, indices: np.ndarray = KNOWN) -> np.ndarray:
    known = np.full((98, 2), np.nan)
    known[indices] = values[indices]
    return known


def test_known_points_are_hit_exactly() -> None:
    truth = POINTS + np.random.default_rng(4).normal(0, 3, (98, 2))
    moved = pin(POINTS, known_at(truth))
    np.testing.assert_array_equal(moved[KNOWN], truth[KNOWN])
    assert np.abs(moved - truth).max() < 40


def test_an_affine_map_carries_all_points() -> None:
    matrix = np.array([[1.1, -0.2], [0.15, 0.9]])
    truth = POINTS @ matrix.T + [5.0, -7.0]
    np.testing.assert_allclose(pin(POINTS, known_at(truth)), truth, atol=1e-6)


def test_a_smooth_bend_is_followed_better_than_by_an_affine_map() -> None:
    bend = np.stack([4 * np.sin(POINTS[:, 1] / 25), 4 * np.cos(POINTS[:, 0] / 25)], 1)
    truth = POINTS + bend
    others = np.setdiff1d(np.arange(98), KNOWN)
    moved = pin(POINTS, known_at(truth))
    system = np.hstack([POINTS, np.ones((98, 1))])
    affine = system @ np.linalg.lstsq(system[KNOWN], truth[KNOWN], rcond=None)[0]
    errors = [np.hypot(*(guess - truth)[others].T).mean() for guess in (moved, affine, POINTS)]
    assert errors[0] < 0.2 * errors[1] < 0.2 * errors[2]


def test_against_the_kernel_solved_another_way() -> None:
    """The spline as the minimum of bending: the null space of the affine part, in float64."""
    truth = POINTS + np.random.default_rng(5).normal(0, 2, (98, 2))
    place, wanted = POINTS[KNOWN], truth[KNOWN]

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        r = np.hypot(*(a[:, None] - b[None]).transpose(2, 0, 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(r > 0, r * r * np.log(r), 0)

    affine = np.hstack([place, np.ones((len(place), 1))])
    q, _ = np.linalg.qr(affine, mode="complete")
    null = q[:, 3:]
    bending = null @ np.linalg.solve(null.T @ kernel(place, place) @ null, null.T @ wanted)
    linear = np.linalg.lstsq(affine, wanted - kernel(place, place) @ bending, rcond=None)[0]
    expected = kernel(POINTS, place) @ bending + np.hstack([POINTS, np.ones((98, 1))]) @ linear
    np.testing.assert_allclose(pin(POINTS, known_at(truth)), expected, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_known_points_only_shift(count: int) -> None:
    truth = POINTS + np.array([3.0, -2.0])
    moved = pin(POINTS, known_at(truth, KNOWN[:count]))
    np.testing.assert_allclose(moved, POINTS if count == 0 else truth, atol=1e-9)


def test_points_on_a_line_or_on_top_of_each_other() -> None:
    line = POINTS.copy()
    line[KNOWN] = np.stack([KNOWN, 2 * KNOWN], 1)
    assert np.isfinite(pin(line, known_at(line + 1))).all()
    double = POINTS.copy()
    double[2] = double[4] = double[0]
    truth = double + np.random.default_rng(6).normal(0, 1, (98, 2))
    moved = pin(double, known_at(truth))
    assert np.isfinite(moved).all() and np.abs(moved - double).max() < 20
    np.testing.assert_array_equal(moved[KNOWN], truth[KNOWN])
