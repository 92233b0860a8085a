"""Measuring weights on faces during and after training, shared out among the processes of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from train.data.sample import FaceSource
from train.distributed import Team
from train.evaluate import Crops, Evaluation, crop_faces, evaluate, torch_predictor
from train.faces import Working
from train.form import Form
from train.machine import Machine
from train.metrics import Scores, score
from train.models.mobileone import branch_form


class Jury:
    """A second network in eval mode that is given the weights to be measured; never in mixed precision."""

    def __init__(self, form: Form, machine: Machine, team: Team) -> None:
        self.spec, self.team = form.spec, team
        self.model = form.build().to(machine.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.predict = torch_predictor(self.model)

    def cut(self, source: FaceSource, working: Working, whole: bool = False) -> Crops:
        """Crop this process's share of the faces, or all of them."""
        size = 1 if whole else min(self.team.size, len(source))
        mine = range(0 if whole else self.team.rank % size, len(source), size)
        with working(f"cropping {source.name}", len(mine)) as advance:
            return crop_faces(source, self.spec, mine, advance)

    def judge(self, weights: Mapping[str, Tensor], crops: Crops) -> tuple[Scores, float]:
        """Accuracy over the shares of all processes, and the seconds it took."""
        began = time.perf_counter()
        errors = np.concatenate(self.team.gather(self.examine(weights, crops).errors))
        return score(errors), time.perf_counter() - began

    def examine(self, weights: Mapping[str, Tensor], crops: Crops) -> Evaluation:
        """Everything about these crops."""
        self.model.load_state_dict(dict(weights), strict=True)
        with branch_form("folded"):
            return evaluate(self.predict, crops, self.spec)
