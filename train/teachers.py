"""Teachers: trained networks that look at the same augmented crops, each at its own size; the student learns along."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from runtime.errors import InputError, UsageError
from runtime.files import sha256_file
from runtime.layouts import IBUG68, IBUG68_IN_WFLW98, WFLW98
from runtime.spec import ModelSpec
from train.checkpoint import load_model
from train.data.loader import Batch, to_input
from train.data.views import View
from train.losses import Extras
from train.machine import Machine
from train.recipe import DistillRecipe

Fuse = Callable[[nn.Module, ModelSpec], nn.Module]
"""Makes the plain network of a multi-branch one."""
Loss = Callable[[Tensor, Tensor, Tensor, Extras], Tensor]
"""Of points, targets, weights and what else is known."""
_WEIGHTED = re.compile(r"^(?P<path>.+?):(?P<weight>\d+(?:\.\d*)?|\.\d+)$", re.DOTALL)


@dataclass(frozen=True, eq=False)
class Teacher:
    """One trained network."""

    name: str
    spec: ModelSpec
    net: nn.Module
    weight: float
    view: View
    student_points: Tensor
    teacher_points: Tensor
    """Which of its points teach which of the student's."""


class Teachers:
    """All teachers of a run; none at all when the recipe names none."""

    def __init__(self, recipe: DistillRecipe, student: ModelSpec, machine: Machine, fuse: Fuse | None = None) -> None:
        self.student, self.machine = student, machine
        self.label_weight, self.weight = (recipe.labels, recipe.weight) if recipe.teacher else (1.0, 0.0)
        opened = [_opened(text) for text in recipe.teacher]
        hashes = "".join(f"{sha256_file(path)} {weight!r};" for path, weight in opened)
        self.digest = hashlib.sha256(hashes.encode()).hexdigest() if opened else ""
        """One hash of all teachers and their weights; empty when there is none."""
        self.members = tuple(_teacher(path, weight, student, machine, fuse) for path, weight in opened)
        if self.members and self.weight == 0 == self.label_weight:
            raise UsageError("--teacher-weight 0 and --label-weight 0: there is nothing left to learn")
        self.views = tuple(dict.fromkeys(teacher.view for teacher in self.members))

    def __bool__(self) -> bool:
        return bool(self.members)

    def describe(self) -> list[str]:
        """A line for each teacher."""
        return [
            f"teacher {t.name}: {t.spec.architecture}, width {t.spec.width:g}, {t.spec.input_size} px, "
            f"{len(t.student_points)} points, weight {self.weight * t.weight / self._total:g}"
            for t in self.members
        ]

    @property
    def _total(self) -> float:
        return sum(teacher.weight for teacher in self.members)

    def mixed(self, labels: Tensor, points: Tensor, batch: Batch, loss: Loss, extras: Extras) -> Tensor:
        """The labels' loss and the teachers' together; `points` are the student's, in pixels of its input."""
        if not self.members:
            return labels
        total: Tensor = self.label_weight * labels
        for teacher in self.members:
            target, known = self.ask(teacher, batch)
            part: Tensor = loss(points, target * self.student.input_size, known, extras)
            total = total + self.weight * teacher.weight / self._total * part
        return total

    @torch.no_grad()
    def ask(self, teacher: Teacher, batch: Batch) -> tuple[Tensor, Tensor]:
        """A teacher's landmarks (B, N, 2) in [0, 1] of the student's crop, and which of them it knows (B, N)."""
        machine, device = self.machine, self.machine.device
        images = batch.views[self.views.index(teacher.view)]
        with machine.mixed():
            output = teacher.net(to_input(images, teacher.spec, str(device), machine.channels_last))
        seen = output.float().view(len(images), -1, 2)
        pixel = torch.from_numpy(batch.pixels).to(device).view(-1, 1, 2)
        ratio = teacher.view.ratio
        if teacher.spec.coordinates == "corner":
            seen = seen + 0.5 * pixel / ratio
        seen = 0.5 + ratio * (seen - 0.5)
        if self.student.coordinates == "corner":
            seen = seen - 0.5 * pixel
        target = torch.full((len(images), self.student.points, 2), 0.5, device=device)
        known = torch.zeros(len(images), self.student.points, device=device)
        target[:, teacher.student_points] = seen[:, teacher.teacher_points]
        known[:, teacher.student_points] = 1
        return target, known


def _opened(text: str) -> tuple[Path, float]:
    found = None if Path(text).exists() else _WEIGHTED.match(text)
    if found is None:
        return Path(text), 1.0
    weight = float(found["weight"])
    if not 0 < weight <= 1000:
        raise UsageError(f"--teacher {text}: the weight must lie above 0 and be at most 1000")
    return Path(found["path"]), weight


def _teacher(path: Path, weight: float, student: ModelSpec, machine: Machine, fuse: Fuse | None) -> Teacher:
    net, checkpoint = load_model(path)
    spec = checkpoint.spec
    where = f"teacher {path}"
    ours, its = student.crop, spec.crop
    if its.box != "landmarks" or its.shift != ours.shift:
        raise InputError(
            f"{where}: its crop starts from the box {its.box!r}, moved by {its.shift}; "
            f"the student's from {ours.box!r}, moved by {ours.shift}: they do not share a centre"
        )
    student_points, teacher_points = _shared_points(student, spec, where)
    if checkpoint.kind != "fused" and fuse is not None:
        net = fuse(net, spec)
    net = net.to(machine.device).eval().requires_grad_(False)
    if machine.channels_last:
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    view = View(spec.input_size, its.scale / ours.scale, its.padding, student.input_size)
    device = machine.device
    return Teacher(
        str(path),
        spec,
        net,
        weight,
        view,
        torch.from_numpy(student_points).to(device),
        torch.from_numpy(teacher_points).to(device),
    )


def _shared_points(student: ModelSpec, teacher: ModelSpec, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the points that both know: the student's and the teacher's."""
    if student.layout == teacher.layout:
        every = np.arange(student.points)
        return every, every
    among_98, among_68 = np.asarray(IBUG68_IN_WFLW98), np.arange(IBUG68.count)
    if (student.layout, teacher.layout) == (WFLW98.name, IBUG68.name):
        return among_98, among_68
    if (student.layout, teacher.layout) == (IBUG68.name, WFLW98.name):
        return among_68, among_98
    raise InputError(f"{where}: has the points {teacher.layout}, the student {student.layout}; no map between them")
