"""Landmark accuracy: NME of each face, failure rate and area under the error curve, over faces and per subset.

Every number is a mean over faces, never over batches; errors are fractions (0.05 = 5 %).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, UsageError
from runtime.layouts import Layout, Normaliser
from train.data.sample import ATTRIBUTES

LIMIT = 0.1
"""The error from which on a face counts as failed, and up to which the area is taken."""
BOX = "box"
"""Normaliser name for sqrt(width * height) of the true landmarks' box."""
ALL = "all"
"""Name of the subset that holds every face."""


@dataclass(frozen=True)
class Scores:
    """Accuracy over `count` faces, as fractions."""

    count: int
    nme: float
    failure_rate: float
    auc: float


def normaliser_for(layout: Layout, name: str) -> Normaliser | str:
    """The normaliser called `name`: one of the layout's own, or `BOX`, which every layout has."""
    if name == BOX:
        return BOX
    try:
        return layout.normaliser(name)
    except UsageError as error:
        raise UsageError(f"{error}, {BOX}") from None


def nme_per_face(
    prediction: NDArray[Any], truth: NDArray[Any], normaliser: Normaliser | str, first_index: int = 0
) -> NDArray[np.float64]:
    """Mean point distance of each face over its normaliser, for points of shape (B, N, 2).

    Points whose truth is NaN do not count; a prediction that is not finite makes the face's error infinite.

    >>> truth = np.zeros((1, 2, 2)); truth[0, 1] = 10, 0
    >>> nme_per_face(truth + [0, 1], truth, Normaliser("span", (0,), (1,)))
    array([0.1])
    """
    if prediction.shape != truth.shape or truth.ndim != 3 or truth.shape[2] != 2:
        raise UsageError(f"NME: expected two arrays of shape (B, N, 2), found {prediction.shape} and {truth.shape}")
    known = np.asarray(truth, dtype=np.float64)
    scale = face_scale(known, normaliser)
    bad = np.flatnonzero(~(np.isfinite(scale) & (scale > 0)))
    if bad.size:
        name = normaliser if isinstance(normaliser, str) else normaliser.name
        raise InputError(
            f"face {first_index + int(bad[0])} ({bad.size} in all): the normaliser {name!r} is {scale[bad[0]]:g}; "
            "its points are unlabelled or coincide; choose another normaliser or remove these faces"
        )
    labelled = np.isfinite(known).all(-1)
    gap = np.asarray(prediction, dtype=np.float64) - known
    distance = np.hypot(gap[..., 0], gap[..., 1])
    distance = np.where(np.isfinite(distance) | ~labelled, distance, np.inf)
    total = np.where(labelled, distance, 0.0).sum(-1)
    return np.asarray(total / labelled.sum(-1) / scale)


def face_scale(truth: NDArray[np.float64], normaliser: Normaliser | str) -> NDArray[np.float64]:
    """What each face's errors are divided by, in photo pixels."""
    if isinstance(normaliser, Normaliser):
        return np.asarray(normaliser.distance(truth), dtype=np.float64)
    if normaliser != BOX:
        raise UsageError(f"unknown normaliser {normaliser!r}; give a layout's Normaliser or {BOX!r}")
    known = np.isfinite(truth)
    extent = np.where(known, truth, -np.inf).max(1) - np.where(known, truth, np.inf).min(1)
    return np.asarray(np.sqrt(np.maximum(extent[:, 0], 0) * np.maximum(extent[:, 1], 0)))


def failure_rate(errors: NDArray[Any], limit: float = LIMIT) -> float:
    """Share of faces whose error exceeds the limit."""
    return float(np.mean(~(np.asarray(errors) <= limit)))


def area_under_curve(errors: NDArray[Any], limit: float = LIMIT) -> float:
    """Exact area under the cumulative error curve up to `limit`, as a share of the full area.

    >>> round(area_under_curve(np.array([0.0, 0.05, 0.2])), 6)
    0.5
    """
    return float(np.mean(np.maximum(0.0, 1.0 - np.asarray(errors, dtype=np.float64) / limit)))


def score(errors: NDArray[Any]) -> Scores:
    """Accuracy over all the given faces."""
    if len(errors) == 0:
        raise UsageError("no faces to score")
    return Scores(len(errors), float(np.mean(errors)), failure_rate(errors), area_under_curve(errors))


def score_subsets(errors: NDArray[Any], attributes: NDArray[np.bool_] | None) -> dict[str, Scores]:
    """Accuracy over all faces and over each subset of `ATTRIBUTES` that has any; attributes is (B, 6) or None."""
    scores = {ALL: score(errors)}
    if attributes is None:
        return scores
    if attributes.shape != (len(errors), len(ATTRIBUTES)):
        raise UsageError(f"attributes: expected {(len(errors), len(ATTRIBUTES))}, found {attributes.shape}")
    for column, name in enumerate(ATTRIBUTES):
        members = errors[attributes[:, column]]
        if len(members):
            scores[name] = score(members)
    return scores


def error_curve(errors: NDArray[Any], limit: float = LIMIT) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corners of the cumulative error distribution: sorted errors up to `limit` and the share of faces within each."""
    within = np.sort(np.asarray(errors, dtype=np.float64))
    share = np.arange(1, len(within) + 1) / len(within)
    kept = within <= limit
    last = share[kept][-1] if kept.any() else 0.0
    return np.concatenate([[0.0], within[kept], [limit]]), np.concatenate([[0.0], share[kept], [last]])


def as_percent_rows(scores: Mapping[str, Scores]) -> list[tuple[str, str, str, str, str]]:
    """Rows (subset, faces, NME %, FR %, AUC) for a table."""
    return [
        (name, str(s.count), f"{100 * s.nme:.3f}", f"{100 * s.failure_rate:.2f}", f"{s.auc:.4f}")
        for name, s in scores.items()
    ]
