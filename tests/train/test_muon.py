"""Muon's step against its definition, and AdamW's for all that Muon does not move."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from runtime.layouts import WFLW98
from runtime.spec import ModelSpec
from train.form import PlainForm
from train.models.zoo import build
from train.muon import RMS, Muon, dense_kernels, orthogonal
from train.recipe import OptimizerRecipe
from train.state import make_optimizer


@pytest.mark.parametrize("shape", [(8, 8), (5, 40), (40, 5), (1, 9), (64, 27)])
def test_orthogonal_keeps_directions_and_evens_their_sizes(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(sum(shape))) * 7
    turned = orthogonal(matrices)
    sizes = torch.linalg.svdvals(turned)
    assert sizes.min() > 0.6 and sizes.max() < 1.25
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    nearest = u @ v
    cosine = (turned * nearest).sum((1, 2)) / (turned.norm(dim=(1, 2)) * nearest.norm(dim=(1, 2)))
    assert cosine.min() > 0.97


def test_a_zero_gradient_moves_nothing() -> None:
    assert not orthogonal(torch.zeros(1, 4, 6)).any()


def _kernel() -> nn.Parameter:
    return nn.Parameter(torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1)))


def test_steps_follow_the_definition() -> None:
    weight, rate, momentum, decay = _kernel(), 0.01, 0.9, 0.1
    expected, mean = weight.detach().double().clone(), torch.zeros(6, 4, 3, 3).double()
    optimizer = Muon([{"params": [weight], "weight_decay": decay, "orthogonal": True}], rate, momentum)
    draw = torch.Generator().manual_seed(2)
    for _ in range(3):
        gradient = torch.randn(6, 4, 3, 3, generator=draw)
        weight.grad = gradient.clone()
        optimizer.step()
        mean = momentum * mean + gradient.double()
        ahead = (gradient.double() + momentum * mean).reshape(6, 36)
        step = orthogonal(ahead[None])[0].reshape(6, 4, 3, 3)
        expected = expected * (1 - rate * decay) - rate * RMS * math.sqrt(36) * step
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_the_size_of_a_step_is_that_of_adamw() -> None:
    weight = nn.Parameter(torch.zeros(48, 32, 1, 1))
    weight.grad = torch.randn(48, 32, 1, 1, generator=torch.Generator().manual_seed(3)) * 1e-3
    Muon([{"params": [weight], "orthogonal": True}], 0.01, 0.95).step()
    assert 0.1 < float(weight.detach().square().mean().sqrt()) / 0.01 < 0.3


def test_the_other_weights_take_the_steps_of_adamw() -> None:
    ours, theirs = nn.Parameter(torch.ones(5, 3)), nn.Parameter(torch.ones(5, 3))
    muon = Muon([{"params": [ours], "weight_decay": 0.05}], 0.02, 0.95)
    adamw = torch.optim.AdamW([theirs], lr=0.02, weight_decay=0.05, fused=True)
    draw = torch.Generator().manual_seed(4)
    for _ in range(4):
        ours.grad = torch.randn(5, 3, generator=draw)
        theirs.grad = ours.grad.clone()
        muon.step()
        adamw.step()
    assert torch.equal(ours, theirs)


def test_weights_without_a_gradient_stay() -> None:
    used, unused = _kernel(), _kernel()
    used.grad = torch.ones_like(used)
    before = unused.detach().clone()
    Muon([{"params": [used, unused], "orthogonal": True, "weight_decay": 0.1}], 0.01, 0.9).step()
    assert torch.equal(unused, before) and not torch.equal(used, before)


def test_depthwise_kernels_heads_and_norms_are_left_to_adamw() -> None:
    spec = ModelSpec(architecture="ghostone", width=0.25, points=98, input_size=64, branches=1, layout=WFLW98.name)
    model, recipe = build(spec), OptimizerRecipe(name="muon")
    turned = {id(kernel) for kernel in dense_kernels(model)}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            assert (id(module.weight) in turned) == (module.groups == 1), name
        elif isinstance(module, nn.Linear):
            assert id(module.weight) not in turned
    optimizer = make_optimizer(PlainForm(spec).groups(model, recipe), recipe)
    members = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in model.parameters())
    dense, others, norms = optimizer.param_groups
    assert {id(p) for p in dense["params"]} == turned
    assert all(p.ndim == 1 for p in norms["params"]) and norms["weight_decay"] == 0
    assert all(p.ndim > 1 for p in others["params"]) and others["weight_decay"] > 0


def test_the_state_comes_back() -> None:
    def run(steps: range, weight: Tensor, optimizer: Muon) -> None:
        for i in steps:
            weight.grad = torch.full_like(weight, float(i + 1)) + torch.arange(weight.numel()).reshape(weight.shape)
            optimizer.step()

    groups = [{"weight_decay": 0.1, "orthogonal": True}]
    straight = _kernel()
    run(range(4), straight, Muon([{**groups[0], "params": [straight]}], 0.01, 0.9))
    first = _kernel()
    halfway = Muon([{**groups[0], "params": [first]}], 0.01, 0.9)
    run(range(2), first, halfway)
    second = nn.Parameter(first.detach().clone())
    resumed = Muon([{**groups[0], "params": [second]}], 0.01, 0.9)
    resumed.load_state_dict(halfway.state_dict())
    run(range(2, 4), second, resumed)
    assert torch.equal(straight, second)
