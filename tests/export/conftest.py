"""Small models for export tests: random, but with outputs that look like a face."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import nn

from export.onnx_export import export_graph
from export.simplify import simplify
from export.ulp import limit_from
from runtime.geometry import network_input
from runtime.spec import ModelSpec
from train.checkpoint import Checkpoint, save_checkpoint
from train.models.zoo import build

SIZE = 64


def face_like(spec: ModelSpec, seed: int = 0) -> nn.Module:
    """A fused model with random weights; its output moves around a fixed face with the eyes far apart."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = build(spec, fused=True).eval()
    generator = np.random.default_rng(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                module.bias.add_(torch.from_numpy(generator.normal(0, 0.02, module.bias.shape).astype(np.float32)))
        points = generator.uniform(0.2, 0.8, (spec.points, 2)).astype(np.float32)
        points[60], points[72] = (0.3, 0.4), (0.7, 0.4)
        fc: nn.Linear = model.get_submodule("fc")  # type: ignore[assignment]
        fc.bias.copy_(torch.from_numpy(points.reshape(-1)))
        fc.weight.mul_(0.005)
    return model


def crops(count: int, size: int = SIZE, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth random pictures: gradients and blobs, not noise."""
    generator = np.random.default_rng(seed)
    coarse = generator.uniform(0, 255, (count, 5, 5, 3))
    at = np.linspace(0, 4, size)
    low = np.floor(at).astype(int).clip(0, 3)
    part = at - low
    rows = coarse[:, low] * (1 - part)[None, :, None, None] + coarse[:, low + 1] * part[None, :, None, None]
    both = rows[:, :, low] * (1 - part)[None, None, :, None] + rows[:, :, low + 1] * part[None, None, :, None]
    return both.round().astype(np.uint8)


def branched(spec: ModelSpec, seed: int = 0) -> nn.Module:
    """A multi-branch model whose norms have seen data; its output looks like a face, as above."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = build(spec).train()
    generator = np.random.default_rng(seed)
    faces = torch.from_numpy(network_input(crops(16, spec.input_size, seed), spec))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        model(faces)
        fc: nn.Linear = model.get_submodule("fc")  # type: ignore[assignment]
        points = generator.uniform(0.2, 0.8, (spec.points, 2)).astype(np.float32)
        points[60], points[72] = (0.3, 0.4), (0.7, 0.4)
        fc.bias.copy_(torch.from_numpy(points.reshape(-1)))
        fc.weight.mul_(0.005)
    return model.eval()


@pytest.fixture(scope="session")
def checkpoint_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multi-branch checkpoint, as training leaves it."""
    path = tmp_path_factory.mktemp("checkpoint") / "best.ckpt"
    spec = ModelSpec("ghostone", width=0.125, input_size=SIZE, branches=1)
    content = branched(spec).state_dict()
    state = {"optimizer": {"lr": 0.1}}
    save_checkpoint(path, Checkpoint("multi-branch", spec, content, recipe={"epochs": 3}, state=state))
    return path


@pytest.fixture(scope="session")
def bundle_dir(checkpoint_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle of the small model; tests copy it before they change anything."""
    from calib.quantize import quantize
    from export.road import Options, export_bundle

    target = tmp_path_factory.mktemp("bundle") / "bundle"
    options = Options(
        exporter="torchscript", fp16=True, int8="fast", audit="synth:20@5", calib_count=20, probes="synth:12@3"
    )
    quick = {"equalise": False, "bias": False, "noise_steps": 0, "distill_steps": 0, "augmented_faces": 32}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.road_int8.quantize", partial(quantize, algorithms=quick, shift_limit=0.03))
        export_bundle(checkpoint_file, target, options)
    return target


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    return ModelSpec("ghostone", width=0.25, input_size=SIZE)


@pytest.fixture(scope="session")
def model(spec: ModelSpec) -> nn.Module:
    return face_like(spec)


@pytest.fixture(scope="session")
def faces() -> NDArray[np.uint8]:
    return crops(16)


@pytest.fixture(scope="session")
def probes(faces: NDArray[np.uint8], spec: ModelSpec) -> NDArray[np.float32]:
    return network_input(faces, spec)


@pytest.fixture(scope="session")
def exact(model: nn.Module, probes: NDArray[np.float32]) -> NDArray[np.float64]:
    """What the model puts out in double precision."""
    import copy

    with torch.inference_mode():
        return np.asarray(copy.deepcopy(model).double()(torch.from_numpy(probes.astype(np.float64))).numpy())


@pytest.fixture(scope="session")
def make_onnx(
    model: nn.Module, spec: ModelSpec, probes: NDArray[np.float32], exact: NDArray[np.float64]
) -> Callable[..., ModelProto]:
    """Export the small model by the quick exporter; each opset once."""
    made: dict[tuple[int, str], ModelProto] = {}
    with torch.inference_mode():
        limit = limit_from(model(torch.from_numpy(probes)).numpy(), exact)

    def make(opset: int = 18, exporter: str = "torchscript") -> ModelProto:
        if (opset, exporter) not in made:
            raw = export_graph(model, spec, opset=opset, exporter=exporter)  # type: ignore[arg-type]
            made[opset, exporter] = simplify(raw, spec, probes, limit).model
        copy = ModelProto()
        copy.CopyFrom(made[opset, exporter])
        return copy

    return make


@pytest.fixture
def onnx_model(make_onnx: Callable[..., ModelProto]) -> ModelProto:
    return make_onnx()


@pytest.fixture(scope="session")
def c_bundle_dir(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle with C of both precisions."""
    from export.links_c import CRequest
    from runtime.backends.c_build import find_compiler
    from tests.export.with_c import add_to

    if find_compiler() is None:
        pytest.skip("no C compiler on the PATH")
    flags = ("-std=c99", "-O1", "-ffp-contract=off", "-fPIC", "-shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runtime.backends.c_build.BASE_FLAGS", flags)  # quick; the same numbers
        return add_to(bundle_dir, tmp_path_factory.mktemp("c-bundle") / "bundle", CRequest(("fp32", "int8")))
