"""Fusing: every BN, and every parallel branch, becomes part of one convolution. Sums in float64, rounded once."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.errors import InputError, UsageError
from runtime.files import sha256_file
from runtime.spec import ModelSpec
from train.checkpoint import Checkpoint, load_checkpoint, model_of, refuse_misfit, save_checkpoint
from train.models.folded import identity_kernel
from train.models.mobileone import FusedBlock, MobileOneBlock
from train.models.zoo import build

Norm = nn.BatchNorm1d | nn.BatchNorm2d
Weighted = nn.Conv2d | nn.Linear
Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class Branch:
    """One linear branch of a block: a kernel of the block's full size, and the norm behind it."""

    name: str
    kernel: Tensor
    norm: Norm
    bias: Tensor | None = None

    def folded(self) -> tuple[Tensor, Tensor]:
        """Kernel and bias in float64, the norm folded in."""
        kernel, scale, mean, shift = self.kernel.double(), self.scale(), self.mean(), self.shift()
        offset = -mean if self.bias is None else self.bias.double() - mean
        return kernel * scale.view(-1, *[1] * (kernel.dim() - 1)), shift + offset * scale

    def scale(self) -> Tensor:
        """What the norm multiplies with: gamma over the running standard deviation."""
        gamma = self.norm.weight.double() if self.norm.affine else torch.ones(len(self.kernel), dtype=torch.float64)
        return gamma / torch.sqrt(_double(self.norm.running_var) + self.norm.eps)

    def mean(self) -> Tensor:
        """What the norm takes away first: the running mean."""
        return _double(self.norm.running_mean)

    def shift(self) -> Tensor:
        """What the norm adds at last: beta."""
        return self.norm.bias.double() if self.norm.affine else torch.zeros(len(self.kernel), dtype=torch.float64)


def _double(value: Tensor | None) -> Tensor:
    if value is None:
        raise InputError("cannot fuse a BN that keeps no running statistics")
    return value.double()


