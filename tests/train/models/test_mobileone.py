"""Folded branches against the plain loop: values, gradients, running statistics, in float64 and float32."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from train.models import mobileone
from train.models.mobileone import BranchForm, MobileOneBlock, branch_form

SHAPES = [  # inputs, outputs, kernel, stride, groups, height, width
    (5, 8, 1, 1, 1, 9, 7),
    (6, 6, 1, 1, 1, 4, 4),
    (3, 8, 3, 2, 1, 12, 15),
    (6, 6, 3, 1, 1, 7, 7),
    (5, 5, 3, 1, 5, 9, 7),
    (5, 5, 3, 1, 5, 3, 3),
    (5, 5, 3, 1, 5, 1, 2),
    (5, 5, 3, 2, 5, 9, 8),
    (4, 4, 5, 1, 4, 8, 9),
    (4, 4, 5, 2, 4, 9, 8),
]


def hard_block(inputs: int, outputs: int, kernel: int, stride: int, groups: int, dtype: torch.dtype) -> MobileOneBlock:
    """A block whose BNs have negative, zero and large gammas and running statistics of every size."""
    block = MobileOneBlock(inputs, outputs, kernel, stride=stride, groups=groups, branches=3).to(dtype)
    for norm in block.norms():
        nn.init.normal_(norm.weight, std=2)
        nn.init.normal_(norm.bias, std=3)
        with torch.no_grad():
            norm.weight[0] = 0
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.normal_(std=10)
            norm.running_var.copy_(10 ** torch.empty_like(norm.running_var).uniform_(-3, 3))
    return block


def passes(block: MobileOneBlock, x: Tensor, form: BranchForm) -> dict[str, Tensor]:
    """Everything a training step and an evaluation make, by name."""
    block, x = copy.deepcopy(block), x.clone().requires_grad_()
    with branch_form(form):
        y = block.train()(x)
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
        assert x.grad is not None
        result = {"output": y.detach(), "of x": x.grad}
        result |= {f"of {key}": p.grad for key, p in block.named_parameters() if p.grad is not None}
        result |= dict(block.named_buffers())
        result["in eval"] = block.eval()(x).detach()
    return result


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("mean", [0.0, 30.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_folded_equals_the_loop_in_float64(shape: tuple[int, ...], mean: float, channels_last: bool) -> None:
    torch.manual_seed(4)
    inputs, outputs, kernel, stride, groups, height, width = shape
    block = hard_block(inputs, outputs, kernel, stride, groups, torch.float64)
    x = torch.randn(3, inputs, height, width, dtype=torch.float64).relu() + mean
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    loop, folded = passes(block, x, "loop"), passes(block, x, "folded")
    assert loop.keys() == folded.keys()
    # A 1x1 depthwise branch keeps its normalised output when its weight grows, so its gradient is rounding alone:
    # the gradients of one block are measured against the largest of them.
    size = max(float(value.abs().max()) for key, value in loop.items() if key.startswith("of "))
    for key, value in loop.items():
        scale = size if key.startswith("of ") else float(value.double().abs().max())
        assert (folded[key] - value).abs().max() <= 1e-9 * scale, key


@pytest.mark.parametrize("mean", [0.0, 100.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_folded_is_as_good_as_the_loop_in_float32(shape: tuple[int, ...], mean: float) -> None:
    torch.manual_seed(5)
    inputs, outputs, kernel, stride, groups, height, width = shape
    block = hard_block(inputs, outputs, kernel, stride, groups, torch.float32)
    x = torch.randn(8, inputs, height, width).relu() + mean
    truth = passes(copy.deepcopy(block).double(), x.double(), "loop")
    loop, folded = passes(block, x, "loop"), passes(block, x, "auto")
    gradients = max(float(value.abs().max()) for key, value in truth.items() if key.startswith("of "))
    for key, value in truth.items():
        scale = gradients if key.startswith("of ") else float(value.double().abs().max())
        errors = [float((found[key] - value).abs().max()) / scale for found in (loop, folded)]
        assert errors[1] <= max(4 * errors[0], 2e-5 if mean == 0 else 1e-4), (
            f"{key}: folded {errors[1]:.1e}, loop {errors[0]:.1e}"
        )


def test_a_batch_that_folding_would_spoil_takes_the_loop() -> None:
    torch.manual_seed(6)
    block = MobileOneBlock(8, 8, 1, branches=2)
    line = torch.randn(16, 1, 6, 6) * torch.ones(1, 8, 1, 1)  # all channels alike: the covariance has rank one
    with torch.no_grad():
        block.conv_branches[0].conv.weight[0] = torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -1]).view(8, 1, 1)
    x = line + 1e-4 * torch.randn(16, 8, 6, 6)
    loop, auto = passes(block, x, "loop"), passes(block, x, "auto")
    assert all(torch.equal(loop[key], auto[key]) for key in loop if key not in ("in eval",))
    mobileone_limit = mobileone.MAX_LOSS
    try:
        mobileone.MAX_LOSS = float("inf")
        assert not torch.equal(passes(block, x, "auto")["output"], loop["output"])
    finally:
        mobileone.MAX_LOSS = mobileone_limit


def test_one_value_per_channel_is_refused_as_by_torch() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        MobileOneBlock(4, 4, 3, groups=4).train()(torch.randn(1, 4, 1, 1))


def test_frozen_norms_and_odd_eps_take_the_loop() -> None:
    torch.manual_seed(7)
    x = torch.randn(4, 6, 8, 8)
    for change in ("eval", "eps"):
        block = MobileOneBlock(6, 6, 3, groups=6, branches=2).train()
        norm = block.conv_branches[1].bn
        if change == "eval":
            norm.eval()
        else:
            norm.eps = 0.5
        twin = copy.deepcopy(block)
        with branch_form("loop"):
            wanted = twin(x)
        assert torch.equal(block(x), wanted)
        assert all(torch.equal(a, b) for a, b in zip(block.buffers(), twin.buffers(), strict=True))


def test_grouped_convolutions_take_the_loop() -> None:
    block = MobileOneBlock(8, 4, 3, groups=2, branches=2).train()
    assert block(torch.randn(2, 8, 6, 6)).shape == (2, 4, 6, 6)


def test_statistics_stay_in_full_precision_under_autocast() -> None:
    torch.manual_seed(8)
    block = MobileOneBlock(6, 6, 3, groups=6, branches=2).train()
    twin, x = copy.deepcopy(block), torch.randn(4, 6, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x)
    assert y.dtype == torch.bfloat16
    twin(x)
    for found, wanted in zip(block.buffers(), twin.buffers(), strict=True):
        assert found.dtype == wanted.dtype and torch.allclose(found, wanted)


def test_momentum_none_is_a_running_average() -> None:
    torch.manual_seed(9)
    block = MobileOneBlock(4, 6, 1, branches=2).double().train()
    for norm in block.norms():
        norm.momentum = None  # type: ignore[assignment]
    twin = copy.deepcopy(block)
    for _ in range(3):
        x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
        block(x)
        with branch_form("loop"):
            twin(x)
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(block.buffers(), twin.buffers(), strict=True))
