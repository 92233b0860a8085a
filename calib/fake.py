"""The int8 network imitated in float32: it rounds and clamps where the int8 network does, and has gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from calib.graph import Graph, Node, run
from calib.sites import Sites

LOW, HIGH = -128, 127
WEIGHT_LIMIT = 127


class _RoundToGrid(torch.autograd.Function):
    """clamp(rne(x / scale)) * scale; straight through to x inside the range, LSQ gradient to the scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        steps = x / scale
        whole = steps.round().clamp_(low, high)
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            ctx.save_for_backward(steps, whole, scale)
        ctx.limits = (low, high)
        return whole * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        steps, whole, scale = ctx.saved_tensors
        low, high = ctx.limits
        (grad,) = grads
        inside = (steps >= low) & (steps <= high)
        to_x = grad * inside if ctx.needs_input_grad[0] else None
        to_scale = None
        if ctx.needs_input_grad[1]:
            slope = torch.where(inside, whole - steps, whole) * grad
            to_scale = _sum_to(slope, scale)
        return to_x, to_scale, None, None


def _sum_to(value: Tensor, like: Tensor) -> Tensor:
    if like.dim() == 0:
        return value.sum()
    axes = [axis for axis in range(value.dim()) if like.shape[axis] == 1]
    return value.sum(axes, keepdim=True)


def round_to_grid(x: Tensor, scale: Tensor, low: int = LOW, high: int = HIGH) -> Tensor:
    """What x becomes when stored as int8 with this scale."""
    result: Tensor = _RoundToGrid.apply(x, scale, low, high)  # type: ignore[no-untyped-call]
    return result


def channel_view(scale: Tensor, weight: Tensor) -> Tensor:
    """A per-output-channel scale shaped to divide a weight."""
    return scale.reshape(-1, *([1] * (weight.dim() - 1)))


def weight_scales(weight: Tensor) -> Tensor:
    """The smallest per-channel scales that cut nothing off; an all-zero channel gets 1."""
    peak = weight.detach().abs().amax(dim=tuple(range(1, weight.dim())))
    return torch.where(peak > 0, peak / WEIGHT_LIMIT, torch.ones_like(peak))


def fake_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """A weight as its int8 form has it."""
    return round_to_grid(weight, channel_view(scale, weight), -WEIGHT_LIMIT, WEIGHT_LIMIT)


def run_fake(
    graph: Graph,
    sites: Sites,
    parameters: Mapping[str, Tensor],
    scales: Mapping[str, Tensor],
    batch: Tensor,
    weight_scale: Mapping[str, Tensor] | None = None,
    on_weight: Callable[[Node, Tensor], Tensor] | None = None,
    keep: dict[str, Tensor] | None = None,
    nodes: tuple[Node, ...] | None = None,
    start: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Run the network as int8 would: activations by `scales` (per group), weights by `weight_scale` or `on_weight`."""
    done: dict[str, Tensor] = {}

    def read(node: Node, name: str, value: Tensor) -> Tensor:
        if (node.name, name) not in sites.readers:
            return value
        if name not in done:
            done[name] = round_to_grid(value, scales[sites.group[name]])
        return done[name]

    def weigh(node: Node, weight: Tensor) -> Tensor:
        if node.name not in sites.quantised:
            return weight
        if on_weight is not None:
            return on_weight(node, weight)
        scale = None if weight_scale is None else weight_scale.get(str(node.weight))
        return fake_weight(weight, weight_scales(weight) if scale is None else scale)

    return run(graph, parameters, batch, read, weigh, keep, nodes, start)
