"""What both learning steps share: weights counted in int8 steps, and gradients that do not depend on thread counts.

Each batch is cut into two fixed halves, each half runs on one thread, and the gradients are added in a fixed order. So
the same faces give the same bytes whatever OMP_NUM_THREADS says, and two cores are still used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calib.fake import channel_view
from calib.plan import Plan, torch_parameters, torch_scales, torch_weight_scales

HALVES = 2
Loss = Callable[[int], Tensor]
"""The loss of one half of the batch, as its share of the whole."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread per operation, whatever the environment asks for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Halves:
    """Runs the two halves of each batch side by side."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(HALVES, initializer=torch.set_num_threads, initargs=(1,))

    def __enter__(self) -> Halves:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def backward(self, loss: Loss, leaves: Sequence[Tensor]) -> float:
        """Fill `grad` of all leaves with the gradient of the summed loss; returns the loss."""

        def half(index: int) -> tuple[float, tuple[Tensor | None, ...]]:
            value = loss(index)
            return value.item(), torch.autograd.grad(value, leaves, allow_unused=True)

        results = list(self._pool.map(half, range(HALVES)))
        for place, leaf in enumerate(leaves):
            leaf.grad = None
            for _, gradients in results:
                gradient = gradients[place]
                if gradient is not None:
                    leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
        return sum(value for value, _ in results)


class Steps:
    """A plan's float parameters as leaves counted in quantisation steps, so that one learning rate fits all of them."""

    def __init__(self, plan: Plan, names: Sequence[str] | None = None) -> None:
        self.plan = plan
        self.start = torch_parameters(plan.graph)
        self.unit: dict[str, Tensor] = {}
        steps = torch_weight_scales(plan)
        for node in plan.graph.weighted:
            weight = str(node.weight)
            if names is not None and weight not in names:
                continue
            value = self.start[weight]
            if node.name in plan.sites.quantised:
                self.unit[weight] = channel_view(steps[weight], value)
                into = float(plan.scales[plan.sites.group[node.inputs[0]]])
                bias_unit = steps[weight] * into * 8
            else:
                peak = value.abs().amax()
                self.unit[weight] = (peak if peak > 0 else torch.ones(())) / 127
                bias_unit = torch.full_like(value[:, 0].flatten() if value.dim() == 4 else value.new_ones(()), 1e-3)
            if node.bias:
                self.unit[node.bias] = bias_unit
        self.moved = {
            name: torch.zeros_like(self.start[name], memory_format=torch.preserve_format).requires_grad_()
            for name in self.unit
        }
        self.log_scale = {group: torch.zeros(()).requires_grad_() for group in plan.sites.groups}
        self._scales = torch_scales(plan)

    @property
    def weights(self) -> list[Tensor]:
        return list(self.moved.values())

    def parameters(self) -> dict[str, Tensor]:
        """The float parameters at their present place."""
        return {
            name: value + self.unit[name] * self.moved[name] if name in self.moved else value
            for name, value in self.start.items()
        }

    def scales(self) -> dict[str, Tensor]:
        return {group: step * torch.exp(self.log_scale[group]) for group, step in self._scales.items()}

    def finish(self) -> Plan:
        """The plan with what was learned."""
        with torch.no_grad():
            parameters = {name: _array(value) for name, value in self.parameters().items()}
            scales = {group: np.float32(step.item()) for group, step in self.scales().items()}
        return replace(self.plan, graph=replace(self.plan.graph, parameters=parameters), scales=scales)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().numpy(), dtype=np.float32)


def cosine(step: int, steps: int, warm: int = 10) -> float:
    """Learning-rate factor: a short rise, then half a cosine down to zero."""
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + float(np.cos(np.pi * step / steps)))


def mean_point_distance(outputs: Tensor, target: Tensor, size: Tensor) -> Tensor:
    """Mean landmark distance of a batch over each face's normalising distance."""
    gap = (outputs - target).reshape(len(outputs), -1, 2) / size[:, None, None]
    return (gap.square().sum(2) + 1e-12).sqrt().mean()
