"""How much the landmarks move per unit of rounding error, for every channel and weight: first order, from gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calib.graph import PASSING, Graph, run
from calib.landmarks import divisors
from calib.plan import to_batch, torch_parameters
from calib.sites import Sites
from runtime.spec import ModelSpec


@dataclass(frozen=True)
class Sensitivity:
    """Expected squared landmark movement per squared error, over the normalising distance, summed over points."""

    activation: Mapping[str, NDArray[np.float64]]
    """Per channel of each tensor that is computed (concats and slices only repeat them)."""
    weight: Mapping[str, NDArray[np.float64]]
    """Per element of each convolution's weight."""


def stored_tensors(graph: Graph, sites: Sites) -> tuple[str, ...]:
    """The tensors whose values are rounded once and stored; a concat or slice of them adds no error of its own."""
    kept = []
    for tensor in sites.group:
        producer = graph.producer(tensor)
        if producer is None or producer.op not in PASSING:
            kept.append(tensor)
    return tuple(kept)


def measure(
    graph: Graph,
    sites: Sites,
    crops: NDArray[np.uint8],
    spec: ModelSpec,
    seed: int = 0,
    progress: Callable[[], object] | None = None,
) -> Sensitivity:
    """One backward pass per face along random signs of the outputs; the zeros of a ReLU carry no rounding error."""
    parameters = {name: value.requires_grad_() for name, value in torch_parameters(graph).items()}
    stored = stored_tensors(graph, sites)
    weights = [str(node.weight) for node in graph.weighted if node.op == "Conv"]
    activation: dict[str, NDArray[np.float64]] = {}
    weight: dict[str, NDArray[np.float64]] = {}
    random = np.random.default_rng(seed)
    for face in range(len(crops)):
        batch = to_batch(crops[face : face + 1], spec).requires_grad_()
        keep: dict[str, Tensor] = dict.fromkeys(stored, batch)
        output = run(graph, parameters, batch, keep=keep)
        size = float(divisors(output.detach().numpy(), spec)[0])
        signs = torch.from_numpy(
            random.choice(np.array([-1.0, 1.0], dtype=np.float32), output.shape[1]) / np.float32(size)
        )
        wanted = [keep[tensor] for tensor in stored] + [parameters[name] for name in weights]
        gradients = torch.autograd.grad((output[0] * signs).sum(), wanted, materialize_grads=True)
        for tensor, gradient in zip(stored, gradients, strict=False):
            found = (gradient * (keep[tensor] != 0)).square().sum((0, 2, 3)).detach().double().numpy() / len(crops)
            activation[tensor] = activation.get(tensor, np.zeros_like(found)) + found
        for name, gradient in zip(weights, gradients[len(stored) :], strict=True):
            found = gradient.square().double().numpy() / len(crops)
            weight[name] = weight.get(name, np.zeros_like(found)) + found
        if progress is not None:
            progress()
    return Sensitivity(activation, weight)
