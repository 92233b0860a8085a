"""Models of the family as other projects save them: trained-looking, as state dicts and as exported graphs."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto
from torch import Tensor, nn

from runtime.spec import CropRule, ModelSpec
from train.models.zoo import build

SIZE = 48


def spec_of_upstream(
    architecture: str, width: float = 0.25, size: int = SIZE, points: int = 98, branches: int = 6
) -> ModelSpec:
    """A spec with upstream's input."""
    layout = "wflw98" if points == 98 else f"plain{points}"
    crop = CropRule(rounding="pixel")
    return ModelSpec(architecture, width, points, size, branches, layout, crop=crop, coordinates="corner")


def trained(spec: ModelSpec, seed: int = 1) -> nn.Module:
    """A training-form model whose BN has seen data, with gammas and betas of both signs."""
    torch.manual_seed(seed)
    model = build(spec)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.normal_(norm.weight, 1.0, 0.4)
        nn.init.normal_(norm.bias, 0.0, 0.3)
        norm.momentum = None
    with torch.no_grad():
        model.train()(torch.randn(8, 3, spec.input_size, spec.input_size))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def exported(model: nn.Module, spec: ModelSpec, *, anonymous: bool = True, batch: int = 1) -> ModelProto:
    """An ONNX graph as the older exporter writes it: BN folded, fixed batch; names of weights taken away on request."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            (torch.zeros(batch, 3, spec.input_size, spec.input_size),),
            buffer,
            dynamo=False,
            opset_version=12,
            input_names=["input"],
            output_names=["output"],
        )
    graph = onnx.load_model_from_string(buffer.getvalue())
    return without_names(graph) if anonymous else graph


def without_names(model: ModelProto) -> ModelProto:
    """Every stored tensor gets a number for a name, and the tensors stand in another order than the layers."""
    names = {tensor.name: f"onnx::Conv_{591 + i}" for i, tensor in enumerate(model.graph.initializer)}
    tensors = list(model.graph.initializer)
    for tensor in tensors:
        tensor.name = names[tensor.name]
    order = np.random.default_rng(3).permutation(len(tensors))
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors[i] for i in order)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    return model


def in_another_order(model: ModelProto) -> ModelProto:
    """The same graph, its nodes listed in another order that is as valid."""
    waiting: list[NodeProto] = list(model.graph.node)
    known = {tensor.name for tensor in model.graph.initializer} | {info.name for info in model.graph.input} | {""}
    ordered: list[NodeProto] = []
    while waiting:
        ready = [node for node in waiting if all(name in known for name in node.input)]
        chosen = ready[-1]
        ordered.append(chosen)
        known.update(chosen.output)
        waiting.remove(chosen)
    result = ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(ordered)
    return result


def save(content: object, path: object) -> None:
    torch.save(content, str(path))


def state(model: nn.Module) -> dict[str, Tensor]:
    """A plain copy of a model's weights."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
