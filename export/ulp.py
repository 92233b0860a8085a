"""Distance between float32 results, in units of the last place with a floor."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOOR = 0.25
"""Values smaller than this are compared with the spacing at this size: a quarter of the crop's side."""

MIN_LIMIT = 64.0
"""Two float32 engines on a well-behaved network: sums in another order cost a few ULPs, a changed weight thousands."""
_SLACK = 4.0


def ulps_apart(found: NDArray[Any], wanted: NDArray[Any], floor: float = FLOOR) -> float:
    """The largest distance of two arrays in float32 ULPs of `wanted`; infinite where shapes differ or NaN appears.

    >>> one = np.float32([1.0]); ulps_apart(np.nextafter(one, np.float32(2)), one)
    1.0
    """
    if found.shape != wanted.shape or not np.isfinite(found).all() or not np.isfinite(wanted).all():
        return float("inf")
    if not wanted.size:
        return 0.0
    size = np.maximum(np.abs(wanted), floor).astype(np.float32)
    gap = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    return float((gap / np.spacing(size)).max())


def limit_from(rounded: NDArray[Any], exact: NDArray[Any]) -> float:
    """How far a float32 engine may be from the truth, given how far another one (`rounded`) is from it.

    A network that amplifies rounding does so in every engine; the limit follows the network, not a magic number.
    """
    return max(MIN_LIMIT, _SLACK * ulps_apart(rounded, exact))
