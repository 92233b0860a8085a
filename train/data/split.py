"""A validation split cut from the training list, whole photos at a time."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UsageError
from train.data.sample import FaceSource

Indices = NDArray[np.intp]


def split_by_group(source: FaceSource, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Indices to train on and to validate on; about `fraction` of the faces validate, and no group is on both sides.

    Groups are ranked by a hash of seed and name, so that adding faces to a list moves few others across.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"validation fraction {fraction}: expected a number between 0 and 1")
    groups: dict[str, list[int]] = {}
    for index in range(len(source)):
        sample = source.sample(index)
        groups.setdefault(sample.group or f"{sample.image}#{index}", []).append(index)
    if len(groups) < 2:
        raise UsageError(
            f"{source.name}: {len(groups)} photo with {len(source)} faces cannot be split; two photos at least"
        )
    wanted = fraction * len(source)
    ranked = sorted(groups, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).digest())
    validation: list[int] = []
    for name in ranked[:-1]:
        if validation and len(validation) + len(groups[name]) / 2 > wanted:
            break
        validation.extend(groups[name])
    chosen = np.zeros(len(source), dtype=bool)
    chosen[validation] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
