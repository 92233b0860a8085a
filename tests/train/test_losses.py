"""Losses: value and gradient against the formula in float64, knees, masks, weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from runtime.errors import UsageError
from runtime.layouts import WFLW98, Normaliser
from train.losses import Extras, PFLDLoss, angle_error, attribute_weight, make_loss, pose_loss

EYES = Normaliser("eyes", (0,), (1,))
SIZES = [0.0, 1e-9, 0.3, 1 - 1e-12, 1.0, 1 + 1e-12, 4.0, 10 - 1e-12, 10.0, 10 + 1e-12, 55.0]


def wing(d: float) -> tuple[float, float]:
    c = 10 - 10 * math.log(1 + 10 / 2)
    value = 10 * math.log(1 + abs(d) / 2) if abs(d) < 10 else abs(d) - c
    slope = (10 / (2 + abs(d)) if abs(d) < 10 else 1) * np.sign(d)
    return value, slope


def smooth_l1(d: float) -> tuple[float, float]:
    return (d * d / 2, d) if abs(d) < 1 else (abs(d) - 0.5, float(np.sign(d)))


def one_point(name: str, dx: float, dy: float) -> tuple[float, Tensor]:
    """A loss on a single point off by (dx, dy): value and gradient."""
    target = torch.tensor([[[3.0, 4.0]]], dtype=torch.float64)
    off = torch.tensor([[[dx, dy]]], dtype=torch.float64, requires_grad=True)
    value = make_loss(name)(target + off, target)
    value.backward()
    assert off.grad is not None
    return value.item(), off.grad[0, 0]


@pytest.mark.parametrize("name, formula", [("wing", wing), ("smoothl1", smooth_l1)])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", SIZES)
def test_per_coordinate_losses_follow_their_formula(name: str, formula: object, sign: int, size: float) -> None:
    assert callable(formula)
    value, gradient = one_point(name, sign * size, 0.7)
    (fx, gx), (fy, gy) = formula(sign * size), formula(0.7)
    # 3 + off - 3 rounds at 1e-16 * 3, so the offset itself is known to 4e-16
    assert value == pytest.approx(fx + fy, rel=1e-12, abs=1e-14)
    at_knee = abs(size - (10 if name == "wing" else 1)) < 1e-9
    assert gradient.numpy() == pytest.approx([gx, gy], rel=1e-9, abs=1.0 if at_knee and name == "wing" else 1e-9)


def test_wing_is_continuous_at_its_knee() -> None:
    below, above = one_point("wing", 10 - 1e-9, 0)[0], one_point("wing", 10 + 1e-9, 0)[0]
    assert abs(above - below) < 1e-8
    assert below == pytest.approx(10 * math.log(6), abs=1e-8)


def test_smooth_l1_has_a_continuous_slope_at_its_knee() -> None:
    (low, at_low), (high, at_high) = one_point("smoothl1", 1 - 1e-9, 0), one_point("smoothl1", 1 + 1e-9, 0)
    assert abs(high - low) < 1e-8 and abs(float(at_high[0] - at_low[0])) < 1e-8


@pytest.mark.parametrize("dx, dy", [(0.0, 0.0), (0.3, -0.4), (30.0, 40.0), (-1e-6, 0.0)])
def test_per_point_losses_follow_their_formula(dx: float, dy: float) -> None:
    squared = dx * dx + dy * dy
    for name, value, slope in (("l2", squared, 2.0), ("log-l2", math.log1p(squared), 2 / (1 + squared))):
        found, gradient = one_point(name, dx, dy)
        assert found == pytest.approx(value, rel=1e-8, abs=1e-15)
        assert gradient.numpy() == pytest.approx([slope * dx, slope * dy], rel=1e-8, abs=1e-14)


def test_nme_is_the_metric() -> None:
    generator = torch.Generator().manual_seed(1)
    target = torch.rand(3, 98, 2, generator=generator, dtype=torch.float64) * 112
    pred = target + torch.randn(3, 98, 2, generator=generator, dtype=torch.float64)
    found = make_loss("nme", normaliser=WFLW98.default_normaliser)(pred, target)
    errors = np.linalg.norm((pred - target).numpy(), axis=-1).mean(1)
    eyes = np.linalg.norm((target[:, 60] - target[:, 72]).numpy(), axis=-1)
    assert found.item() == pytest.approx((errors / eyes).mean(), rel=1e-12)


def test_nme_slope_is_the_direction_over_the_normaliser_and_zero_at_zero() -> None:
    target = torch.tensor([[[0.0, 0.0], [10.0, 0.0]]], dtype=torch.float64)
    off = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    value = make_loss("nme", normaliser=EYES)(target + off, target)
    value.backward()
    assert value.item() == pytest.approx(5 / 10 / 2)
    assert off.grad is not None
    assert off.grad.numpy().ravel() == pytest.approx([0.6 / 20, 0.8 / 20, 0, 0])


def test_nme_without_eyes_divides_by_the_box() -> None:
    target = torch.tensor([[[0.0, 0.0], [4.0, 0.0], [0.0, 9.0], [math.nan, math.nan]]], dtype=torch.float64)
    pred = torch.nan_to_num(target) + torch.tensor([3.0, 0.0], dtype=torch.float64)
    assert make_loss("nme")(pred, target).item() == pytest.approx(3 / 6)


@pytest.mark.parametrize("name", ["wing", "smoothl1", "l2", "log-l2", "nme", "pfld"])
def test_unlabelled_points_neither_count_nor_move(name: str) -> None:
    generator = torch.Generator().manual_seed(2)
    loss = make_loss(name, normaliser=EYES) if name == "nme" else make_loss(name)
    target = torch.rand(2, 5, 2, generator=generator, dtype=torch.float64) * 50
    pred = (target + torch.randn(2, 5, 2, generator=generator, dtype=torch.float64)).requires_grad_()
    holes = target.clone()
    holes[:, 3] = math.nan
    holes[:, 4, 0] = math.nan
    value = loss(pred, holes)
    value.backward()
    assert value.item() == pytest.approx(loss(pred[:, :3], target[:, :3]).item(), rel=1e-12)
    assert pred.grad is not None
    assert torch.isfinite(pred.grad).all() and (pred.grad[:, 3:] == 0).all() and (pred.grad[:, :3] != 0).any()


@pytest.mark.parametrize("name", ["wing", "smoothl1", "l2", "log-l2", "nme", "pfld"])
def test_a_face_without_any_label_is_zero_not_nan(name: str) -> None:
    pred = torch.ones(1, 4, 2, requires_grad=True)
    value = make_loss(name)(pred, torch.full((1, 4, 2), math.nan))
    value.backward()
    assert value.item() == 0
    assert pred.grad is not None and (pred.grad == 0).all()


@pytest.mark.parametrize("normaliser", [EYES, "box"])
def test_nme_takes_no_size_from_points_without_weight(normaliser: Normaliser | str) -> None:
    target = torch.tensor([[[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [900.0, 900.0]]])
    pred, weights = target + 1, torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    loss = make_loss("nme", normaliser=normaliser)
    assert loss(pred, target, weights).item() == pytest.approx(math.sqrt(2) / 10)
    assert loss(pred, target, torch.tensor([[0.0, 1.0, 0.0, 0.0]])).item() == 0


@pytest.mark.parametrize("name", ["wing", "smoothl1", "l2", "log-l2", "nme", "pfld"])
def test_weights_scale_the_pull_of_each_point(name: str) -> None:
    torch.manual_seed(0)
    target = 10 * torch.randn(2, 4, 2, dtype=torch.float64)
    pred = (target + torch.randn(2, 4, 2, dtype=torch.float64)).requires_grad_()
    loss = make_loss(name)

    def slope(weights: torch.Tensor | None) -> torch.Tensor:
        return torch.autograd.grad(loss(pred, target, weights), pred)[0]

    plain = slope(None)
    weights = torch.tensor([[1.0, 0.5, 0.25, 2.0], [0.125, 1.0, 1.0, 1.0]], dtype=torch.float64)
    assert torch.equal(slope(torch.ones(2, 4)), plain)
    torch.testing.assert_close(slope(weights), plain * weights[..., None])
    assert (plain != 0).all()


@pytest.mark.parametrize("name", ["wing", "smoothl1", "l2", "log-l2", "nme", "pfld"])
def test_weight_zero_is_a_masked_point(name: str) -> None:
    torch.manual_seed(1)
    target = 10 * torch.randn(2, 5, 2)
    pred = target + torch.randn(2, 5, 2)
    weights = torch.tensor([[1.0, 0.0, 1.0, 0.5, 1.0], [1.0, 1.0, 1.0, 1.0, 0.0]])
    masked = torch.where(weights[..., None] > 0, target, math.nan)
    assert torch.equal(make_loss(name)(pred, target, weights), make_loss(name)(pred, masked, weights))
    only_masked = make_loss(name)(pred, masked)
    assert torch.equal(make_loss(name)(pred, target, (weights > 0).float()), only_masked)


def test_weights_are_not_scaled_to_a_sum() -> None:
    target = torch.zeros(1, 3, 2, dtype=torch.float64)
    pred = torch.tensor([[[1.0, 0], [2.0, 0], [5.0, 0]]], dtype=torch.float64)
    weights = torch.tensor([[1.0, 3.0, 0.0]])
    assert make_loss("l2")(pred, target, weights).item() == pytest.approx((1 * 1 + 3 * 4) / 2)


def test_every_attribute_counts_and_no_face_weighs_nothing() -> None:
    for flag in range(6):
        flags = torch.zeros(4, 6, dtype=torch.float64)
        flags[0, flag] = 1
        weight = attribute_weight(flags)
        # one face of four has the flag: 1 + 4 against 1, 1, 1, scaled to mean 1
        assert weight.numpy() == pytest.approx([5 / 2, 1 / 2, 1 / 2, 1 / 2])
    assert attribute_weight(torch.zeros(3, 6)).numpy() == pytest.approx([1, 1, 1])
    assert attribute_weight(torch.ones(3, 6)).numpy() == pytest.approx([1, 1, 1])


def test_angles_are_radians() -> None:
    error = angle_error(torch.tensor([[math.pi / 6, 0.0, 0.0]]), torch.zeros(1, 3))
    assert error.item() == pytest.approx(1 - math.cos(math.pi / 6), abs=1e-6)  # 0.134, not 1 - cos(30)


def test_unknown_angles_are_left_out() -> None:
    true = torch.tensor([[0.0, math.nan, 0.5]])
    angles = torch.tensor([[0.3, 9.0, 0.5]], requires_grad=True)
    error = angle_error(angles, true)
    error.sum().backward()
    assert error.item() == pytest.approx(1 - math.cos(0.3), abs=1e-6)
    assert angles.grad is not None and angles.grad[0, 1] == 0


@pytest.mark.parametrize("turn", [0.0, 2 * math.pi])
def test_a_right_or_aliased_angle_leaves_the_landmark_term(turn: float) -> None:
    target = torch.zeros(2, 3, 2, dtype=torch.float64)
    pred = torch.ones(2, 3, 2, dtype=torch.float64, requires_grad=True)
    true = torch.zeros(2, 3, dtype=torch.float64)
    value = PFLDLoss()(pred, target, None, Extras(true + turn, true, torch.zeros(2, 6)))
    value.backward()
    assert value.item() == pytest.approx(2)
    assert pred.grad is not None and (pred.grad != 0).all()


def test_pfld_is_its_formula_and_the_pose_net_learns_from_its_own_term() -> None:
    generator = torch.Generator().manual_seed(3)
    target = torch.rand(4, 5, 2, generator=generator, dtype=torch.float64) * 20
    pred = target + torch.randn(4, 5, 2, generator=generator, dtype=torch.float64)
    angles = torch.randn(4, 3, generator=generator, dtype=torch.float64).requires_grad_()
    true = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    flags = torch.tensor([[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    value = PFLDLoss()(pred, target, None, Extras(angles, true, flags)) + 0.5 * pose_loss(angles, true)
    value.backward()
    face = ((pred - target).numpy() ** 2).sum(-1).mean(1)
    off = (true - angles.detach()).numpy()
    turn = (1 - np.cos(off)).sum(1)
    fraction = flags.numpy().mean(0)
    weight = 1 + (flags.numpy() / fraction).sum(1)
    expected = (weight / weight.mean() * (1 + turn) * face).mean() + 0.5 * turn.mean()
    assert value.item() == pytest.approx(expected, rel=1e-12)
    assert angles.grad is not None
    assert angles.grad.numpy() == pytest.approx(0.5 * np.sin(-off) / 4, rel=1e-9)


def test_a_wrong_name_or_option_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'wing'"):
        make_loss("wings")
    with pytest.raises(UsageError, match=r"no option 'q'; it has: w, eps"):
        make_loss("wing", q=1)
    with pytest.raises(UsageError, match="positive"):
        make_loss("wing", eps=0.0)
    with pytest.raises(UsageError, match="another loss"):
        make_loss("pfld", base="pfld")
