"""The chances of one face: a random stream keyed by seed, face and purpose, drawn in bulk and handed out one by one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

Colour = tuple[float, float, float]


class Dice:
    """Single draws at the price of an iterator step; `rng` gives whole arrays."""

    def __init__(self, seed: int, index: int, purpose: int) -> None:
        self.rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, index, purpose))))
        self._even = self._evens()
        self._bell = self._bells()

    def _evens(self) -> Iterator[float]:
        while True:
            yield from self.rng.random(64).tolist()

    def _bells(self) -> Iterator[float]:
        while True:
            yield from self.rng.standard_normal(48).tolist()

    def share(self) -> float:
        """Even in 0..1."""
        return next(self._even)

    def between(self, low: float, high: float) -> float:
        """Even in low..high."""
        return low + (high - low) * next(self._even)

    def whole(self, low: int, stop: int) -> int:
        """A whole number in low..stop-1."""
        return min(low + int((stop - low) * next(self._even)), stop - 1)

    def bell(self, middle: float = 0.0, sigma: float = 1.0) -> float:
        """Normally distributed."""
        return middle + sigma * next(self._bell)

    def sign(self) -> float:
        """-1 or 1."""
        return -1.0 if next(self._even) < 0.5 else 1.0

    def colour(self, low: float, high: float) -> Colour:
        """Three even numbers."""
        return self.between(low, high), self.between(low, high), self.between(low, high)

    def pick(self, weights: dict[str, float]) -> str:
        """A name, as often as its weight says."""
        left = next(self._even) * sum(weights.values())
        names = list(weights)
        for name in names:
            left -= weights[name]
            if left < 0:
                return name
        return names[-1]
