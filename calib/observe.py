"""Look at the float network's tensors on calibration faces: extremes per channel, histograms per scale group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calib.graph import PASSING, Graph, run
from calib.plan import each_batch, torch_parameters
from calib.sites import Sites
from runtime.errors import InputError
from runtime.spec import ModelSpec

BINS = 2048


@dataclass(frozen=True)
class Observation:
    """What the calibration faces did to the tensors that become int8."""

    channel_peak: Mapping[str, NDArray[np.float64]]
    """Largest magnitude of each channel of each tensor."""
    histogram: Mapping[str, NDArray[np.int64]]
    """Counts of magnitudes of each scale group, `BINS` equal bins from 0 to the group's peak."""

    def peak(self, sites: Sites, group: str) -> float:
        """Largest magnitude in a scale group."""
        return max(float(self.channel_peak[tensor].max()) for tensor in sites.members(group))


def observe_peaks(
    graph: Graph,
    sites: Sites,
    crops: NDArray[np.uint8],
    spec: ModelSpec,
    progress: Callable[[int], object] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Largest magnitude per channel of every tensor that takes part in a scale group."""
    peaks: dict[str, NDArray[np.float64]] = {}

    def look(tensor: str, value: Tensor) -> None:
        peak = value.abs().amax((0, 2, 3)).double().numpy()
        peaks[tensor] = np.maximum(peaks[tensor], peak) if tensor in peaks else peak

    _each_tensor(graph, sites, crops, spec, look, progress)
    for tensor, value in peaks.items():
        if not np.isfinite(value).all():
            raise InputError(f"tensor {tensor!r} is not finite on the calibration faces; the float model is broken")
    return peaks


def observe(
    graph: Graph,
    sites: Sites,
    crops: NDArray[np.uint8],
    spec: ModelSpec,
    peaks: Mapping[str, NDArray[np.float64]] | None = None,
) -> Observation:
    """Peaks unless they are known, of as many or more crops; then histograms of magnitudes in a pass of their own."""
    if peaks is None:
        peaks = observe_peaks(graph, sites, crops, spec)
    plain = Observation(peaks, {})
    top = {group: plain.peak(sites, group) for group in sites.groups}
    counts = {group: np.zeros(BINS, dtype=np.int64) for group in sites.groups}

    def look(tensor: str, value: Tensor) -> None:
        producer = graph.producer(tensor)
        group = sites.group[tensor]
        if (producer is not None and producer.op in PASSING) or top[group] == 0:
            return
        found = torch.histc(value.abs().flatten(), BINS, 0.0, top[group])
        counts[group] += found.numpy().astype(np.int64)

    _each_tensor(graph, sites, crops, spec, look, None)
    return Observation(peaks, counts)


def _each_tensor(
    graph: Graph,
    sites: Sites,
    crops: NDArray[np.uint8],
    spec: ModelSpec,
    look: Callable[[str, Tensor], None],  # must not care about the order of the batches
    progress: Callable[[int], object] | None,
) -> None:
    parameters = torch_parameters(graph)
    lock = Lock()

    def work(batch: Tensor) -> int:
        keep: dict[str, Tensor] = dict.fromkeys(sites.group, batch)
        run(graph, parameters, batch, keep=keep)
        with lock:
            for tensor, value in keep.items():
                look(tensor, value)
        return len(batch)

    for count in each_batch(crops, spec, work):
        if progress is not None:
            progress(count)
