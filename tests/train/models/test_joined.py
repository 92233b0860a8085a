"""Joint passes against the plain loop: values, gradients, running statistics; the kernels must be no worse than torch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from train.models.kernels import library
from train.models.mobileone import BranchForm, MobileOneBlock, branch_form

pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler here, so training does without kernels")

SHAPES = [  # inputs, outputs, kernel, stride, groups, height, width
    (5, 8, 1, 1, 1, 9, 7),
    (6, 6, 1, 1, 1, 4, 4),
    (3, 8, 3, 2, 1, 12, 16),
    (4, 7, 3, 1, 1, 5, 6),
    (5, 5, 3, 1, 5, 9, 7),
    (5, 5, 3, 1, 5, 1, 2),
    (17, 17, 3, 1, 17, 4, 4),
    (5, 5, 3, 2, 5, 10, 8),
    (18, 18, 3, 2, 18, 2, 2),
]


def hard_block(inputs: int, outputs: int, kernel: int, stride: int, groups: int, linear: bool) -> MobileOneBlock:
    """A block whose BNs have negative, zero and large gammas and running statistics of every size."""
    block = MobileOneBlock(inputs, outputs, kernel, stride=stride, groups=groups, branches=1, linear=linear)
    for norm in block.norms():
        nn.init.normal_(norm.weight, std=2)
        nn.init.normal_(norm.bias)
        with torch.no_grad():
            norm.weight[0] = 0
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.normal_(std=3)
            norm.running_var.copy_(10 ** torch.empty_like(norm.running_var).uniform_(-3, 3))
    return block.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def passes(block: MobileOneBlock, x: Tensor, form: BranchForm, dtype: torch.dtype) -> dict[str, Tensor]:
    """Everything a training step makes, by name."""
    block, x = copy.deepcopy(block).to(dtype), x.to(dtype, memory_format=torch.channels_last).requires_grad_()
    with branch_form(form):
        y = block(x)
        (y * torch.linspace(-1, 1, y.numel(), dtype=dtype).view_as(y)).sum().backward()
    assert x.grad is not None
    result = {"output": y.detach(), "of x": x.grad}
    result |= {f"of {key}": p.grad for key, p in block.named_parameters() if p.grad is not None}
    return result | dict(block.named_buffers())


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("mean", [0.0, 30.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_joined_is_as_good_as_the_loop(shape: tuple[int, ...], mean: float, linear: bool) -> None:
    torch.manual_seed(6)
    inputs, outputs, kernel, stride, groups, height, width = shape
    block = hard_block(inputs, outputs, kernel, stride, groups, linear)
    x = torch.randn(4, inputs, height, width).relu() + mean
    exact = passes(block, x, "loop", torch.float64)
    loop, joined = (passes(block, x, form, torch.float32) for form in ("loop", "joined"))  # type: ignore[arg-type]
    assert exact.keys() == joined.keys()
    of = max(float(value.abs().max()) for key, value in exact.items() if key.startswith("of "))
    for key, value in exact.items():
        scale = of if key.startswith("of ") else float(value.double().abs().max())
        worst_of_loop = float((loop[key] - value).abs().max())
        assert float((joined[key] - value).abs().max()) <= 4 * worst_of_loop + 2e-6 * scale, key
