"""Rounding to an int8 grid with gradients, in one pass over memory where the training kernels are at hand.

The same numbers as `calib.fake.round_to_grid`, which is used where they are not: on GPUs, in double precision, or
without a C compiler.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from calib.fake import WEIGHT_LIMIT, channel_view, round_to_grid
from train.models.kernels import call, library


def rounded(x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """What x becomes when stored as int8 with this step."""
    if not _fits(x) or step.dtype != torch.float32:
        return round_to_grid(x, step, low, high)
    result: Tensor = _Grid.apply(x, step, low, high)  # type: ignore[no-untyped-call]
    return result


def rounded_weight(counted: Tensor, unit: Tensor, step: Tensor) -> Tensor:
    """A weight that is counted in `unit` per output channel, on the int8 grid of `step` per output channel."""
    if not _fits(counted) or step.dtype != torch.float32:
        weight = counted * channel_view(unit, counted)
        return round_to_grid(weight, channel_view(step, counted), -WEIGHT_LIMIT, WEIGHT_LIMIT)
    result: Tensor = _Rows.apply(counted, unit, step)  # type: ignore[no-untyped-call]
    return result


def _fits(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and _is_dense(x) and library() is not None


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))


def _alike(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient in the memory order of x."""
    if gradient.dtype == x.dtype and gradient.stride() == x.stride():
        return gradient
    return torch.empty_like(x).copy_(gradient)


class _Grid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
        y = torch.empty_like(x)
        call("grid_forward", x.numel(), x, step, low, high, y)
        ctx.save_for_backward(x, step)
        ctx.limits = (low, high)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, step = ctx.saved_tensors
        to_x, to_step = torch.empty_like(x), torch.empty_like(step)
        call("grid_backward", x.numel(), x, _alike(gradients[0], x), step, *ctx.limits, to_x, to_step)
        return to_x, to_step, None, None


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, counted: Tensor, unit: Tensor, step: Tensor) -> Tensor:
        y = torch.empty_like(counted)
        call("grid_rows_forward", len(counted), counted[0].numel(), counted, unit, step, WEIGHT_LIMIT, y)
        ctx.save_for_backward(counted, unit, step)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        counted, unit, step = ctx.saved_tensors
        to_counted, to_step = torch.empty_like(counted), torch.empty_like(step)
        shape = (len(counted), counted[0].numel())
        gradient = _alike(gradients[0], counted)
        call("grid_rows_backward", *shape, counted, gradient, unit, step, WEIGHT_LIMIT, to_counted, to_step)
        return to_counted, None, to_step
