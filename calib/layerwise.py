"""Layer-by-layer comparison of the int8 network with the float network it came from."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calib.fake import run_fake
from calib.graph import Graph, run
from calib.plan import Plan, to_batch, torch_parameters, torch_scales, torch_weight_scales
from runtime.spec import ModelSpec


def relative_errors(teacher: Graph, plan: Plan, crops: NDArray[np.uint8], spec: ModelSpec) -> dict[str, float]:
    """Root mean square error of each weighted node's output over the root mean square of the float output.

    `teacher` has the plan's own channel factors; an error includes what was handed down from the layers before.
    """
    batch = to_batch(crops, spec)
    outputs = {node.output: batch for node in teacher.weighted}
    exact: dict[str, Tensor] = dict(outputs)
    rough: dict[str, Tensor] = dict(outputs)
    with torch.no_grad():
        run(teacher, torch_parameters(teacher), batch, keep=exact)
        run_fake(
            plan.graph,
            plan.sites,
            torch_parameters(plan.graph),
            torch_scales(plan),
            batch,
            torch_weight_scales(plan),
            keep=rough,
        )
    errors = {}
    for node in teacher.weighted:
        norm = float(exact[node.output].double().square().mean().sqrt())
        gap = float((exact[node.output] - rough[node.output]).double().square().mean().sqrt())
        errors[node.name] = gap / norm if norm > 0 else 0.0
    return errors
