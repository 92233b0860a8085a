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

    @property
    def kernel(self) -> int:
        return int(self.weights.shape[2])

    @property
    def macs(self) -> int:
        return self.output.shape.height * self.output.shape.width * int(self.weights.size)


@dataclass(eq=False)
class Depthwise(Layer):
    """3x3 depthwise convolution, padding 1. `weights` is (channels, 3, 3)."""

    weights: Weights = field(default_factory=lambda: np.zeros((0, 3, 3), np.float32))
    bias: Weights = field(default_factory=lambda: np.zeros(0, np.float32))
    stride: int = 1
    relu: bool = False
    steps: Weights | None = None

    @property
    def macs(self) -> int:
        return self.output.shape.height * self.output.shape.width * int(self.weights.size)


@dataclass(eq=False)
class Add(Layer):
    """Sum of two maps."""

    relu: bool = False


@dataclass(eq=False)
class Relu(Layer):
    """Activation that no fusion has taken yet."""


@dataclass(eq=False)
class Concat(Layer):
    """Channels behind one another; costs nothing once its inputs are written in place."""


@dataclass(eq=False)
class Pool(Layer):
    """Mean over the whole map."""


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
