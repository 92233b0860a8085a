"""Quantisation-aware fine-tuning as a form of training: a calibrated start, int8 steps in the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from calib.fake_net import FakeQuantNet
from calib.quantize import starting_plan
from calib.trace import trace
from runtime.errors import InputError
from runtime.spec import ModelSpec
from train.checkpoint import Checkpoint
from train.form import Draw, Note, Weights
from train.recipe import OptimizerRecipe, QatRecipe


@dataclass(frozen=True, eq=False)
class Origin:
    """A float network in eval mode, and the file that it comes from."""

    model: nn.Module
    path: str
    sha256: str


class QatForm:
    """A fused network that computes as its int8 form does (see train.form.Form)."""

    what = ", int8 by fake quantisation"

    def __init__(self, spec: ModelSpec, recipe: QatRecipe, start: Origin, seed: int) -> None:
        self.spec, self.recipe, self.start, self.seed = spec, recipe, start, seed
        self.shipping = FakeQuantNet(spec)

    def build(self) -> nn.Module:
        return FakeQuantNet(self.spec, self.recipe.learn_steps)

    def groups(self, modules: nn.Module, recipe: OptimizerRecipe) -> list[dict[str, Any]]:
        """Weights that count in steps; what is learned of the steps themselves moves slower."""
        (net,) = (module for module in modules.modules() if isinstance(module, FakeQuantNet))
        groups: list[dict[str, Any]] = [{"params": net.weight_parameters, "weight_decay": recipe.weight_decay}]
        if net.step_parameters:
            factor = self.recipe.step_rate
            groups.append({"params": net.step_parameters, "weight_decay": 0.0, "factor": factor})
        return groups

    def begin(self, model: nn.Module, draw: Draw, note: Note) -> bool:
        """Calibrate the float network on augmented training faces and start from what that gives."""
        if not isinstance(model, FakeQuantNet):
            raise TypeError(f"expected a FakeQuantNet, found {type(model).__name__}")
        faces = draw(self.recipe.faces)
        note(f"calibrating on {len(faces)} augmented training faces")
        result = starting_plan(trace(self.start.model, self.spec), self.spec, faces, self.seed)
        note(f"calibrated start: {result.why()}")
        model.load_plan(result.plan)
        return True

    def pack(self, running: Weights, average: Weights | None) -> Checkpoint:
        """A fused checkpoint whose weights lie on the int8 grid, with the steps; the moving parts are its state."""
        self.shipping.load_state_dict(dict(running if average is None else average), strict=True)
        weights, steps = self.shipping.ship()
        state = {"network": dict(running), "average": None if average is None else dict(average)}
        return Checkpoint("fused", self.spec, weights, parent=self.start.sha256, state=state, int8=steps)

    def unpack(self, checkpoint: Checkpoint, where: str) -> tuple[Weights, Weights | None]:
        """The moving parts again; another start than before is an error."""
        if checkpoint.int8 is None or "network" not in checkpoint.state:
            raise InputError(f"{where}: was not written by a run with --qat, so such a run cannot go on from it")
        if checkpoint.parent != self.start.sha256:
            raise InputError(f"{where}: --init {self.start.path} changed since the run began; start a new run")
        return checkpoint.state["network"], checkpoint.state["average"]
