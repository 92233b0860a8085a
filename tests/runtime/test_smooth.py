"""One-Euro: calm at rest, quick in motion, the same for faces of every size."""

from __future__ import annotations

import numpy as np

from runtime.smooth import OneEuro, PointFilter

SECONDS = np.arange(150) / 30


def run(track: np.ndarray, size: float, settings: OneEuro | None = None) -> np.ndarray:
    smooth = PointFilter(settings)
    return np.stack([smooth(points, t, size) for points, t in zip(track, SECONDS, strict=True)])


def noisy(size: float, speed: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """True places and what was measured: noise of 0.2 % of the face, `speed` faces per second."""
    still = np.random.default_rng(0).uniform(0, size, (10, 2))
    true = still[None] + speed * size * SECONDS[:, None, None]
    return true, true + np.random.default_rng(1).normal(0, 0.002 * size, true.shape)


def test_a_still_face_is_calmed_by_half_and_more() -> None:
    true, seen = noisy(200.0)
    left = (run(seen, 200.0) - true)[30:].std() / (seen - true)[30:].std()
    assert left < 0.5


def test_a_moving_face_is_not_left_behind() -> None:
    true, seen = noisy(200.0, speed=1.0)
    lag = (true - run(seen, 200.0))[30:].mean() / 200
    assert lag < 0.02
    lazy = (true - run(seen, 200.0, OneEuro(speed=0.0)))[30:].mean() / 200
    assert lazy > 0.1, "without its speed term the filter must be late, or this test sees nothing"


def test_size_is_the_only_unit() -> None:
    _, small = noisy(50.0, 0.3)
    _, large = noisy(500.0, 0.3)
    assert np.allclose(run(small, 50.0) * 10, run(large, 500.0), rtol=1e-4)


def test_time_that_stands_still_changes_nothing() -> None:
    smooth = PointFilter()
    first = smooth(np.ones((2, 2)), 1.0, 10.0)
    assert np.array_equal(smooth(np.zeros((2, 2)), 1.0, 10.0), first)
