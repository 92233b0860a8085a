"""The processes of a data-parallel run (torchrun). Alone, every function here does nothing and costs nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from runtime.errors import UsageError

PATIENCE = timedelta(minutes=30)
"""A process that waits longer than this for the others gives up."""


@dataclass(frozen=True)
class Team:
    """Which of how many processes this is."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """The one that writes files and talks."""
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over all processes, in one exchange."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([part if part.dtype == torch.float32 else part.float() for part in map(_flat, tensors)])
        dist.all_reduce(flat)
        flat.div_(self.size)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        shaped = [part if t.ndim == 1 else part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]
        torch._foreach_copy_(list(tensors), shaped)

    def gather(self, value: Any) -> list[Any]:
        """What every process holds, in the order of ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def tell(self, value: Any) -> Any:
        """What the leader holds."""
        return self.gather(value if self.leads else None)[0]


def _flat(tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim == 1 else tensor.reshape(-1)


def average_gradients(team: Team, parameters: Iterable[Tensor], extra: Sequence[Tensor] = ()) -> None:
    """Make every gradient, and every extra tensor, the mean over all processes."""
    team.average([p.grad for p in parameters if p.grad is not None] + list(extra))


@contextmanager
def join(device: str) -> Iterator[Team]:
    """Join the processes that torchrun started, if it did: gloo on the CPU, nccl on GPUs; device as in the recipe."""
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        yield Team()
        return
    team = Team(_number("RANK", 0), size, _number("LOCAL_RANK", 0))
    on_gpu = device != "cpu" and torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    try:
        yield team
    finally:
        dist.destroy_process_group()


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdigit():
        raise UsageError(f"environment variable {name}={text!r}: expected a number, as torchrun sets it")
    return int(text)
