"""From what was observed to one scale per group: min-max, percentile, entropy, mean squared error, landmark search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from calib.fake import HIGH
from calib.observe import BINS, Observation
from calib.plan import Plan
from calib.sites import Sites
from runtime.errors import UsageError

Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy", "mse")
LEVELS = 128
"""Magnitudes that an int8 value can take."""


def group_scales(
    sites: Sites, seen: Observation, method: Method = "minmax", widen: float = 1.0, percentile: float = 99.99
) -> dict[str, np.float32]:
    """The step of every scale group; `widen` multiplies the range that the method chose."""
    if method not in METHODS:
        raise UsageError(f"unknown range method {method!r}; known: {', '.join(METHODS)}")
    if not 0 < widen <= 4 or not 50 < percentile <= 100:
        raise UsageError(f"ranges: expected widen in 0..4 and percentile in 50..100, found {widen} and {percentile}")
    scales: dict[str, np.float32] = {}
    for group in sites.groups:
        peak = seen.peak(sites, group)
        limit = peak
        if method != "minmax" and peak > 0:
            counts = seen.histogram[group]
            chosen = {
                "percentile": lambda c: percentile_bin(c, percentile),
                "entropy": entropy_bin,
                "mse": mse_bin,
            }[method](counts)
            limit = peak * chosen / BINS
        scales[group] = np.float32(limit * widen / HIGH) if limit > 0 else np.float32(1.0)
    return scales


def percentile_bin(counts: NDArray[np.int64], percentile: float) -> int:
    """Number of bins that hold the given share of the values other than zero."""
    total = np.cumsum(counts)
    return int(np.searchsorted(total, total[-1] * percentile / 100)) + 1


def entropy_bin(counts: NDArray[np.int64]) -> int:
    """Number of bins kept by the smallest Kullback-Leibler divergence between the values and their 128 levels.

    The reference distribution has everything that is cut off piled up in its last bin; the first bin, where the exact
    zeros of a ReLU lie, does not vote.
    """
    values = counts.astype(np.float64)
    values[0] = 0.0
    best, chosen = np.inf, len(values)
    for kept in range(LEVELS, len(values) + 1, LEVELS // 8):
        reference = values[:kept].copy()
        reference[-1] += values[kept:].sum()
        level = np.arange(kept) * LEVELS // kept
        occupied = values[:kept] > 0
        mass = np.bincount(level, weights=values[:kept], minlength=LEVELS)
        places = np.bincount(level, weights=occupied, minlength=LEVELS)
        spread = np.where(occupied, mass[level] / np.maximum(places[level], 1), 0.0)
        divergence = _divergence(reference, spread)
        if divergence < best:
            best, chosen = divergence, kept
    return chosen


def _divergence(reference: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    if reference.sum() == 0 or other.sum() == 0:
        return np.inf
    p = reference / reference.sum()
    q = other / other.sum()
    q = np.where((p > 0) & (q == 0), 1e-9, q)
    inside = p > 0
    return float((p[inside] * np.log(p[inside] / q[inside])).sum())


def mse_bin(counts: NDArray[np.int64]) -> int:
    """Number of bins kept by the smallest mean squared error of rounding and clipping."""
    values = (np.arange(len(counts)) + 0.5) / len(counts)
    weight = counts.astype(np.float64)
    best, chosen = np.inf, len(counts)
    for kept in range(len(counts) // 8, len(counts) + 1, 8):
        step = kept / len(counts) / HIGH
        stored = np.minimum(np.rint(values / step), HIGH) * step
        error = float((weight * (stored - values) ** 2).sum())
        if error < best:
            best, chosen = error, kept
    return chosen


def search_scales(
    plan: Plan,
    error: Callable[[Plan], float],
    multipliers: tuple[float, ...] = (0.85, 1.12),
    groups: tuple[str, ...] | None = None,
    progress: Callable[[], object] | None = None,
) -> Plan:
    """One greedy round: per group keep the multiplier of its scale that lowers the whole network's `error` most."""
    best, lowest = plan, error(plan)
    for group in plan.sites.groups if groups is None else groups:
        for factor in multipliers:
            trial = scaled(best, {group: factor})
            found = error(trial)
            if found < lowest:
                best, lowest = trial, found
        if progress is not None:
            progress()
    return best


def scaled(plan: Plan, factors: Mapping[str, float]) -> Plan:
    """The plan with the steps of some groups multiplied."""
    scales = {g: np.float32(float(s) * factors.get(g, 1.0)) for g, s in plan.scales.items()}
    return replace(plan, scales=scales)
