"""Random numbers that belong to a face, not to a moment: the same whatever the threads, the batch or the resume point.

Each number is a hash of (seed, epoch, face, repeat, name), so there is no state that could drift.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UsageError

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
MAX_SEED = (1 << 63) - 1


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64; array arithmetic wraps."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@lru_cache(maxsize=256)
def _salt(name: str) -> np.uint64:
    return np.uint64((zlib.crc32(name.encode()) * _GOLDEN) & _MASK)


class Draws:
    """Random numbers for a batch of faces; ask for each kind by name.

    >>> a = Draws(0, 3, np.array([7, 8])).uniform("angle"); b = Draws(0, 3, np.array([8])).uniform("angle")
    >>> bool(a[1] == b[0])
    True
    """

    def __init__(
        self, seed: int, epoch: int, faces: NDArray[np.int64], repeats: NDArray[np.int64] | None = None
    ) -> None:
        if not 0 <= seed <= MAX_SEED or not 0 <= epoch <= MAX_SEED:
            raise UsageError(f"seed {seed} and epoch {epoch} must lie in 0..2^63-1")
        base = np.array([seed * _GOLDEN & _MASK], dtype=np.uint64)
        base = _mixed(base + np.array([epoch], dtype=np.uint64))
        self._keys = _mixed(base + _mixed(np.asarray(faces).astype(np.uint64) + np.uint64(_GOLDEN)))
        if repeats is not None:
            self._keys = _mixed(self._keys + np.asarray(repeats).astype(np.uint64) * np.uint64(0xD1B54A32D192ED03))

    def __len__(self) -> int:
        return len(self._keys)

    def bits(self, name: str) -> NDArray[np.uint64]:
        """64 random bits for each face."""
        return _mixed(self._keys + _salt(name))

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> NDArray[np.float64]:
        """A number in [low, high) for each face."""
        return low + (high - low) * ((self.bits(name) >> np.uint64(11)).astype(np.float64) * 2.0**-53)

    def happens(self, name: str, chance: float) -> NDArray[np.bool_]:
        """True with the given chance."""
        return np.asarray(self.uniform(name) < chance)

    def integer(self, name: str, count: int) -> NDArray[np.int64]:
        """A whole number in 0..count-1 for each face."""
        return np.minimum((self.uniform(name) * count).astype(np.int64), count - 1)


def shuffled(
    faces: NDArray[np.int64], seed: int, epoch: int, repeats: NDArray[np.int64] | None = None
) -> NDArray[np.intp]:
    """Positions of the faces in the random order of an epoch."""
    return np.argsort(Draws(seed, epoch, faces, repeats).bits("order"), kind="stable")
