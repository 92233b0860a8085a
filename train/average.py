"""The exponential average of a model's weights: steadier than the last step, and what gets measured and shipped."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

WARM = 10
"""After t steps the decay is at most (1 + t) / (WARM + t), so that the random start is forgotten soon."""


class Average:
    """Weights and batch statistics averaged over the steps; counters are copied."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        # These share memory with the model, which moves its weights in place: no walk through it at each step.
        current = model.state_dict()
        self.weights = {name: tensor.clone() for name, tensor in current.items()}
        smooth = [name for name, tensor in current.items() if tensor.is_floating_point()]
        self._smooth = [self.weights[name] for name in smooth], [current[name] for name in smooth]
        self._counters = [(self.weights[name], current[name]) for name in current if name not in set(smooth)]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the model's weights of now."""
        decay = min(self.decay, (1 + self.steps) / (WARM + self.steps))
        self.steps += 1
        torch._foreach_lerp_(*self._smooth, 1 - decay)
        for copy, current in self._counters:
            copy.copy_(current)

    def load(self, weights: Mapping[str, Tensor], steps: int) -> None:
        """Go on from saved averages."""
        self.steps = steps
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])
