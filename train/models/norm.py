"""Batch statistics: gathered over all processes of a data-parallel run, differentiable, on CPU and GPU alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_apart = False


@contextmanager
def statistics_apart(apart: bool) -> Iterator[None]:
    """Each process of a data-parallel run takes the statistics of its own part of the batch; for all threads."""
    global _apart  # a context variable would not reach the threads that run the backward pass on a GPU
    before, _apart = _apart, apart
    try:
        yield
    finally:
        _apart = before


def processes() -> int:
    """How many processes share the statistics of a batch; 1 outside a data-parallel run."""
    if _apart:
        return 1
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


def update_running(norms: Sequence[nn.BatchNorm2d], mean: Tensor, variance: Tensor, count: int) -> None:
    """Move running statistics towards a batch's (rows of `mean` and `variance`), as torch does: variance unbiased."""
    with torch.no_grad():
        unbiased = variance * (count / max(count - 1, 1))
        seen: list[Any] = [norm.num_batches_tracked for norm in norms]
        torch._foreach_add_(seen, 1)
        running: list[Any] = [norm.running_mean for norm in norms] + [norm.running_var for norm in norms]
        steps = [1 / int(n) if norm.momentum is None else norm.momentum for norm, n in zip(norms, seen, strict=True)]
        fresh = [*mean.to(running[0].dtype), *unbiased.to(running[0].dtype)]
        if len(set(steps)) == 1:
            torch._foreach_lerp_(running, fresh, steps[0])
        else:
            for value, new, step in zip(running, fresh, [*steps, *steps], strict=True):
                value.lerp_(new, step)


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
        update_running([self], mean.detach()[None], variance.detach()[None], count)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(input.dtype)
