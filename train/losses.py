"""Landmark losses, on points in pixels of the network's input.

Every loss is a value per point, times the point's weight, averaged over the labelled points of a face, then over the
faces of the batch. A NaN target or a weight of 0 is a point without label; a face without any counts as zero. Weights
are not scaled to a sum: a face whose points all weigh a half pulls half as much.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.errors import UsageError
from runtime.layouts import Normaliser
from train.heatmaps import adaptive_wing, gaussians

NEAR_PEAK = 0.2
"""Cells whose true value reaches this, and their neighbours, are the face of a map; the others are background."""


@dataclass(frozen=True)
class Extras:
    """What a loss may know beyond points; a NaN angle is unknown, as is anything that is None."""

    angles: Tensor | None = None
    """(B, 3) predicted yaw, pitch, roll in radians."""
    true_angles: Tensor | None = None
    attributes: Tensor | None = None
    """(B, 6) flags in the order of `train.data.sample.ATTRIBUTES`."""
    heatmaps: Tensor | None = None
    """(B, P, S, S) maps of a network that has them, as logits."""


class PointLoss(nn.Module):
    """Base: subclasses give the value of each point."""

    needs_heatmaps = False

    def per_point(self, offset: Tensor, target: Tensor, /) -> Tensor:
        """Value (B, P) for offsets (B, P, 2) from the target."""
        raise NotImplementedError

    def per_face(self, pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        """Mean over the labelled points of each face of value times weight: (B,)."""
        labelled = labelled_points(target, weights)
        target = torch.where(labelled[..., None], target, math.nan)
        offset = torch.where(labelled[..., None], pred - target, 0)
        return face_means(self.per_point(offset, target), labelled, weights)

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weights: Tensor | None = None,
        extras: Extras | None = None,  # noqa: ARG002 - for subclasses
    ) -> Tensor:
        return self.per_face(pred, target, weights).mean()


def labelled_points(target: Tensor, weights: Tensor | None) -> Tensor:
    """Which points (B, P) have a label and a weight."""
    labelled = torch.isfinite(target).all(-1)
    return labelled if weights is None else labelled & (weights > 0)


def face_means(values: Tensor, labelled: Tensor, weights: Tensor | None) -> Tensor:
    """Mean (B,) over the labelled points of value times weight."""
    values = torch.where(labelled, values, 0)
    if weights is not None:
        values = values * torch.where(labelled, weights.to(values.dtype), 0)
    return values.sum(1) / labelled.sum(1).to(values.dtype).clamp_min(1)


class Wing(PointLoss):
    """Wing loss: w ln(1 + |d| / eps) below w, |d| - C above, per coordinate; logarithmic for small errors."""

    def __init__(self, w: float = 10.0, eps: float = 2.0) -> None:
        super().__init__()
        _positive(w=w, eps=eps)
        self.w, self.eps = w, eps
        self.offset = w - w * math.log1p(w / eps)

    def per_point(self, offset: Tensor, _: Tensor, /) -> Tensor:
        size = offset.abs()
        near = self.w * torch.log1p(size / self.eps)
        return torch.where(size < self.w, near, size - self.offset).sum(-1)


class SmoothL1(PointLoss):
    """d^2 / (2 beta) below beta, |d| - beta / 2 above, per coordinate."""

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        _positive(beta=beta)
        self.beta = beta

    def per_point(self, offset: Tensor, _: Tensor, /) -> Tensor:
        size = offset.abs()
        near = size.square() / (2 * self.beta)
        return torch.where(size < self.beta, near, size - self.beta / 2).sum(-1)


class L2(PointLoss):
    """The squared distance of each point."""

    def per_point(self, offset: Tensor, _: Tensor, /) -> Tensor:
        return offset.square().sum(-1)


class LogL2(PointLoss):
    """ln(1 + squared distance) of each point."""

    def per_point(self, offset: Tensor, _: Tensor, /) -> Tensor:
        return torch.log1p(offset.square().sum(-1))


class NME(PointLoss):
    """The metric itself: distance over the target's normaliser distance, or over its box's sqrt(w h) without one."""

    def __init__(self, normaliser: Normaliser | str | None = None) -> None:
        super().__init__()
        self.normaliser = normaliser

    def per_point(self, offset: Tensor, target: Tensor, /) -> Tensor:
        # The distance has no slope at zero; give it the slope 0 there instead of NaN.
        squared = offset.square().sum(-1)
        moved = squared > 0
        distance = torch.where(moved, torch.where(moved, squared, 1).sqrt(), 0)
        size = self._size(target)
        known = torch.isfinite(size) & (size > 0)
        return torch.where(known, distance / torch.where(known, size, 1), 0)

    def _size(self, target: Tensor) -> Tensor:
        if not isinstance(self.normaliser, Normaliser):
            low = torch.nan_to_num(target, nan=math.inf).amin(1, keepdim=True)
            high = torch.nan_to_num(target, nan=-math.inf).amax(1, keepdim=True)
            size: Tensor = (high - low).prod(-1).sqrt()
            return size
        gap = target[:, list(self.normaliser.left)].mean(1) - target[:, list(self.normaliser.right)].mean(1)
        distance: Tensor = torch.linalg.vector_norm(gap, dim=-1)
        return distance[:, None]


class PFLDLoss(PointLoss):
    """PFLD's weighted loss: hard attributes and wrong pose weigh more, nothing ever weighs nothing.

    A face weighs (1 + sum of 1/fraction over its attributes, scaled to mean 1) x (1 + sum of 1 - cos(angle error)).
    The weights are constants: the auxiliary net learns from `pose_loss`, so it cannot turn the landmarks off.
    """

    def __init__(self, base: str = "l2") -> None:
        super().__init__()
        if base == "pfld":
            raise UsageError("loss pfld: its base must be another loss")
        self.base = make_loss(base)

    def forward(
        self, pred: Tensor, target: Tensor, weights: Tensor | None = None, extras: Extras | None = None
    ) -> Tensor:
        landmarks = self.base.per_face(pred, target, weights)
        known = extras or Extras()
        weight = torch.ones_like(landmarks)
        if known.attributes is not None:
            weight = attribute_weight(known.attributes.to(pred.dtype))
        if known.angles is not None and known.true_angles is not None:
            weight = weight * (1 + angle_error(known.angles, known.true_angles).detach())
        return (weight * landmarks).mean()


class AdaptiveWing(PointLoss):
    """Adaptive Wing between the shares of a map, scaled to a peak of about 1, and a Gaussian of `sigma` cells.

    The landmark is the centre of mass of softmax(map). A softmax that equals a Gaussian of sigma has the peak
    1 / (2 pi sigma^2), so softmax x 2 pi sigma^2 is what is compared: at zero loss the centre of mass is the point.
    """

    needs_heatmaps = True

    def __init__(
        self,
        omega: float = 14.0,
        theta: float = 0.5,
        eps: float = 1.0,
        alpha: float = 2.1,
        sigma: float = 1.5,
        mask: float = 10.0,
        coords: float = 0.0,
        base: str = "wing",
        input_size: float = 256.0,
    ) -> None:
        super().__init__()
        _positive(omega=omega, theta=theta, eps=eps, sigma=sigma, input_size=input_size)
        if not alpha > 1:
            raise UsageError(f"loss option alpha must be above 1, so that every power is positive, found {alpha!r}")
        for name, number in (("mask", mask), ("coords", coords)):
            if not (math.isfinite(number) and number >= 0):
                raise UsageError(f"loss option {name} must be 0 or a positive number, found {number!r}")
        if base == "awing":
            raise UsageError("loss awing: its base must be another loss")
        self.omega, self.theta, self.eps, self.alpha = omega, theta, eps, alpha
        self.sigma, self.mask, self.coords, self.input_size = sigma, mask, coords, input_size
        self.base = make_loss(base)

    def per_cell(self, heatmaps: Tensor, centres: Tensor) -> Tensor:
        """Weighted loss of every cell for centres (B, N, 2) in cells."""
        side = heatmaps.shape[-1]
        truth = gaussians(centres, side, self.sigma)
        value = heatmaps.flatten(2).softmax(2).view_as(heatmaps) * (2 * math.pi * self.sigma**2)
        loss = adaptive_wing(value, truth, self.omega, self.theta, self.eps, self.alpha)
        near = F.max_pool2d((truth >= NEAR_PEAK).to(truth.dtype), 3, stride=1, padding=1)
        return loss * (1 + self.mask * near)

    def forward(
        self, pred: Tensor, target: Tensor, weights: Tensor | None = None, extras: Extras | None = None
    ) -> Tensor:
        if extras is None or extras.heatmaps is None:
            raise UsageError("loss awing needs a network with heatmaps, such as hrnet-w18")
        heatmaps = extras.heatmaps.to(pred.dtype)
        side = heatmaps.shape[-1]
        centres = target * (side / self.input_size) - 0.5
        labelled = labelled_points(target, weights)
        # Of a point outside the crop there is no peak to learn; the coordinates still teach it.
        shown = labelled & ((centres > -0.5) & (centres < side - 0.5)).all(-1)
        cells = self.per_cell(heatmaps, torch.where(shown[..., None], centres, 0.0))
        loss = face_means(cells.mean((2, 3)), shown, weights).mean()
        if self.coords:
            loss = loss + self.coords * self.base(pred, target, weights)
        return loss


def pose_loss(angles: Tensor, true_angles: Tensor) -> Tensor:
    """What the auxiliary net minimises: the mean over faces of the sum of 1 - cos(angle error)."""
    return angle_error(angles, true_angles).mean()


def attribute_weight(attributes: Tensor) -> Tensor:
    """Weights (B,) of faces with the flags (B, 6): rarer attributes weigh more, the mean is 1, none is zero."""
    fraction = attributes.mean(0)
    rare = torch.where(fraction > 0, 1 / torch.where(fraction > 0, fraction, 1), 0)
    weight = 1 + attributes @ rare
    return weight / weight.mean()


def angle_error(angles: Tensor, true_angles: Tensor) -> Tensor:
    """Sum of 1 - cos(error) over the known angles, radians: (B,)."""
    known = torch.isfinite(true_angles)
    difference = torch.where(known, angles - true_angles, 0)
    return (1 - torch.cos(difference)).sum(1)


def _positive(**options: float) -> None:
    """Raise unless every option is a positive number."""
    for name, value in options.items():
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"loss option {name} must be a positive number, found {value!r}")


LOSSES: dict[str, Callable[..., PointLoss]] = {
    "wing": Wing,
    "smoothl1": SmoothL1,
    "l2": L2,
    "log-l2": LogL2,
    "nme": NME,
    "pfld": PFLDLoss,
    "awing": AdaptiveWing,
}


def make_loss(name: str, **options: object) -> PointLoss:
    """Build a loss by name.

    >>> make_loss("wing", w=10.0, eps=2.0)(torch.zeros(1, 1, 2), torch.tensor([[[2.0, 0.0]]])).item()  # 10 ln 2
    6.931471824645996
    """
    if name not in LOSSES:
        near = difflib.get_close_matches(name, LOSSES, 1, 0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"unknown loss {name!r}; {hint}known: {', '.join(LOSSES)}")
    known = [key for key in inspect.signature(LOSSES[name]).parameters if key not in ("args", "kwargs")]
    for option in options:
        if option not in known:
            raise UsageError(f"loss {name} has no option {option!r}; it has: {', '.join(known) or 'none'}")
    return LOSSES[name](**options)
