"""Equalisation by a model of the noise: the channel factors that make the expected landmark error smallest.

Rounding to steps of s adds noise of variance s*s/12. Times the landmarks' sensitivity, summed over all stored tensors
and all weights, that predicts the error of the int8 network from a handful of gradients; the channels' factors are then
found by descent on that sum. Plain equalisation looks at ranges alone and can trade activation noise for weight noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calib.equalize import FIXED, channel_classes
from calib.fake import HIGH, WEIGHT_LIMIT
from calib.graph import Graph
from calib.sensitivity import Sensitivity
from calib.sites import Sites

STEPS = 240
RATE = 0.01
MOST = 6.0
"""Largest natural logarithm of a factor."""


@dataclass(frozen=True)
class Noise:
    """Predicted variance of the landmarks, by source."""

    activation: dict[str, float]
    """Per scale group."""
    weight: dict[str, float]
    """Per weighted node."""

    @property
    def total(self) -> float:
        return sum(self.activation.values()) + sum(self.weight.values())


class NoiseModel:
    """The expected landmark error of an int8 network as a function of its channel factors."""

    def __init__(
        self, graph: Graph, sites: Sites, peaks: Mapping[str, NDArray[np.float64]], sensitivity: Sensitivity
    ) -> None:
        self.classes, self.count = channel_classes(graph)
        self._groups: list[tuple[str, list[tuple[Tensor, Tensor, Tensor]]]] = []
        for group in sites.groups:
            members = [
                (self._index(tensor), _single(peaks[tensor]), _single(sensitivity.activation[tensor]))
                for tensor in sites.members(group)
                if tensor in sensitivity.activation
            ]
            self._groups.append((group, members))
        self._weights: list[tuple[str, Tensor, int, Tensor, Tensor]] = []
        for node in graph.weighted:
            if node.name in sites.quantised:
                weight = _single(np.abs(graph.parameters[str(node.weight)]))
                importance = _single(sensitivity.weight[str(node.weight)])
                groups = int(node.attributes["group"])
                # A weight's kernel places share their input channel, so only their largest and their sum matter.
                self._weights.append(
                    (
                        node.name,
                        self._index(node.inputs[0]),
                        groups,
                        weight.amax((2, 3)),
                        importance.sum((2, 3)),
                    )
                )

    def _index(self, tensor: str) -> Tensor:
        classes = self.classes[tensor]
        return torch.from_numpy(np.where(classes == FIXED, self.count, classes))

    def terms(self, logs: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Variance by scale group and by weighted node, for the logarithms of the class factors."""
        factors = torch.cat([logs, logs.new_zeros(1)]).exp()
        activation: dict[str, Tensor] = {}
        for group, members in self._groups:
            if not members:
                continue
            top = torch.stack([(peak * factors[index]).max() for index, peak, _ in members]).max()
            spread = torch.stack([(importance / factors[index] ** 2).sum() for index, _, importance in members]).sum()
            activation[group] = (top / HIGH) ** 2 * spread / 12
        weight: dict[str, Tensor] = {}
        for name, index, groups, peak, importance in self._weights:
            into = factors[index].reshape(groups, -1).repeat_interleave(peak.shape[0] // groups, 0)
            step = (peak / into).amax(1) / WEIGHT_LIMIT
            weight[name] = (step**2 * (importance * into**2).sum(1)).sum() / 12
        return activation, weight

    def predict(self, factors: Mapping[str, NDArray[np.float64]] | None = None) -> Noise:
        """The error predicted for given factors, or for the network as it is."""
        with torch.no_grad():
            activation, weight = self.terms(self._logs(factors))
        return Noise({k: float(v) for k, v in activation.items()}, {k: float(v) for k, v in weight.items()})

    def _logs(self, factors: Mapping[str, NDArray[np.float64]] | None) -> Tensor:
        logs = np.zeros(self.count)
        for tensor, values in (factors or {}).items():
            inside = self.classes[tensor] != FIXED
            logs[self.classes[tensor][inside]] = np.log(values[inside])
        return _single(logs)

    def best_factors(
        self, start: Mapping[str, NDArray[np.float64]], steps: int = STEPS, rate: float = RATE
    ) -> dict[str, NDArray[np.float64]]:
        """Descend from `start`; the result never predicts a larger error than the start."""
        logs = self._logs(start).requires_grad_()
        optimiser = torch.optim.Adam([logs], lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        best, lowest = logs.detach().clone(), np.inf
        for _ in range(steps):
            activation, weight = self.terms(logs)
            loss = torch.log(torch.stack([*activation.values(), *weight.values()]).sum())
            if loss.item() < lowest:
                best, lowest = logs.detach().clone(), loss.item()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                logs.clamp_(-MOST, MOST)
        table = np.append(np.exp(best.double().numpy()), 1.0)
        return {tensor: table[np.where(c == FIXED, self.count, c)] for tensor, c in self.classes.items()}


def _single(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32))
