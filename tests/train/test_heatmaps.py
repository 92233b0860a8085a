"""Adaptive Wing: value and gradient against the published formula, the knee, masks, and a network that learns by it."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from test_loop import train
from tiny import Teller, tiny

from runtime.errors import UsageError
from runtime.spec import ModelSpec
from train.heatmaps import adaptive_wing, gaussians
from train.losses import AdaptiveWing, Extras, make_loss
from train.models.hrnet import centre_of_mass, places
from train.objective import make_objective
from train.recipe import recipe_from

SIDE, SIZE = 16, 64
OPTIONS = (14.0, 0.5, 1.0, 2.1)


def by_the_paper(
    value: float, truth: float, omega: float, theta: float, eps: float, alpha: float
) -> tuple[float, float]:
    """Value and slope in the value, written down from the formula, in float64."""
    size, sign, power = abs(value - truth), math.copysign(1, value - truth), alpha - truth
    a = omega * (1 / (1 + (theta / eps) ** power)) * power * (theta / eps) ** (power - 1) / eps
    c = theta * a - omega * math.log(1 + (theta / eps) ** power)
    if size >= theta:
        return a * size - c, a * sign
    slope = omega / (1 + (size / eps) ** power) * power * (size / eps) ** (power - 1) / eps if size else 0.0
    return omega * math.log(1 + (size / eps) ** power), slope * sign


@pytest.mark.parametrize("options", [OPTIONS, (10.0, 0.3, 0.7, 2.5)])
def test_value_and_gradient(options: tuple[float, ...]) -> None:
    pairs = [(v, t) for t in (0.0, 0.2, 0.5, 1.0) for v in (-0.7, -0.1, 0.0, 0.05, 0.2, 0.49, 0.5, 0.51, 1.0, 1.3)]
    value = torch.tensor([v for v, _ in pairs], dtype=torch.float64, requires_grad=True)
    truth = torch.tensor([t for _, t in pairs], dtype=torch.float64)
    found = adaptive_wing(value, truth, *options)
    (slopes,) = torch.autograd.grad(found.sum(), value)
    expected = [by_the_paper(v, t, *options) for v, t in pairs]
    np.testing.assert_allclose(found.detach().numpy(), [e[0] for e in expected], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(slopes.numpy(), [e[1] for e in expected], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("truth", [0.0, 0.3, 1.0])
def test_the_knee_has_one_value_and_one_slope(truth: float) -> None:
    around = torch.tensor([truth + 0.5 - 1e-9, truth + 0.5 + 1e-9], dtype=torch.float64, requires_grad=True)
    value = adaptive_wing(around, torch.full((2,), truth, dtype=torch.float64))
    (slope,) = torch.autograd.grad(value.sum(), around)
    assert value[0].item() == pytest.approx(value[1].item(), rel=1e-7)
    assert slope[0].item() == pytest.approx(slope[1].item(), rel=1e-7)


def test_gaussians_peak_at_their_points() -> None:
    centres = torch.tensor([[[3.0, 5.0], [7.25, 2.5]]], dtype=torch.float64)
    maps = gaussians(centres, SIDE, 1.5)
    assert maps[0, 0, 5, 3] == 1
    assert maps[0, 1, 2, 7].item() == pytest.approx(math.exp(-(0.25**2 + 0.5**2) / (2 * 1.5**2)))


def logits_of(target: torch.Tensor, sigma: float = 1.5) -> torch.Tensor:
    """Maps whose softmax is the Gaussian itself."""
    return torch.log(gaussians(target * (SIDE / SIZE) - 0.5, SIDE, sigma) + 1e-300)


def inner_points() -> torch.Tensor:
    return 20 + 24 * torch.rand(2, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_zero_loss_means_that_the_centre_of_mass_is_the_point() -> None:
    target, loss = inner_points(), AdaptiveWing(input_size=SIZE)
    maps = logits_of(target)
    assert loss(target, target, None, Extras(heatmaps=maps)).item() < 1e-3
    found = centre_of_mass(maps, places(SIDE).double()).view(2, 5, 2) * SIZE
    assert (found - target).abs().max() < 0.02
    assert loss(target, target, None, Extras(heatmaps=logits_of(target + 4))).item() > 0.05


def test_weights_and_masks_act_on_maps() -> None:
    target, loss = inner_points(), AdaptiveWing(input_size=SIZE)
    maps = (logits_of(target + 3).clamp_min(-9)).requires_grad_()

    def slope(truth: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        return torch.autograd.grad(loss(target, truth, weights, Extras(heatmaps=maps)), maps)[0]

    plain, weights = slope(target, None), torch.ones(2, 5, dtype=torch.float64)
    weights[0, 1], weights[1, 3] = 0.5, 0.25
    torch.testing.assert_close(slope(target, weights), plain * weights[..., None, None])
    weights[0, 1] = 0
    masked = target.clone()
    masked[0, 1] = math.nan
    assert torch.equal(slope(target, weights), slope(masked, weights))
    assert (slope(masked, weights)[0, 1] == 0).all() and slope(masked, weights).isfinite().all()
    outside = target.clone()
    outside[1, 0] = torch.tensor([-3.0, 30.0])
    assert (slope(outside, None)[1, 0] == 0).all()


def test_the_mask_weighs_the_face_of_the_map() -> None:
    target = torch.full((1, 1, 2), 32.0, dtype=torch.float64)
    maps = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.float64)
    centres = target * (SIDE / SIZE) - 0.5
    ratio = AdaptiveWing(mask=10).per_cell(maps, centres) / AdaptiveWing(mask=0).per_cell(maps, centres)
    assert ratio[0, 0, 0, 0] == 1 and ratio[0, 0, 7, 7] == 11
    reach = 1.5 * math.sqrt(2 * math.log(5)) + 1
    assert 0.6 * math.pi * reach**2 < (ratio > 5).sum() < 1.5 * math.pi * reach**2


def test_the_coordinates_may_count_too() -> None:
    target = inner_points()
    extras = Extras(heatmaps=logits_of(target))
    both = make_loss("awing", coords=0.5, base="l2", input_size=float(SIZE))
    only = make_loss("awing", input_size=float(SIZE))
    pred = target + 2
    assert (both(pred, target, None, extras) - only(pred, target, None, extras)).item() == pytest.approx(0.5 * 8)


def test_descent_brings_the_points_home() -> None:
    target = inner_points()
    maps = torch.zeros(2, 5, SIDE, SIDE, dtype=torch.float64, requires_grad=True)
    optimizer, loss = torch.optim.Adam([maps], lr=0.2), AdaptiveWing(input_size=SIZE)
    for _ in range(150):
        optimizer.zero_grad()
        loss(target, target, None, Extras(heatmaps=maps)).backward()
        optimizer.step()
    found = centre_of_mass(maps.detach(), places(SIDE).double()).view(2, 5, 2) * SIZE
    assert (found - target).abs().max() < 1.0


def test_coordinate_networks_are_refused() -> None:
    recipe = recipe_from({"loss": {"name": "awing"}})
    with pytest.raises(UsageError, match="ghostone has none, networks with them: hrnet-w18"):
        make_objective(recipe, ModelSpec("ghostone"))
    objective = make_objective(recipe, ModelSpec("hrnet-w18", input_size=SIZE))
    assert objective.heatmaps and not make_objective(recipe_from({}), ModelSpec("ghostone")).heatmaps
    assert objective.points.input_size == SIZE
    with pytest.raises(UsageError, match="needs a network with heatmaps"):
        make_loss("awing")(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2))


def test_a_network_trains_by_it(tmp_path: Path) -> None:
    recipe = tiny(
        model={"architecture": "hrnet-w18", "width": 0.06},
        loss={"name": "awing", "option": ["coords=0.1", "sigma=1"]},
        data={"train": ["synth:8@1"], "val": ["synth:4@2"], "batch_size": 8},
        schedule={"epochs": 2},
        run={"channels_last": True},
    )
    teller = Teller()
    train(recipe, tmp_path / "run", watch=teller)
    losses = [moment.loss for moment in teller.moments]
    assert len(losses) == 2 and all(0 < loss < 1000 for loss in losses) and losses[0] != losses[1]


@pytest.mark.parametrize("options", [{"alpha": 1.0}, {"mask": -1.0}, {"sigma": 0.0}, {"base": "awing"}])
def test_impossible_options(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"loss option|base must be another"):
        make_loss("awing", **options)
