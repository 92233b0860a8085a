"""The weighted layers of a family model in PyTorch, with one name for each whatever form the model is in."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import nn

from runtime.spec import ModelSpec
from train.models.mobileone import FusedBlock, MobileOneBlock
from train.models.zoo import ZOO, build


def weighted_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Name and module of each convolution block (with its activation) and linear layer, in running order.

    >>> with torch.device("meta"):
    ...     both = [build(ModelSpec("ghostone"), fused=fused) for fused in (False, True)]
    >>> [name for name, _ in weighted_blocks(both[0])] == [name for name, _ in weighted_blocks(both[1])]
    True
    """
    found: list[tuple[str, nn.Module]] = []
    inside: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(prefix) for prefix in inside):
            continue
        sequence = isinstance(module, nn.Sequential) and isinstance(module[0], nn.Conv2d)
        if sequence or isinstance(module, (MobileOneBlock, FusedBlock, nn.Linear, nn.Conv2d)):
            found.append((name, module))
            inside.append(name + ".")
    return found


@lru_cache
def block_names(architecture: str) -> tuple[str, ...]:
    """Names of an architecture's weighted layers in running order; empty when it is none of ours."""
    if architecture not in ZOO:
        return ()
    with torch.device("meta"):
        return tuple(name for name, _ in weighted_blocks(build(ModelSpec(architecture), fused=True)))
