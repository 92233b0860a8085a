"""Where int8 and float meet: which layers put out codes, which real numbers, and the steps between the two forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.c.ir import Add, Concat, Dense, Depthwise, Dequantise, Graph, Layer, MaxPool, Pick, Quantise, Tensor
from runtime.errors import InputError


def settle(graph: Graph) -> None:
    """Let every layer write its result in the form that is read; what is read in both forms is computed in both.

    A float result is rounded by a layer of its own. An int8 layer scales its sum straight to codes, which is not the
    same as rounding its real numbers, so it runs once for each form.
    """
    forms = _Forms(graph)
    for layer in [x for x in graph.layers if isinstance(x, Quantise)]:
        source, step = layer.inputs[0], layer.output.step
        if step is None:
            raise InputError(f"C export: {layer.name!r} has no int8 scale")
        codes = forms.codes(source, step)
        graph.layers = [x for x in graph.layers if x is not layer]
        for reader in graph.layers:
            reader.inputs = [codes if tensor is layer.output else tensor for tensor in reader.inputs]
        graph.output = codes if graph.output is layer.output else graph.output
    if forms.face is not None:
        if graph.consumers(graph.input):
            raise InputError("C export: the face is read both as int8 and as float; only one of the two is supported")
        graph.input = forms.face


def widen_operands(graph: Graph) -> None:
    """Float layers that read a stored tensor read its real values."""
    real: dict[int, Tensor] = {}
    for layer in list(graph.layers):
        if not _is_float(layer):
            continue
        for tensor in [t for t in layer.inputs if t.step is not None]:
            if id(tensor) not in real:
                real[id(tensor)] = Tensor(tensor.name, tensor.shape)
                step = Dequantise([tensor], real[id(tensor)], f"{tensor.name} as float")
                producer = graph.producer(tensor)
                graph.layers.insert(graph.layers.index(producer) + 1 if producer is not None else 0, step)
            layer.inputs = [real[id(t)] if t is tensor else t for t in layer.inputs]


def _is_float(layer: Layer) -> bool:
    """Whether a layer works on real numbers alone."""
    if isinstance(layer, (Dense, Depthwise)):
        return layer.steps is None
    return isinstance(layer, (Add, Concat, MaxPool, Pick)) and layer.output.step is None


class _Forms:
    """The int8 form of every tensor that needs one, made once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.face: Tensor | None = None
        self._made: dict[tuple[int, float], Tensor] = {}

    def codes(self, tensor: Tensor, step: np.float32) -> Tensor:
        """The tensor in codes of that step."""
        if tensor.step is not None:
            if tensor.step != step:
                raise InputError(f"C export: {tensor.name!r} is int8 of scale {tensor.step}, it is read as {step}")
            return tensor
        key = id(tensor), float(step)
        if key not in self._made:
            self._made[key] = self._make(tensor, step)
        return self._made[key]

    def _make(self, tensor: Tensor, step: np.float32) -> Tensor:
        made = Tensor(tensor.name, tensor.shape, step)
        producer = self.graph.producer(tensor)
        if producer is None:
            if self.face is not None:
                raise InputError(f"C export: the face has two int8 scales, {self.face.step} and {step}")
            self.face = made
        elif isinstance(producer, (Concat, Pick)):
            parts = [self.codes(part, step) for part in producer.inputs]
            self._behind(producer, replace(producer, inputs=parts, output=made))
        elif self._rounds_by_itself(producer, step):
            self._behind(producer, replace(producer, inputs=list(producer.inputs), output=made))
        elif isinstance(producer, Add) and self._adds_codes(producer):
            operands = [self._sum(t) if self._is_sum(t) else t for t in producer.inputs]
            self._behind(producer, replace(producer, inputs=operands, output=made))
        else:
            self._behind(producer, Quantise([tensor], made, f"{tensor.name} as int8"))
        return made

    def _rounds_by_itself(self, layer: Layer, step: np.float32) -> bool:
        """Whether a layer can put out the codes instead of real numbers."""
        if isinstance(layer, MaxPool):
            return layer.inputs[0].step == step
        return isinstance(layer, (Dense, Depthwise)) and layer.steps is not None and layer.after is None

    def _adds_codes(self, layer: Add) -> bool:
        return layer.after is None and any(self._is_sum(t) or t.step is not None for t in layer.inputs)

    def _is_sum(self, tensor: Tensor) -> bool:
        """Whether a tensor is what an int8 convolution has in its accumulator."""
        producer = self.graph.producer(tensor)
        return isinstance(producer, (Dense, Depthwise)) and producer.steps is not None and tensor.step is None

    def _sum(self, tensor: Tensor) -> Tensor:
        """A sum of its own for an addition that is computed in both forms."""
        producer = self.graph.producer(tensor)
        assert producer is not None  # noqa: S101  (_is_sum has seen it)
        own = Tensor(tensor.name, tensor.shape)
        self._behind(producer, replace(producer, inputs=list(producer.inputs), output=own))
        return own

    def _behind(self, layer: Layer, new: Layer) -> None:
        self.graph.layers.insert(self.graph.layers.index(layer) + 1, new)
