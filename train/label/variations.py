"""Test-time variations of a crop: the same face mirrored, moved, scaled and turned, each in one affine map."""

from __future__ import annotations

from dataclasses import dataclass
from math import radians

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UsageError
from runtime.geometry import Matrix, Region, invert, transform
from runtime.spec import ModelSpec


@dataclass(frozen=True)
class Variation:
    """One way to look at a face."""

    flip: bool = False
    angle: float = 0.0
    """Degrees that the square is turned by."""
    scale: float = 1.0
    """Factor on the square's side."""
    shift: tuple[float, float] = (0.0, 0.0)
    """Move of the square's centre, in fractions of its side."""

    def matrix(self, square: Region, size: int) -> Matrix:
        """From photo pixels to pixels of the varied crop."""
        side = square.side * self.scale
        moved = Region(
            square.cx + self.shift[0] * square.side, square.cy + self.shift[1] * square.side, side, radians(self.angle)
        )
        matrix = moved.to_crop(size)
        if self.flip:
            matrix = matrix.copy()
            matrix[0] *= -1
            matrix[0, 2] += size - 1
        return matrix


def _both_ways(*moves: Variation) -> tuple[Variation, ...]:
    return tuple(Variation(flip, move.angle, move.scale, move.shift) for move in moves for flip in (False, True))


_PLAIN = Variation()
_TURNS = (Variation(angle=8), Variation(angle=-8))
_ZOOMS = (Variation(scale=0.92), Variation(scale=1.09))
_SHIFTS = tuple(Variation(shift=shift) for shift in ((0.04, 0.0), (-0.04, 0.0), (0.0, 0.04), (0.0, -0.04)))

VARIATIONS: dict[str, tuple[Variation, ...]] = {
    "none": (_PLAIN,),
    "flip": _both_ways(_PLAIN),
    "few": _both_ways(_PLAIN, *_TURNS),
    "many": _both_ways(_PLAIN, *_TURNS, *_ZOOMS, *_SHIFTS),
}
"""By name; each begins with the plain crop."""


def variations_named(name: str) -> tuple[Variation, ...]:
    """Look a set of variations up by name."""
    try:
        return VARIATIONS[name]
    except KeyError:
        raise UsageError(f"unknown variations {name!r}; known: {', '.join(VARIATIONS)}") from None


def to_photo(output: NDArray[np.floating], matrix: Matrix, flip: bool, spec: ModelSpec) -> NDArray[np.float64]:
    """Outputs (N, 2) in [0, 1] of a varied crop -> photo points."""
    pixels = np.asarray(output, dtype=np.float64) * spec.input_size - 0.5
    if flip:
        pixels = pixels[list(spec.flip_permutation)]
    # Half a pixel of the photo, whichever way the crop was turned or mirrored, as in `runtime.geometry`.
    return transform(invert(matrix), pixels) + (0.5 if spec.coordinates == "corner" else 0.0)
