"""What is probably wrong with fused weights that are not what they should be: the usual mistakes, tried one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from export.fuse import Branch

_CLOSE = 1e-5
_HALF = 2.0**-10
_FEW = 0.01


def diagnose(branches: Sequence[Branch], kernel: Tensor, bias: Tensor, weight: Tensor, offset: Tensor) -> str:
    """Compare fused `weight` and `offset` with the right `kernel` and `bias`, all in float64."""
    if not bool(torch.isfinite(weight).all() and torch.isfinite(offset).all()):
        return "the fused weights hold NaN or infinity"
    if _near(weight, kernel):
        return _of_bias(bias, offset, kernel, weight)
    parts = {branch.name: branch.folded()[0] for branch in branches}
    few = int(((weight - kernel).abs() > _CLOSE * kernel.abs().max()).sum())
    if few <= max(1, int(_FEW * kernel.numel())):
        return "single weights differ: the file was changed or damaged"
    if len(parts) > 1:
        for name, part in parts.items():
            if _near(weight, kernel - part):
                return f"branch {name} is missing"
            if _near(weight, kernel + part):
                return f"branch {name} is counted twice"
            if name in ("rbr_scale", "rbr_skip") and _moved(weight - (kernel - part), part):
                return f"branch {name} is not on the kernel's centre"
    for says, holds in _WHOLE.items():
        if holds(weight, kernel):
            return says
    if bool((weight - kernel).abs().max() <= _HALF * kernel.abs().max()):
        return "everything is off in the fourth digit: rounded to float16"
    if _weighted(weight, list(parts.values())):
        return "branches are scaled wrongly: gamma, variance or eps is wrong, stale, or of another branch"
    return "wrong branch or block, stale BN statistics, or a model in train mode"


def _near(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= _CLOSE * b.abs().max())


def _of_bias(bias: Tensor, offset: Tensor, kernel: Tensor, weight: Tensor) -> str:
    wrong = (offset - bias).abs() > _CLOSE * bias.abs().max()
    if int(wrong.sum()) > len(bias) // 4:
        return "kernels agree, biases do not: mean or beta is missing, stale, or has the wrong sign"
    few = ((weight - kernel).abs() > 2**-23 * kernel.abs()).sum() + (
        (offset - bias).abs() > 2**-23 * bias.abs()
    ).sum() <= 1
    if few:
        return "a single value differs: the file was changed or damaged"
    return "values differ in their last digits: rounded more than once, or in a smaller format"


def _moved(rest: Tensor, part: Tensor) -> bool:
    """The single tap of a 1x1 branch has gone elsewhere."""
    if part.shape[-1] == 1 or not bool(part.any()):
        return False
    alone = rest.abs().amax((-2, -1)), rest.abs().sum((-2, -1))
    return _near(*alone) and _near(alone[0], part.abs().amax((-2, -1)))


def _weighted(weight: Tensor, parts: list[Tensor]) -> bool:
    """Each channel's kernel is some weighting of its branches' kernels."""
    columns = torch.stack([part.flatten(1) for part in parts], 2)
    if columns.shape[1] <= columns.shape[2]:
        return False
    wanted = weight.flatten(1)[:, :, None]
    # Single-tap branches may coincide, so the pseudo-inverse rather than a plain solve.
    rest = wanted - columns @ (torch.linalg.pinv(columns) @ wanted)
    return bool(rest.abs().max() <= 100 * _CLOSE * weight.abs().max())


def _reordered(weight: Tensor, kernel: Tensor) -> bool:
    """The rows are there, in another order."""
    rows, wanted = weight.flatten(1), kernel.flatten(1)
    apart = torch.cdist(rows, wanted, p=float("inf"))
    return bool(apart.min(1).values.max() <= _CLOSE * kernel.abs().max())


_WHOLE: dict[str, Callable[[Tensor, Tensor], bool]] = {
    "kernels are transposed": lambda w, k: k.shape[-1] > 1 and _near(w, k.transpose(-1, -2)),
    "kernels are mirrored": lambda w, k: k.shape[-1] > 1 and _near(w, k.flip(-1, -2)),
    "output channels are in another order": _reordered,
}
