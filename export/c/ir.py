"""The compiler's graph: a handful of typed layers over maps with static shapes, batch 1."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float32]


@dataclass(frozen=True)
class Shape:
    """A map: rows, columns, channels. A vector is a 1x1 map."""

    height: int
    width: int
    channels: int

    @property
    def elements(self) -> int:
        return self.height * self.width * self.channels

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.channels}"


@dataclass(eq=False)
class Tensor:
    """A value that flows between layers; `name` is the ONNX name, for comments only."""

    name: str
    shape: Shape
    step: np.float32 | None = None
    """What one unit is worth when the tensor is stored as int8; None: float32."""


@dataclass(eq=False)
class Layer:
    """One node: `inputs` are maps, `output` is a map."""

    inputs: list[Tensor]
    output: Tensor
    name: str = ""

    @property
    def macs(self) -> int:
        return 0


@dataclass(frozen=True)
class After:
    """An activation that runs over a layer's rows as soon as they are computed.

    "ramp": min(max(slope * x + shift, 0), high), which is HardSigmoid and a Clip from 0; "gate": x times its ramp,
    which is HardSwish; "sigmoid".
    """

    kind: str
    slope: float = 1.0
    shift: float = 0.0
    high: float = 1.0


@dataclass(eq=False)
class Dense(Layer):
    """Convolution over all channels (a fully connected layer is one on a 1x1 map).

    `weights` is (outputs, inputs, k, k). The second input, when there is one, is added before the activation.
    """

    weights: Weights = field(default_factory=lambda: np.zeros((0, 0, 1, 1), np.float32))
    bias: Weights = field(default_factory=lambda: np.zeros(0, np.float32))
    stride: int = 1
    pad: int = 0
    relu: bool = False
    steps: Weights | None = None
    """Per output channel: the weights are int8 codes (held as floats) of these steps; the bias stays in real units."""
    after: After | None = None
    picks: tuple[tuple[int, int], ...] | None = None
    """(first channel, count) runs of the input that a 1x1 convolution reads, in the order of its weights; None: all."""

    @property
    def kernel(self) -> int:
        return int(self.weights.shape[2])

    @property
    def macs(self) -> int:
        return self.output.shape.height * self.output.shape.width * int(self.weights.size)


@dataclass(eq=False)
class Depthwise(Layer):
    """Depthwise convolution with an odd kernel, padding kernel / 2. `weights` is (channels, k, k)."""

    weights: Weights = field(default_factory=lambda: np.zeros((0, 3, 3), np.float32))
    bias: Weights = field(default_factory=lambda: np.zeros(0, np.float32))
    stride: int = 1
    relu: bool = False
    steps: Weights | None = None
    after: After | None = None

    @property
    def kernel(self) -> int:
        return int(self.weights.shape[1])

    @property
    def pad(self) -> int:
        return self.kernel // 2

    @property
    def macs(self) -> int:
        return self.output.shape.height * self.output.shape.width * int(self.weights.size)


@dataclass(eq=False)
class Add(Layer):
    """Sum of two maps."""

    relu: bool = False
    after: After | None = None


@dataclass(eq=False)
class Relu(Layer):
    """Activation that no fusion has taken yet."""


@dataclass(eq=False)
class Activate(Layer):
    """Any other activation; a layer of its own only where no fusion could take it."""

    after: After = After("ramp")


@dataclass(eq=False)
class Scale(Layer):
    """Every channel of the first input times its factor in the second, a vector."""

    after: After | None = None


@dataclass(eq=False)
class MaxPool(Layer):
    """Largest value of a square window; places outside the map do not count."""

    kernel: int = 2
    stride: int = 2
    pad: int = 0


@dataclass(eq=False)
class Pick(Layer):
    """Channels of the input in the order of `channels`: a slice, a shuffle."""

    channels: tuple[int, ...] = ()


@dataclass(eq=False)
class Resize(Layer):
    """A larger map: pixels repeated, or bilinear between pixel centres. The sides need not grow by whole factors."""

    bilinear: bool = False


@dataclass(eq=False)
class CentreOfMass(Layer):
    """Softmax over every channel's map, then the mean of `cells` (places, 2) under it: x0, y0, x1, y1, ..."""

    cells: Weights = field(default_factory=lambda: np.zeros((0, 2), np.float32))


@dataclass(eq=False)
class Concat(Layer):
    """Channels behind one another; costs nothing once its inputs are written in place."""


@dataclass(eq=False)
class Pool(Layer):
    """Mean over the whole map."""


@dataclass(eq=False)
class Quantise(Layer):
    """Real numbers to the codes of the output's step: one division, rounded to even, clamped."""


@dataclass(eq=False)
class Dequantise(Layer):
    """Codes to real numbers: one product."""


@dataclass
class Graph:
    """Layers in execution order; `input` is the normalised face, `output` the landmark vector."""

    input: Tensor
    output: Tensor
    layers: list[Layer]

    def consumers(self, tensor: Tensor) -> list[Layer]:
        return [layer for layer in self.layers if tensor in layer.inputs]

    def producer(self, tensor: Tensor) -> Layer | None:
        return next((layer for layer in self.layers if layer.output is tensor), None)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)
