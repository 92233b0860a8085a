"""What a run makes small: the recipe's loss on points, and the head-pose loss where an auxiliary net learns along."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from runtime.errors import UsageError
from runtime.layouts import Normaliser
from runtime.spec import ModelSpec
from train.losses import Extras, PointLoss, make_loss, pose_loss
from train.metrics import normaliser_for
from train.models.zoo import ZOO, entry
from train.recipe import Recipe

WITH_POSE = "pfld"
"""Name of the one network with an auxiliary net, and of the loss that weighs faces by their pose."""


@dataclass(frozen=True)
class Objective:
    """The loss of a batch, on points in pixels of the network's input."""

    points: PointLoss
    pose: float
    """Weight of the pose loss; 0 when no auxiliary net is trained."""

    def __call__(self, points: Tensor, truth: Tensor, weights: Tensor, extras: Extras) -> Tensor:
        loss: Tensor = self.points(points, truth, weights, extras)
        if extras.angles is None or extras.true_angles is None:
            return loss
        return loss + self.pose * pose_loss(extras.angles, extras.true_angles)

    @property
    def heatmaps(self) -> bool:
        """Whether the points' loss looks at heatmaps."""
        return self.points.needs_heatmaps


def make_objective(recipe: Recipe, spec: ModelSpec) -> Objective:
    """Build the loss that a recipe names, and check that it fits the network."""
    name, pose = recipe.loss.name, recipe.loss.aux_pose
    if spec.architecture != WITH_POSE:
        if pose:
            raise UsageError(
                f"--aux-pose {pose:g}: only the network pfld has an auxiliary net, this is {spec.architecture}"
            )
    elif name == WITH_POSE:
        pose = pose or 1.0
    options = named_values(recipe.loss.option, "--loss-option")
    if name == "nme":
        normaliser = normaliser_for(spec.point_layout, spec.normaliser)
        options["normaliser"] = normaliser if isinstance(normaliser, Normaliser) else None
    if name == "awing":
        if not entry(spec.architecture).heatmaps:
            known = ", ".join(name for name, one in ZOO.items() if one.heatmaps)
            raise UsageError(f"--loss awing learns heatmaps; {spec.architecture} has none, networks with them: {known}")
        options["input_size"] = float(spec.input_size)
    return Objective(make_loss(name, **options), pose)


def named_values(texts: tuple[str, ...], flag: str) -> dict[str, object]:
    """Read NAME=NUMBER, NAME=LOW,HIGH or NAME=WORD.

    >>> named_values(("w=10", "scale=0.9,1.1", "base=wing"), "--x")
    {'w': 10.0, 'scale': [0.9, 1.1], 'base': 'wing'}
    """
    values: dict[str, object] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.strip() or not value.strip():
            raise UsageError(f"{flag} {text!r}: expected NAME=VALUE")
        try:
            numbers = [float(number) for number in value.split(",")]
        except ValueError:
            values[name.strip()] = value.strip()
        else:
            values[name.strip()] = numbers if len(numbers) > 1 else numbers[0]
    return values
