"""A wide network that begins as a trained narrow one: every channel becomes several, and the landmarks stay.

All copies of a channel carry the same values. Who reads them takes from each copy a random share, and the shares add
up to one, so that the wide network computes what the narrow one computed while no two copies are taught alike.
(Net2Net, T. Chen and others 2016, for the widths of this zoo.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from runtime.errors import InputError
from runtime.spec import ModelSpec
from train.checkpoint import Checkpoint, model_of

UNEVEN = 0.8
"""How far apart the shares of copies lie: 0 is all alike, 1 from nothing to double."""
LIMIT = 1e-4
"""Largest difference between landmarks of both networks that rounding explains, as a part of the input's side."""


def may_grow(narrow: ModelSpec, wide: ModelSpec) -> bool:
    """Whether the specs describe one network in two widths, the second wider."""
    alike = all(
        getattr(narrow, name) == getattr(wide, name) for name in ("architecture", "points", "input_size", "branches")
    )
    return alike and narrow.width < wide.width


def grow(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], seed: int, where: str) -> dict[str, Tensor]:
    """The narrow network's weights in the shapes that the wide one wants."""
    chance = torch.Generator().manual_seed(seed)
    grown = {}
    for name, shape in ((name, tensor.shape) for name, tensor in wanted.items()):
        value = weights.get(name)
        if value is None or value.dim() != len(shape) or not _multiplies(value.shape, shape):
            has = "nothing of that name" if value is None else f"{tuple(value.shape)}"
            raise InputError(
                f"{where}: cannot be grown: {name} is {has} there and {tuple(shape)} in the wider network; "
                "every layer needs a whole multiple of its channels, as from width 0.25 to 0.5, 0.75 or 1"
            )
        for axis, (new, old) in enumerate(zip(shape, value.shape, strict=True)):
            copies = new // old
            value = value.repeat_interleave(copies, axis)
            if axis == 1 and copies > 1:
                value = value * _shares(value, copies, chance)
        grown[name] = value
    return grown


def _multiplies(narrow: Sequence[int], wide: Sequence[int]) -> bool:
    return all(old > 0 and new % old == 0 for old, new in zip(narrow, wide, strict=True))


def _shares(value: Tensor, copies: int, chance: torch.Generator) -> Tensor:
    """What each output takes of each copy of an input; the shares of the copies add up to one."""
    outputs, inputs = value.shape[:2]
    drawn = 1 + UNEVEN * (2 * torch.rand(outputs, inputs // copies, copies, generator=chance, dtype=torch.float64) - 1)
    shares = (drawn / drawn.sum(2, keepdim=True)).reshape(outputs, inputs, *[1] * (value.dim() - 2))
    return shares.to(value.dtype)


def prove_grown(narrow: Checkpoint, wide: nn.Module, faces: NDArray[np.uint8], where: str) -> float:
    """The largest difference between the landmarks of both networks on faces; refuses what rounding cannot explain."""
    images = torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 255
    device, mode = next(wide.parameters()).device, wide.training
    wide.eval()
    with torch.inference_mode():
        before, after = model_of(narrow, where)(images), wide(images.to(device)).cpu()
    wide.train(mode)
    worst = float((before - after).abs().max())
    if not worst <= LIMIT:
        raise InputError(
            f"{where}: a wider {narrow.spec.architecture} does not compute the same when its channels are multiplied "
            f"(landmarks differ by {worst:.2g} of the crop's side); start it without --init"
        )
    return worst
