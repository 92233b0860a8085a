"""The int8 steps of a network by names that hold in every form of it: traced from torch, or read from ONNX."""

from __future__ import annotations

import numpy as np
import torch

from calib.graph import Graph
from calib.plan import Plan
from calib.sites import Sites, find_sites
from runtime.errors import InputError
from train.checkpoint import Int8Steps

INPUT = "input"


def tensor_names(graph: Graph) -> dict[str, str]:
    """Tensor -> a name made of the layers' names, whatever the tensors are called in this form of the network."""
    names: dict[str, str] = {graph.input: INPUT}
    for node in graph.nodes:
        if node.weight is not None:
            names[node.output] = node.weight.removesuffix(".weight")
        elif node.op == "Concat":
            names[node.output] = f"{min(names[source] for source in node.inputs)}.concat"
        else:
            name = max(names[source] for source in node.inputs)
            names[node.output] = f"{name}.add" if node.op == "Add" else name
    return names


def group_names(graph: Graph, sites: Sites) -> dict[str, str]:
    """Scale group -> the name of a tensor in it."""
    tensors = tensor_names(graph)
    names = {group: min(tensors[member] for member in sites.members(group)) for group in sites.groups}
    if len(set(names.values())) != len(names):
        raise InputError("two int8 tensors of the network share one layer; its steps cannot be told apart")
    return names


def steps_of(plan: Plan) -> Int8Steps:
    """The steps of a plan by layers."""
    names = group_names(plan.graph, plan.sites)
    return Int8Steps(
        {names[group]: torch.tensor(float(step)) for group, step in plan.scales.items()},
        {name: torch.from_numpy(steps.copy()) for name, steps in plan.weight_scales.items()},
    )


def plan_with(graph: Graph, steps: Int8Steps, where: str = "checkpoint") -> Plan:
    """A plan of the network's own weights with given steps; a step too many or too few is an error."""
    sites = find_sites(graph)
    names = group_names(graph, sites)
    wanted = [str(node.weight) for node in graph.weighted if node.name in sites.quantised]
    for what, found, expected in (
        ("activation", set(steps.activations), set(names.values())),
        ("weight", set(steps.weights), set(wanted)),
    ):
        odd = sorted(found ^ expected)
        if odd:
            kind = "lacks the" if odd[0] in expected else "has a foreign"
            raise InputError(f"{where}: {kind} int8 step of the {what} {odd[0]!r}; it was made for another network")
    for name in wanted:
        if steps.weights[name].shape != (len(graph.parameters[name]),):
            found_shape = tuple(steps.weights[name].shape)
            raise InputError(
                f"{where}: int8 steps of shape {found_shape} for the weight {name!r}, "
                f"expected {(len(graph.parameters[name]),)}"
            )
    scales = {group: np.float32(steps.activations[name].item()) for group, name in names.items()}
    return Plan(graph, sites, scales, {name: steps.weights[name].numpy().copy() for name in wanted})
