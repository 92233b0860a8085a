"""Bias correction: after rounding, each channel's mean output is put back where the float network has it.

Layer after layer, so that every layer sees the errors that the corrected layers before it still make.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calib.fake import run_fake
from calib.graph import Graph, run
from calib.plan import Plan, to_batch, torch_parameters, torch_scales, torch_weight_scales
from runtime.spec import ModelSpec


def correct_biases(plan: Plan, teacher: Graph, crops: NDArray[np.uint8], spec: ModelSpec, share: float = 1.0) -> Plan:
    """Move every bias by `share` of its channel's mean error on the crops (which are all held in memory at once).

    `teacher` is the float network with the plan's own channel factors, that is, after equalisation.
    """
    parameters, known = torch_parameters(plan.graph), torch_parameters(teacher)
    scales, steps = torch_scales(plan), torch_weight_scales(plan)
    batch = to_batch(crops, spec)
    exact: dict[str, Tensor] = {plan.graph.input: batch}
    rough: dict[str, Tensor] = {plan.graph.input: batch}
    last_use = {name: index for index, node in enumerate(plan.graph.nodes) for name in node.inputs}
    with torch.no_grad():
        for index, (node, original) in enumerate(zip(plan.graph.nodes, teacher.nodes, strict=True)):
            want = run(teacher, known, batch, nodes=(original,), start=exact)
            got = run_fake(plan.graph, plan.sites, parameters, scales, batch, steps, nodes=(node,), start=rough)
            if node.name in plan.sites.quantised and node.bias:
                error = (got - want).double().mean((0, 2, 3)).float() * share
                parameters[node.bias] = parameters[node.bias] - error
                got = got - error.reshape(1, -1, 1, 1)
            exact[node.output], rough[node.output] = want, got
            for name in node.inputs:
                if last_use[name] == index:
                    exact.pop(name, None)
                    rough.pop(name, None)
    changed = {name: np.ascontiguousarray(value.numpy()) for name, value in parameters.items()}
    return replace(plan, graph=replace(plan.graph, parameters=changed))
