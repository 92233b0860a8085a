"""A small bundle made by hand, for everything that needs a network but not a good one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from runtime.bundle import MANIFEST, Artefact, Manifest, Source
from runtime.files import sha256_bytes
from runtime.layouts import WFLW98
from runtime.spec import CropRule, ModelSpec

SIZE = 64


def mean_points() -> np.ndarray:
    """The front view of the runtime's mean face, in [0.2, 0.8] of the crop."""
    from runtime.meanface import MEAN_FACE

    face = np.asarray(MEAN_FACE["wflw98"])[:, :2]
    low, high = face.min(0), face.max(0)
    return (face - (low + high) / 2) / (high - low).max() / 1.2 + 0.5


def small_net(seed: int = 0) -> bytes:
    """A convolution, a pool and a linear layer: outputs near a mean face, moved a little by what it sees."""
    generator = np.random.default_rng(seed)
    kernel = generator.normal(0, 0.2, (8, 3, 5, 5)).astype(np.float32)
    weight = generator.normal(0, 0.002, (8 * 8 * 8, 196)).astype(np.float32)
    bias = mean_points().astype(np.float32).reshape(-1)
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["a"], strides=[2, 2], pads=[2, 2, 2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("AveragePool", ["b"], ["c"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "weight", "bias"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 196])],
        [numpy_helper.from_array(v, n) for n, v in (("kernel", kernel), ("weight", weight), ("bias", bias))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(onnx.ModelProto.SerializeToString(model))


def write_bundle(place: Path, files: dict[str, tuple[str, bytes]], spec: ModelSpec) -> Path:
    """A bundle directory of the given artefacts, name -> (file, bytes)."""
    entries = []
    for name, (file, data) in files.items():
        target = place / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        entries.append(Artefact(name, file, "onnx", sha256_bytes(data), len(data), None, {}))
    manifest = Manifest(spec, Source("1" * 64, "fused", None), "0.1.0", {}, tuple(entries))
    (place / MANIFEST).write_bytes(manifest.to_bytes())
    return place


def small_spec() -> ModelSpec:
    return ModelSpec("ghostone", input_size=SIZE, layout=WFLW98.name, crop=CropRule(scale=1.2))
