"""Small ghost-like networks and face-like pictures for calibration tests: seconds, not minutes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from runtime.spec import ModelSpec

SIZE = 32
POINTS = 5
SPEC = ModelSpec("toy", points=POINTS, input_size=SIZE, layout=f"plain{POINTS}", normaliser="box")


class Builder:
    """Writes an ONNX network node by node."""

    def __init__(self, seed: int, opset: int = 18) -> None:
        self.random = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{op}_{output}", **attributes))
        return output

    def conv(self, source: str, into: int, out: int, name: str, **options: Any) -> str:
        kernel, stride, depthwise = options.get("kernel", 1), options.get("stride", 1), options.get("depthwise", False)
        fan = kernel * kernel * (1 if depthwise else into)
        weight = self.random.normal(0, (2 / fan) ** 0.5, (out, 1 if depthwise else into, kernel, kernel))
        weight *= np.exp(self.random.normal(0, options.get("uneven", 0.0), (out, 1, 1, 1)))
        bias = self.random.normal(0, 0.1, out)
        inputs = [
            source,
            self.constant(f"{name}.weight", weight.astype(np.float32)),
            self.constant(f"{name}.bias", bias.astype(np.float32)),
        ]
        pad = kernel // 2 if options.get("pad", True) else 0
        output = self.node(
            "Conv",
            inputs,
            name,
            kernel_shape=[kernel, kernel],
            pads=[pad] * 4,
            strides=[stride, stride],
            group=into if depthwise else 1,
        )
        return self.node("Relu", [output], f"{name}.relu") if options.get("relu", False) else output

    def ghost(self, source: str, into: int, out: int, name: str, relu: bool, uneven: float = 0.0) -> str:
        first = self.conv(source, into, out // 2, f"{name}.primary", relu=relu, uneven=uneven)
        second = self.conv(
            first, out // 2, out // 2, f"{name}.cheap", kernel=3, depthwise=True, relu=relu, uneven=uneven
        )
        return self.node("Concat", [first, second], f"{name}.cat", axis=1)

    def flat_pool(self, source: str, name: str) -> str:
        if self.opset >= 18:
            axes = self.constant(f"{name}.axes", np.array([2, 3], dtype=np.int64))
            return self.node("ReduceMean", [source, axes], name, keepdims=0)
        pooled = self.node("GlobalAveragePool", [source], f"{name}.pool")
        return self.node("Flatten", [pooled], name, axis=1)

    def model(self, parts: list[str], widths: int) -> onnx.ModelProto:
        joined = self.node("Concat", parts, "features", axis=1) if len(parts) > 1 else parts[0]
        weight = self.random.normal(0, 0.15 / widths**0.5, (2 * POINTS, widths)).astype(np.float32)
        middle = self.random.uniform(0.25, 0.75, 2 * POINTS).astype(np.float32)
        inputs = [joined, self.constant("fc.weight", weight), self.constant("fc.bias", middle)]
        self.node("Gemm", inputs, "output", transB=1)
        graph = helper.make_graph(
            self.nodes,
            "toy",
            [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
            [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["batch", 2 * POINTS])],
            self.initializers,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        made.ir_version = 8
        return made


def ghost_net(seed: int = 1, opset: int = 18, uneven: float = 1.0) -> onnx.ModelProto:
    """Stem, two ghost modules, a strided depthwise step between them, pooled taps, one fully connected layer."""
    b = Builder(seed, opset)
    stem = b.conv("input", 3, 8, "stem", kernel=3, stride=2, relu=True, uneven=uneven)
    one = b.ghost(stem, 8, 16, "one", relu=True, uneven=uneven)
    down = b.conv(one, 16, 16, "down", kernel=3, stride=2, depthwise=True, uneven=uneven)
    two = b.ghost(down, 16, 12, "two", relu=False, uneven=uneven)
    last = b.conv(two, 12, 16, "last", kernel=8, pad=False, relu=True, uneven=uneven)
    flat = b.node("Flatten", [last], "flat", axis=1)
    return b.model([b.flat_pool(stem, "p0"), b.flat_pool(two, "p1"), flat], 8 + 12 + 16)


def residual_net(seed: int = 2) -> onnx.ModelProto:
    """Ghost bottlenecks with both kinds of shortcut, and a slice behind a concat, as GhostNet has them."""
    b = Builder(seed, 13)
    stem = b.conv("input", 3, 8, "stem", kernel=3, stride=2, relu=True)
    wide = b.ghost(stem, 8, 12, "one", relu=True)
    narrow = b.ghost(wide, 12, 8, "two", relu=False)
    ends = [b.constant(n, np.array([v], dtype=np.int64)) for n, v in (("starts", 0), ("ends", 7), ("axes", 1))]
    cut = b.node("Slice", [narrow, *ends], "cut")
    short = b.conv(b.conv(stem, 8, 8, "short.dw", kernel=3, depthwise=True), 8, 7, "short.pw")
    joined = b.node("Add", [cut, short], "joined")
    again = b.conv(b.conv(joined, 7, 7, "again.a", relu=True), 7, 7, "again.b")
    total = b.node("Add", [joined, again], "total")
    return b.model([b.flat_pool(stem, "p0"), b.flat_pool(total, "p1")], 15)


def faces(count: int, seed: int = 0, margin: int = 4) -> NDArray[np.uint8]:
    """Smooth blobs of light: not faces, but as smooth as photos, and every one different."""
    random = np.random.default_rng(seed)
    side = SIZE + 2 * margin
    y, x = np.mgrid[0:side, 0:side] / side
    made = np.empty((count, side, side, 3), dtype=np.uint8)
    for row in range(count):
        picture = np.zeros((side, side, 3))
        for _ in range(4):
            cx, cy, width = random.uniform(0.1, 0.9), random.uniform(0.1, 0.9), random.uniform(0.02, 0.1)
            blob = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / width)
            picture += blob[..., None] * random.uniform(-1, 1, 3)
        made[row] = np.clip(127 + 110 * picture, 0, 255).astype(np.uint8)
    return made
