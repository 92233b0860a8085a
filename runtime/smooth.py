"""One-Euro smoothing of one face's points, in units of that face's size."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]


@dataclass(frozen=True)
class OneEuro:
    """The filter's settings; a face that does not move is smoothed at `min_cutoff` Hz, a fast one hardly at all."""

    min_cutoff: float = 0.7
    """Hz at rest: lower is calmer and later."""
    speed: float = 60.0
    """Hz of cutoff added per face size per second: higher follows quick heads more closely."""
    speed_cutoff: float = 3.0
    """Hz at which the speed itself is smoothed."""
    rest: float = 0.1
    """Face sizes per second: slower than this is noise, not motion."""


class PointFilter:
    """The state of one track. Never share one between faces.

    >>> smooth = PointFilter()
    >>> smooth(np.zeros((2, 2)), 0.0, 100.0).tolist()
    [[0.0, 0.0], [0.0, 0.0]]
    """

    def __init__(self, settings: OneEuro | None = None) -> None:
        self._settings = settings or OneEuro()
        self._time = 0.0
        self._raw: NDArray[np.float64] | None = None
        self._value: NDArray[np.float64] | None = None
        self._speed: NDArray[np.float64] | None = None

    def __call__(self, points: NDArray[np.floating], seconds: float, size: float) -> Points:
        """The smoothed points; `size` is the face's size in the points' own unit."""
        now = np.asarray(points, dtype=np.float64)
        if self._value is None or self._raw is None or self._speed is None:
            self._raw, self._value, self._speed, self._time = now, now, np.zeros_like(now), seconds
            return now.astype(np.float32)
        step = seconds - self._time
        if step <= 0 or size <= 0:
            return self._value.astype(np.float32)
        velocity = (now - self._raw) / (size * step)
        self._speed = self._speed + _share(self._settings.speed_cutoff, step) * (velocity - self._speed)
        moving = (np.hypot(self._speed[:, 0], self._speed[:, 1]) - self._settings.rest).clip(0)[:, None]
        part = _share_of(self._settings.min_cutoff + self._settings.speed * moving, step)
        self._value = self._value + part * (now - self._value)
        self._raw, self._time = now, seconds
        return self._value.astype(np.float32)


def _share(cutoff: float, step: float) -> float:
    """How much of a new value a low pass at `cutoff` Hz takes after `step` seconds."""
    turn = 2 * pi * cutoff * step
    return turn / (turn + 1)


def _share_of(cutoff: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    turn = 2 * pi * step * cutoff
    return np.asarray(turn / (turn + 1))
