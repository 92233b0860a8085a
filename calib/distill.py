"""Label-free fine-tuning: the fake-quantised network learns to put the landmarks where the float network puts them.

Weights, biases and (if asked) activation scales move; the rounding is passed straight through. The teacher is the float
network itself on augmented calibration faces, so no label is needed and nothing new is learned, only repaired.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from calib.augment import HARD, Strength, augmented
from calib.fake import run_fake
from calib.graph import Graph, run
from calib.landmarks import divisors
from calib.learn import HALVES, Halves, Steps, cosine, mean_point_distance, one_thread
from calib.plan import Plan, to_batch, torch_parameters, torch_weight_scales
from runtime.errors import UsageError
from runtime.spec import ModelSpec


@dataclass(frozen=True)
class Distillation:
    """How long and how fast to learn."""

    steps: int = 400
    batch: int = 32
    rate: float = 0.02
    """Largest move of a weight per step, in int8 steps."""
    scale_rate: float = 0.0
    """The same for the logarithms of the activation scales; 0 leaves the scales as they are."""
    strength: Strength = HARD


def distill(
    plan: Plan,
    teacher: Graph,
    faces: NDArray[np.uint8],
    spec: ModelSpec,
    settings: Distillation | None = None,
    seed: int = 0,
    progress: Callable[[float], object] | None = None,
) -> Plan:
    """Fine-tune `plan` on augmented `faces` (N, M, M, 3) against `teacher`; `progress` gets each step's loss."""
    chosen = Distillation() if settings is None else settings
    if chosen.steps < 1 or chosen.batch < HALVES or chosen.batch % HALVES or not chosen.rate > 0:
        raise UsageError(f"distillation: expected steps > 0, an even batch and a rate > 0, found {chosen}")
    known = torch_parameters(teacher)
    steps = Steps(plan)
    weight_scales = torch_weight_scales(plan)
    groups = [{"params": steps.weights, "lr": chosen.rate}]
    leaves = list(steps.weights)
    if chosen.scale_rate > 0:
        groups.append({"params": list(steps.log_scale.values()), "lr": chosen.scale_rate})
        leaves += steps.log_scale.values()
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99), foreach=False)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: cosine(step, chosen.steps))
    half = chosen.batch // HALVES

    def loss(step: int, index: int) -> torch.Tensor:
        crops = augmented(faces, spec.input_size, half, seed, chosen.strength, first=(step * HALVES + index) * half)
        batch = to_batch(crops, spec)
        with torch.no_grad():
            target = run(teacher, known, batch)
            size = torch.from_numpy(divisors(target.numpy(), spec).astype(np.float32))
        scales = steps.scales()
        output = run_fake(plan.graph, plan.sites, steps.parameters(), scales, batch, weight_scales)
        return mean_point_distance(output, target, size) / HALVES

    with one_thread(), Halves() as halves:
        for step in range(chosen.steps):
            value = halves.backward(partial(loss, step), leaves)
            optimiser.step()
            schedule.step()
            if progress is not None:
                progress(value)
    return steps.finish()
