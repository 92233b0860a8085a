"""The state that every calibration step takes and gives back: a float graph, where it is quantised, and the scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calib.fake import WEIGHT_LIMIT, run_fake
from calib.graph import Graph, Node, run
from calib.sites import Sites
from runtime.errors import InputError
from runtime.geometry import network_input
from runtime.spec import ModelSpec

BATCH = 32
WORKERS = 2
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Plan:
    """An int8 network: a graph's float weights, the steps that round them to int8, the activations' steps."""

    graph: Graph
    sites: Sites
    scales: Mapping[str, np.float32]
    """Step of each scale group."""
    weight_scales: Mapping[str, NDArray[np.float32]]
    """Step of each output channel of each int8 weight."""

    def codes(self, weight: str) -> NDArray[np.int8]:
        """The int8 values of a weight."""
        value = self.graph.parameters[weight]
        steps = self.weight_scales[weight].reshape(-1, *([1] * (value.ndim - 1)))
        return np.asarray(np.clip(np.rint(value / steps), -WEIGHT_LIMIT, WEIGHT_LIMIT), dtype=np.int8)


def channels_last(tensor: Tensor) -> Tensor:
    """The memory order in which small convolutions run fastest on a CPU."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def torch_parameters(graph: Graph) -> dict[str, Tensor]:
    """The graph's parameters, ready to run."""
    return {name: channels_last(value) for name, value in graph.tensors().items()}


def torch_scales(plan: Plan) -> dict[str, Tensor]:
    return {group: torch.tensor(float(step), dtype=torch.float32) for group, step in plan.scales.items()}


def torch_weight_scales(plan: Plan) -> dict[str, Tensor]:
    return {name: torch.from_numpy(step.copy()) for name, step in plan.weight_scales.items()}


def to_batch(crops: NDArray[np.uint8], spec: ModelSpec) -> Tensor:
    """Network input for uint8 crops."""
    return channels_last(torch.from_numpy(network_input(crops, spec)))


def each_batch(crops: NDArray[np.uint8], spec: ModelSpec, work: Callable[[Tensor], Result]) -> Iterator[Result]:
    """`work` on every batch of crops without gradients, in order; two batches run side by side, one thread each."""

    def one(first: int) -> Result:
        with torch.no_grad():
            return work(to_batch(crops[first : first + BATCH], spec))

    with ThreadPoolExecutor(WORKERS, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(one, range(0, len(crops), BATCH))


def predict_float(graph: Graph, crops: NDArray[np.uint8], spec: ModelSpec) -> NDArray[np.float32]:
    """Float outputs (N, 2P)."""
    parameters = torch_parameters(graph)
    return np.concatenate(list(each_batch(crops, spec, lambda batch: run(graph, parameters, batch).numpy())))


def predict_plan(plan: Plan, crops: NDArray[np.uint8], spec: ModelSpec) -> NDArray[np.float32]:
    """Outputs of the int8 network, imitated in float32."""
    parameters, scales, steps = torch_parameters(plan.graph), torch_scales(plan), torch_weight_scales(plan)

    def work(batch: Tensor) -> NDArray[np.float32]:
        return np.asarray(run_fake(plan.graph, plan.sites, parameters, scales, batch, steps).numpy())

    return np.concatenate(list(each_batch(crops, spec, work)))


def plain_weight_scales(graph: Graph, sites: Sites) -> dict[str, NDArray[np.float32]]:
    """Per-channel steps that cut nothing off."""
    steps: dict[str, NDArray[np.float32]] = {}
    for node in graph.weighted:
        if node.name in sites.quantised:
            weight = graph.parameters[str(node.weight)]
            peak = np.abs(weight).max(axis=tuple(range(1, weight.ndim)))
            steps[str(node.weight)] = np.where(peak > 0, peak / WEIGHT_LIMIT, 1).astype(np.float32)
    return steps


def check_input(graph: Graph, spec: ModelSpec, where: str) -> None:
    """The model must take what the spec says it takes."""
    wanted = (3, spec.input_size, spec.input_size)
    if graph.input_shape != wanted:
        raise InputError(f"{where}: its input is {list(graph.input_shape)}, the spec says {list(wanted)}")


def float_predictor(graph: Graph) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Normalised batch -> outputs of the float network."""
    parameters = torch_parameters(graph)

    def predict(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            return np.asarray(run(graph, parameters, channels_last(torch.from_numpy(batch))).numpy())

    return predict


def plan_predictor(plan: Plan) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Normalised batch -> outputs of the int8 network, imitated in float32."""
    parameters, scales, steps = torch_parameters(plan.graph), torch_scales(plan), torch_weight_scales(plan)

    def predict(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        ready = channels_last(torch.from_numpy(batch))
        with torch.no_grad():
            return np.asarray(run_fake(plan.graph, plan.sites, parameters, scales, ready, steps).numpy())

    return predict


def snap_biases(plan: Plan) -> Plan:
    """The plan with every bias on a whole number of accumulator units, as the integer network holds it.

    So the float bias in the ONNX file and the int32 bias in the integer network are one and the same number.
    """
    changed = dict(plan.graph.parameters)
    for node in plan.graph.weighted:
        if node.bias and node.name in plan.sites.quantised:
            unit = accumulator_unit(plan, node)
            changed[node.bias] = (np.rint(changed[node.bias].astype(np.float64) / unit) * unit).astype(np.float32)
    return replace(plan, graph=replace(plan.graph, parameters=changed))


def accumulator_unit(plan: Plan, node: Node) -> NDArray[np.float64]:
    """What one unit of an int8 convolution's sum is worth, per output channel."""
    step = np.float64(plan.scales[plan.sites.group[node.inputs[0]]])
    return np.asarray(step * plan.weight_scales[str(node.weight)].astype(np.float64))
