"""Batch statistics: gathered over all processes of a data-parallel run, differentiable, on CPU and GPU alike."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def processes() -> int:
    """How many processes share one batch; 1 outside a data-parallel run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _SumOverProcesses(torch.autograd.Function):
    """Every process gets the sum; every process's gradient is the sum of all gradients."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def sum_over_processes(value: Tensor) -> Tensor:
    """Sum a tensor over the processes of a data-parallel run, differentiably."""
    result: Tensor = _SumOverProcesses.apply(value)  # type: ignore[no-untyped-call]
    return result


def update_running(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics of `norm` towards a batch's, as torch does (the variance unbiased)."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    with torch.no_grad():
        norm.num_batches_tracked += 1
        step = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        unbiased = variance * (count / max(count - 1, 1))
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), step)
        norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), step)


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose batch statistics span all processes of a data-parallel run; same state_dict."""

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and processes() > 1):
            return super().forward(input)
        values = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        local = torch.stack([values.sum((0, 2, 3)), torch.full_like(values[0, :, 0, 0], values[:, 0].numel())])
        total = sum_over_processes(local)
        mean = total[0] / total[1]
        centred = values - mean[:, None, None]
        count = int(total[1, 0])
        variance = sum_over_processes(centred.square().sum((0, 2, 3))) / count
        update_running(self, mean.detach(), variance.detach(), count)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(input.dtype)