def fusable(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Blocks that fusing replaces: MobileOne blocks, and sequences with a BN right behind a convolution or linear."""
    found: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{outer}.") for outer, block in found if isinstance(block, MobileOneBlock)):
            continue
        if isinstance(module, MobileOneBlock) or (isinstance(module, nn.Sequential) and list(_pairs(module))):
            found.append((name, module))
    return found


def _pairs(sequence: nn.Sequential) -> Iterator[tuple[str, Weighted, str, Norm]]:
    """Neighbours (layer, BN) of a sequence, with their names."""
    items = list(sequence.named_children())
    for (first, layer), (second, norm) in pairwise(items):
        if (isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)) or (
            isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d)
        ):
            yield first, layer, second, norm


def branches_of(block: nn.Module) -> list[Branch]:
    """The branches of a fusable block; of a sequence, its first pair."""
    if isinstance(block, MobileOneBlock):
        convs = [Branch(f"rbr_conv.{i}", b.conv.weight, b.bn) for i, b in enumerate(block.conv_branches)]
        like = convs[0].kernel
        if block.rbr_scale is not None:
            padded = F.pad(block.rbr_scale.conv.weight, (block.kernel // 2,) * 4)
            convs.append(Branch("rbr_scale", padded, block.rbr_scale.bn))
        if block.rbr_skip is not None:
            convs.append(Branch("rbr_skip", identity_kernel(like), block.rbr_skip))
        return convs
    if isinstance(block, nn.Sequential):
        for first, layer, second, norm in _pairs(block):
            return [Branch(f"{first}+{second}", layer.weight, norm, layer.bias)]
    raise UsageError(f"a {type(block).__name__} has no branches to fuse")


def summed(branches: Sequence[Branch]) -> tuple[Tensor, Tensor]:
    """Kernel and bias of the branches' sum, in float64."""
    kernels, biases = zip(*[branch.folded() for branch in branches], strict=True)
    return torch.stack(kernels).sum(0), torch.stack(biases).sum(0)


def refuse_unready(model: nn.Module, *, known_good: bool = False) -> None:
    """Refuse BNs that never saw data or hold impossible statistics, and say in which block.

    `known_good` vouches for statistics that were set without training, as by an import.
    """
    for name, norm in model.named_modules():
        if not isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            continue
        if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
            raise InputError(f"block {name}: its BN keeps no running statistics; it cannot be fused")
        if not known_good and int(norm.num_batches_tracked) == 0:
            raise InputError(
                f"block {name}: its BN has never seen data, so its statistics mean nothing; train the model first"
            )
        values: dict[str, Tensor] = {"running mean": norm.running_mean, "running variance": norm.running_var}
        if norm.affine:
            values |= {"gamma": norm.weight.detach(), "beta": norm.bias.detach()}
        for what, value in values.items():
            if not bool(torch.isfinite(value).all()):
                channel = int((~torch.isfinite(value)).nonzero()[0])
                raise InputError(
                    f"block {name}: {what} of channel {channel} is {float(value[channel])}; "
                    "the training diverged, use an earlier checkpoint"
                )
        if bool((norm.running_var + norm.eps <= 0).any()):
            raise InputError(f"block {name}: its running variance is negative; the file is damaged")


def fuse_module(model: nn.Module, pairs: Sequence[tuple[str, str]] = (), *, known_good: bool = False) -> nn.Module:
    """Fuse a copy of any module: MobileOne blocks, sequences with BN behind a layer, and named attribute pairs.

    `pairs` names layers and BNs that the module calls one after the other without a sequence around them, such as
    ("conv1", "bn1"); the BN becomes an identity. The copy is in eval mode and its parameters can be trained again.
    """
    refuse_unready(model, known_good=known_good)
    with torch.no_grad():
        # What a copy meets in its memo it takes from there: the blocks are replaced, their branches never copied.
        memo: dict[int, Any] = {id(block): _fused(block) for _, block in fusable(model)}
        result: nn.Module = copy.deepcopy(model, memo).eval()
        for first, second in pairs:
            layer, norm = _member(result, first), _member(result, second)
            if not isinstance(layer, (nn.Conv2d, nn.Linear)) or not isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
                raise UsageError(f"pair {first}, {second}: expected a convolution or linear layer and a BN")
            _replace(result, first, _with(layer, *Branch(first, layer.weight, norm, layer.bias).folded()))
            _replace(result, second, nn.Identity())
    return result.requires_grad_(True)


def _member(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise UsageError(f"pair: the model has no part {name!r}") from error


def _fused(block: nn.Module) -> nn.Module:
    """The plain module that does what a fusable block does."""
    if isinstance(block, MobileOneBlock):
        branches = branches_of(block)
        outputs, per_group = branches[0].kernel.shape[:2]
        fused = FusedBlock(per_group * block.groups, outputs, block.kernel, stride=block.stride, groups=block.groups)
        fused.activation = copy.deepcopy(block.activation)
        fused.reparam_conv = _filled(fused.reparam_conv, *summed(branches), branches[0].kernel)
        return fused.train(block.training)
    if not isinstance(block, nn.Sequential):
        raise UsageError(f"a {type(block).__name__} has no branches to fuse")
    layers = {name: copy.deepcopy(layer) for name, layer in block.named_children()}
    for first, layer, second, norm in _pairs(block):
        layers[first] = _with(layer, *Branch(first, layer.weight, norm, layer.bias).folded())
        del layers[second]
    numbered = all(name.isdigit() for name in layers)
    rest = nn.Sequential(*layers.values()) if numbered else nn.Sequential(OrderedDict(layers))
    return rest.train(block.training)


def _with(layer: Weighted, weight: Tensor, bias: Tensor) -> Weighted:
    """A layer of the same geometry, with bias."""
    if isinstance(layer, nn.Linear):
        return _filled(nn.Linear(layer.in_features, layer.out_features), weight, bias, layer.weight)
    twin = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
        layer.groups,
        padding_mode=layer.padding_mode,
    )
    return _filled(twin, weight, bias, layer.weight)


def _filled(layer: Layer, weight: Tensor, bias: Tensor, like: Tensor) -> Layer:
    layer.to(like.device, like.dtype)
    layer.weight.copy_(weight)
    if layer.bias is not None:
        layer.bias.copy_(bias)
    return layer


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def fuse(model: nn.Module, spec: ModelSpec, *, known_good: bool = False) -> nn.Module:
    """Fuse a copy of a zoo model into the plain network of its spec, in eval mode; a fused model is only copied."""
    state = fuse_module(model, known_good=known_good).state_dict()
    parameter = next(model.parameters())
    result = build(spec, fused=True).to(parameter.device, parameter.dtype)
    refuse_misfit(result.state_dict(), state, "fused model")
    result.load_state_dict(state, strict=True)
    return result.eval()


def fuse_checkpoint(path: Path | str, out: Path | str, *, known_good: bool = False) -> Checkpoint:
    """Fuse a checkpoint file into another one that names its parent by hash; averaged weights are used if present."""
    checkpoint = load_checkpoint(path)
    if checkpoint.kind == "fused":
        raise UsageError(f"{path}: already a fused checkpoint")
    model = model_of(checkpoint, str(path))
    try:
        fused = fuse(model, checkpoint.spec, known_good=known_good)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    result = Checkpoint(
        kind="fused",
        spec=checkpoint.spec,
        model=fused.state_dict(),
        parent=sha256_file(path),
        recipe=checkpoint.recipe,
        progress=checkpoint.progress,
    )
    save_checkpoint(out, result)
    return result
