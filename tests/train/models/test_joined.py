"""Joint passes against the plain loop: values, gradients, running statistics; no worse than torch's own."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from runtime.spec import ModelSpec
from train.models.kernels import FLAGS, SOURCE, SWITCH, library
from train.models.mobileone import BranchForm, MobileOneBlock, branch_form
from train.models.zoo import build

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
    x = torch.randn(10, inputs, height, width).relu() + mean  # more images than are summed in one go
    exact = passes(block, x, "loop", torch.float64)
    loop, joined = (passes(block, x, form, torch.float32) for form in ("loop", "joined"))  # type: ignore[arg-type]
    assert exact.keys() == joined.keys()
    of = max(float(value.abs().max()) for key, value in exact.items() if key.startswith("of "))
    for key, value in exact.items():
        scale = of if key.startswith("of ") else float(value.double().abs().max())
        worst_of_loop = float((loop[key] - value).abs().max())
        assert float((joined[key] - value).abs().max()) <= 4 * worst_of_loop + 2e-6 * scale, key


def test_a_whole_net_is_as_good_as_by_the_loop() -> None:
    torch.manual_seed(7)
    net = build(ModelSpec("ghostone", 0.125, input_size=32, branches=1)).train().to(memory_format=torch.channels_last)
    images = torch.randn(6, 3, 32, 32)

    def run(form: BranchForm, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
        copied = copy.deepcopy(net).to(dtype)
        with branch_form(form):
            output = copied(images.to(dtype, memory_format=torch.channels_last))
            output.square().sum().backward()
        return output.detach(), [p.grad.double() for p in copied.parameters() if p.grad is not None]

    exact, loop, joined = run("loop", torch.float64), run("loop", torch.float32), run("joined", torch.float32)

    def gap(one: tuple[Tensor, list[Tensor]]) -> tuple[float, float]:
        slopes = [float((a - b).abs().max()) for a, b in zip(one[1], exact[1], strict=True)]
        return float((one[0] - exact[0]).abs().max()), max(slopes) / max(float(s.abs().max()) for s in exact[1])

    for ours, theirs in zip(gap(joined), gap(loop), strict=True):
        assert ours <= 2 * theirs + 1e-6


def test_what_the_kernels_cannot_do_goes_the_old_way() -> None:
    x = torch.randn(2, 6, 7, 9).to(memory_format=torch.channels_last)
    for change in (
        {"stride": 2},  # odd sides
        {"kernel": 5},
        {"branches": 2},
        {"groups": 3},
    ):
        options = {"kernel": 3, "stride": 1, "groups": 6, "branches": 1, **change}
        block = MobileOneBlock(6, 6, **options).train()
        assert block._joined(x) is None, change
    block = MobileOneBlock(6, 6, 3, groups=6, branches=1).train()
    assert block._joined(x) is not None
    assert block._joined(x.contiguous()) is None
    assert block._joined(x.double()) is None
    with branch_form("loop"):
        assert block._joined(x) is None
    assert block.eval()._joined(x) is None
    block.train().norms()[0].eval()
    assert block._joined(x) is None


def test_without_a_compiler_training_goes_on() -> None:
    code = (
        "import torch; from train.models.kernels import library; from train.models.mobileone import MobileOneBlock;"
        "assert library() is None;"
        "x = torch.randn(2, 4, 6, 6).to(memory_format=torch.channels_last);"
        "MobileOneBlock(4, 4, 3, groups=4, branches=1)(x).sum().backward()"
    )
    for change in ({SWITCH: "0"}, {"CC": "no-such-compiler"}, {"CC": "false"}):
        done = subprocess.run(
            [sys.executable, "-c", code], env={"PATH": "", "PYTHONPATH": ":".join(sys.path), **change}, check=False
        )
        assert done.returncode == 0, change


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_kernels_compile_without_a_warning(compiler: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} here")
    strict = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-pedantic", "-Werror"]
    done = subprocess.run(
        [compiler, *FLAGS, *strict, str(SOURCE), "-o", str(tmp_path / "block.so"), "-lm"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
