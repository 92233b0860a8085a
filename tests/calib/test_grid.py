"""Rounding by the kernels in C: the numbers of plain torch, forward to the bit, for any length and memory order."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from calib import grid
from calib.fake import WEIGHT_LIMIT, channel_view, round_to_grid
from calib.grid import rounded, rounded_weight
from train.models.kernels import FLAGS, GRID, library

pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler for the training kernels")


@pytest.fixture
def without_kernels() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "library", lambda: None)
        yield


def gradients(result: Tensor, *leaves: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    return list(torch.autograd.grad(result, leaves, torch.randn(result.shape)))


def samples(*shape: int) -> Tensor:
    """Values of which many lie outside the range, on its edge, or exactly between two steps."""
    torch.manual_seed(sum(shape))
    x = torch.randn(shape) * 8
    flat = x.view(-1)
    flat[: min(5, len(flat))] = torch.tensor([12.5, -12.5, 12.75, 0.125, -1.375])[: min(5, len(flat))]
    return x


@pytest.mark.parametrize("shape", [(1,), (7,), (16,), (1029,), (3, 5, 7, 9), (2, 16, 8, 8)])
@pytest.mark.parametrize("low", [-50, 0])
@pytest.mark.parametrize("last", [False, True])
def test_activations(shape: tuple[int, ...], low: int, last: bool) -> None:
    x = samples(*shape)
    if last and len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    step = torch.tensor([1.0, 0.25, 2.0])[1].requires_grad_()
    found, wanted = rounded(x, step, low, 50), round_to_grid(x, step, low, 50)
    assert torch.equal(found, wanted)
    for mine, plain in zip(gradients(found, x, step), gradients(wanted, x, step), strict=True):
        assert torch.allclose(mine, plain, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 1, 3, 3), (8, 5, 1, 1), (4, 7, 3, 3), (1, 1, 1, 1)])
@pytest.mark.parametrize("last", [False, True])
def test_weights(shape: tuple[int, ...], last: bool) -> None:
    counted = samples(*shape) * 20
    if last:
        counted = counted.contiguous(memory_format=torch.channels_last)
    counted.requires_grad_()
    unit = torch.rand(shape[0]) + 0.5
    step = (unit * (torch.rand(shape[0]) + 0.5)).requires_grad_()
    found = rounded_weight(counted, unit, step)
    view = channel_view(step, counted)
    wanted = round_to_grid(counted * channel_view(unit, counted), view, -WEIGHT_LIMIT, WEIGHT_LIMIT)
    assert torch.equal(found, wanted)
    for mine, plain in zip(gradients(found, counted, step), gradients(wanted, counted, step), strict=True):
        assert torch.allclose(mine, plain, rtol=1e-5, atol=1e-4 * float(plain.abs().max() + 1))


def test_without_a_compiler_it_is_plain_torch(without_kernels: None) -> None:
    x, step = samples(64).requires_grad_(), torch.tensor(0.25)
    assert rounded(x, step, -50, 50).grad_fn.name() == "_RoundToGridBackward"  # type: ignore[union-attr]
    assert rounded(x.double(), step.double(), -50, 50).dtype == torch.float64


def test_what_is_not_a_number_stays_so() -> None:
    """A diverging run must be seen, not clamped away."""
    x = torch.tensor([float("nan"), float("inf"), -float("inf")] * 11)
    found = rounded(x, torch.tensor(0.5), -128, 127)
    assert torch.isnan(found[::3]).all() and (found[1::3] == 63.5).all() and (found[2::3] == -64).all()


def test_the_source_is_clean(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no compiler to ask")
    strict = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-pedantic", "-Werror"]
    done = subprocess.run(
        [compiler, *FLAGS, *strict, str(GRID), "-o", str(tmp_path / "grid.so")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
