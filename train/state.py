"""All that moves while a model trains, and how it goes into a checkpoint and comes back."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from runtime.errors import CheckFailedError, InputError
from train.average import Average
from train.checkpoint import Checkpoint
from train.form import Draw, Form, Note
from train.machine import Machine
from train.models.pose import AuxiliaryNet
from train.muon import Muon
from train.recipe import OptimizerRecipe, Recipe
from train.rundir import Row
from train.schedule import Schedule


@dataclass
class Progress:
    """How far a run has come."""

    epoch: int = 0
    """Finished epochs."""
    batch: int = 0
    """Finished batches of the epoch under way."""
    step: int = 0
    """Finished steps of the whole run."""
    best_nme: float = float("inf")
    best_epoch: int = 0
    rows: list[Row] = field(default_factory=list)
    """The log, a row per finished epoch."""
    totals: tuple[float, float] = (0.0, 0.0)
    """Sums of loss and NME over the finished batches of the epoch under way."""


class TrainingState:
    """Model, average, optimizer, schedule, scaler and progress."""

    def __init__(
        self,
        recipe: Recipe,
        form: Form,
        machine: Machine,
        steps_per_epoch: int,
        faces: str,
        with_pose: bool,
        with_heatmaps: bool = False,
    ) -> None:
        self.recipe, self.form, self.machine, self.faces = recipe, form, machine, faces
        self.with_heatmaps = with_heatmaps
        self.model = form.build().to(machine.device)
        if machine.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.pose: AuxiliaryNet | None = None
        if with_pose:
            self.pose = AuxiliaryNet(int(self.model.stage_channels)).to(machine.device)  # type: ignore[arg-type]
        self.modules = nn.ModuleList([self.model] if self.pose is None else [self.model, self.pose])
        self.parameters = list(self.modules.parameters())
        norms = [m for m in self.modules.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
        self.statistics = [value for norm in norms for value in norm.buffers() if value.is_floating_point()]
        """Running statistics, which processes that norm apart keep in step by averaging them."""
        self.average = Average(self.model, recipe.average.decay) if recipe.average.decay else None
        self.optimizer = make_optimizer(form.groups(self.modules, recipe.optimizer), recipe.optimizer)
        self.schedule = Schedule(recipe.schedule, steps_per_epoch)
        self.scaler = torch.amp.GradScaler(machine.device.type, enabled=machine.needs_scaler)
        self.progress = Progress()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Landmarks (B, 2N); the auxiliary net's guess of the head pose and the heatmaps, where they are learned."""
        if self.with_heatmaps:
            landmarks, heatmaps = self.model.forward_with_heatmaps(images)  # type: ignore[operator]
            return landmarks, None, heatmaps
        if self.pose is None:
            return self.model(images), None, None
        landmarks, stage = self.model.forward_with_stage(images)  # type: ignore[operator]
        return landmarks, self.pose(stage), None

    def describe(self) -> str:
        """The network in words."""
        millions = sum(p.numel() for p in self.model.parameters()) / 1e6
        spec = self.form.spec
        size = f"{spec.architecture}, width {spec.width:g}, {spec.input_size} px"
        return f"{size}, {millions:.3f} M weights in training{self.form.what}"

    def set_rate(self) -> float:
        """Give the optimizer the learning rate of the coming step."""
        rate = self.recipe.optimizer.lr * self.schedule.factor(self.progress.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        return rate

    @property
    def shipped_weights(self) -> dict[str, Tensor]:
        """What gets measured and shipped: the average where there is one."""
        return self.model.state_dict() if self.average is None else self.average.weights

    def checkpoint(self) -> Checkpoint:
        """This moment as a checkpoint; a diverged model is refused, so that a good file is never replaced by it."""
        model = self.model.state_dict()
        for weights in (model, self.shipped_weights):
            for name, tensor in weights.items():
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    raise CheckFailedError(
                        f"weight {name} became NaN or infinite; nothing was saved over the last checkpoint"
                    )
        progress = self.progress
        packed = self.form.pack(model, None if self.average is None else self.average.weights)
        return replace(
            packed,
            recipe=self.recipe.to_dict(),
            progress={
                "epoch": progress.epoch,
                "batch": progress.batch,
                "step": progress.step,
                "best_nme": progress.best_nme,
                "best_epoch": progress.best_epoch,
                "totals": progress.totals,
                "rows": [dict(row) for row in progress.rows],
                "faces": self.faces,
                "threads": torch.get_num_threads(),
            },
            state={
                **packed.state,
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
                "average_steps": 0 if self.average is None else self.average.steps,
                "pose": {} if self.pose is None else self.pose.state_dict(),
                "random": _random_state(self.machine),
            },
        )

    def restore(self, checkpoint: Checkpoint, where: str) -> None:
        """Go on exactly where the checkpoint was taken."""
        progress, state = checkpoint.progress, checkpoint.state
        if not state:
            raise InputError(
                f"{where}: holds weights but no training state, so it cannot be resumed; start from it with --init"
            )
        if progress.get("faces") != self.faces:
            raise InputError(
                f"{where}: the training faces changed since it was written (files, labels, split, weights, teachers), "
                "so the run cannot go on as it was; start a new one with --init from its best.ckpt"
            )
        try:
            running, average = self.form.unpack(checkpoint, where)
            self.model.load_state_dict(dict(running), strict=True)
            if self.average is not None and average is not None:
                self.average.load(average, state["average_steps"])
            if self.pose is not None:
                self.pose.load_state_dict(state["pose"], strict=True)
            self.optimizer.load_state_dict(state["optimizer"])
            self._align_moments()
            self.schedule.load_state_dict(state["schedule"])
            self.scaler.load_state_dict(state["scaler"])
            _restore_random(state["random"], self.machine)
            self.progress = Progress(
                epoch=progress["epoch"],
                batch=progress["batch"],
                step=progress["step"],
                best_nme=progress["best_nme"],
                best_epoch=progress["best_epoch"],
                rows=list(progress["rows"]),
                totals=tuple(progress["totals"]),
            )
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"{where}: its training state does not fit this run ({reason})") from error

    def _align_moments(self) -> None:
        """Lay the optimizer's moments out in memory as their weights are: fused kernels walk both side by side."""
        for weight, moments in self.optimizer.state.items():
            for name, value in moments.items():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    moments[name] = torch.empty_like(weight).copy_(value)

    def begin(self, draw: Draw, note: Note) -> None:
        """Give a fresh run the weights that its form starts from."""
        if self.form.begin(self.model, draw, note):
            self.average_anew()

    def average_anew(self) -> None:
        """Begin the average with the weights of now."""
        if self.average is not None:
            self.average = Average(self.model, self.recipe.average.decay)


def make_optimizer(groups: list[dict[str, Any]], recipe: OptimizerRecipe) -> torch.optim.Optimizer:
    """The optimizer of the recipe for these groups of parameters."""
    if recipe.name == "muon":
        return Muon(groups, lr=recipe.lr, momentum=recipe.momentum)
    if recipe.name == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True)
    kind = torch.optim.AdamW if recipe.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999), fused=True)


def _random_state(machine: Machine) -> dict[str, Any]:
    version, numbers, gauss = random.getstate()
    _, words, at, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": None if machine.is_cpu else torch.cuda.get_rng_state(machine.device),
        "python": (version, torch.tensor(numbers, dtype=torch.int64), gauss),
        "numpy": (torch.from_numpy(np.asarray(words, dtype=np.int64)), at, has_gauss, cached),
    }


def _restore_random(state: Mapping[str, Any], machine: Machine) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and not machine.is_cpu:
        torch.cuda.set_rng_state(state["cuda"], machine.device)
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    words, at, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", words.numpy().astype(np.uint32), at, has_gauss, cached))
