"""Networks of the whole zoo with random weights, as the tests of the C exporter want them: every channel alive."""

from __future__ import annotations

import io
import warnings

import onnx
import torch
from onnx import ModelProto

from runtime.spec import ModelSpec
from train.models.zoo import build

OTHERS = [
    ("mobilenetv3-small", 0.125, 64, 5),
    ("mobilenetv3-large", 0.125, 64, 5),
    ("mobileone-s0", 0.125, 64, 5),
    ("resnet18", 0.125, 64, 5),
    ("shufflenetv2", 0.25, 64, 5),
    ("hrnet-w18", 0.125, 64, 5),
]
"""The networks to compare with, tiny: architecture, width, input size, points."""
ODD = ("hrnet-w18", 0.125, 112, 5)
"""Its maps of 4 x 4 grow to 7 x 7, 14 x 14 and 28 x 28, by no whole factor."""


def zoo_model(spec: ModelSpec, seed: int = 0, opset: int = 17) -> ModelProto:
    """A fused net whose convolutions put out mean 0 and deviation 1 in every channel, on noise."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = build(spec, fused=True).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # equal tensors would be merged
            parameter.add_(0.01 * torch.randn_like(parameter))

    def steady(module: torch.nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
        dims = (0, 2, 3)
        mean, spread = output.mean(dims), output.std(dims).clamp_min(1e-3)
        if output[0, 0].numel() == 1:
            mean, spread = mean * 0, output.std().clamp_min(1e-3).expand_as(spread)
        module.weight.div_(spread.view(-1, 1, 1, 1))  # type: ignore[operator, union-attr]
        if module.bias is not None:
            module.bias.sub_(mean).div_(spread)  # type: ignore[operator, union-attr]
        return (output - mean.view(1, -1, 1, 1)) / spread.view(1, -1, 1, 1)

    hooks = [m.register_forward_hook(steady) for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    size = (spec.input_size, spec.input_size)
    with torch.no_grad():
        model(torch.nn.functional.interpolate(torch.rand(4, 3, size[0] // 8, size[1] // 8) * 2 - 1, size=size))
    for hook in hooks:
        hook.remove()
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.zeros(1, 3, *size),), stream, dynamo=False, opset_version=opset, input_names=["input"]
        )
    return onnx.load_from_string(stream.getvalue())
