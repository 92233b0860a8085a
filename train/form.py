"""What a run trains: how its network is built, begun, taught and written.

Plain float training is here; other forms are handed down from the layers above.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from runtime.spec import ModelSpec
from train.checkpoint import Checkpoint, load_checkpoint, refuse_misfit
from train.grow import grow, may_grow, prove_grown
from train.models.zoo import build
from train.muon import dense_kernels
from train.recipe import OptimizerRecipe

Weights = Mapping[str, Tensor]
Draw = Callable[[int], NDArray[np.uint8]]
"""So many augmented training faces, (N, S, S, 3) BGR."""
Note = Callable[[str], object]
PROOF_FACES = 32
"""Faces on which a grown network is compared with the narrow one."""


class Form(Protocol):
    """The shape in which a network is trained."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def what(self) -> str:
        """Words behind the network's name."""
        ...

    def build(self) -> nn.Module:
        """A network to train, or in eval mode to judge."""
        ...

    def groups(self, modules: nn.Module, recipe: OptimizerRecipe) -> list[dict[str, Any]]:
        """Parameters for the optimizer; `factor` multiplies a group's learning rate."""
        ...

    def begin(self, model: nn.Module, draw: Draw, note: Note) -> bool:
        """Set the weights of a fresh run; False where the random ones stay."""
        ...

    def pack(self, running: Weights, average: Weights | None) -> Checkpoint:
        """The network as a checkpoint, without the run's progress."""
        ...

    def unpack(self, checkpoint: Checkpoint, where: str) -> tuple[Weights, Weights | None]:
        """Running and averaged weights of a checkpoint that `pack` began."""
        ...


class PlainForm:
    """A network of the zoo with all its branches, in float."""

    what = ""

    def __init__(self, spec: ModelSpec, init: str = "", seed: int = 0) -> None:
        self.spec, self.seed = spec, seed
        self.init = load_checkpoint(init) if init else None
        self.where = init

    def build(self) -> nn.Module:
        return build(self.spec)

    def groups(self, modules: nn.Module, recipe: OptimizerRecipe) -> list[dict[str, Any]]:
        """Norms and biases are spared from decay; Muon turns the steps of dense kernels."""
        turned = {id(p) for p in dense_kernels(modules)} if recipe.name == "muon" else set()
        kinds: tuple[list[nn.Parameter], ...] = ([], [], [])
        for p in modules.parameters():
            kinds[0 if id(p) in turned else 1 if p.ndim > 1 else 2].append(p)
        groups: list[dict[str, Any]] = [
            {"params": kinds[0], "weight_decay": recipe.weight_decay, "orthogonal": True},
            {"params": kinds[1], "weight_decay": recipe.weight_decay},
            {"params": kinds[2], "weight_decay": 0.0},
        ]
        return groups if recipe.name == "muon" else groups[1:]

    def begin(self, model: nn.Module, draw: Draw, note: Note) -> bool:
        """Take over the weights of the checkpoint named by --init, not its state of training."""
        if self.init is None:
            return False
        if self.init.kind == "multi-branch" and may_grow(self.init.spec, self.spec):
            model.load_state_dict(grow(self.init.weights, model.state_dict(), self.seed, self.where), strict=True)
            worst = prove_grown(self.init, model, draw(PROOF_FACES), self.where)
            note(
                f"grown from {self.where}, width {self.init.spec.width:g}, to {self.spec.width:g}: "
                f"on {PROOF_FACES} faces the landmarks differ by at most {worst:.1g} of the crop's side"
            )
            return True
        refuse_misfit(model.state_dict(), self.init.weights, self.where)
        model.load_state_dict(self.init.weights, strict=True)
        return True

    def pack(self, running: Weights, average: Weights | None) -> Checkpoint:
        return Checkpoint("multi-branch", self.spec, dict(running), None if average is None else dict(average))

    def unpack(self, checkpoint: Checkpoint, where: str) -> tuple[Weights, Weights | None]:  # noqa: ARG002
        return checkpoint.model, checkpoint.ema
