"""How large and how small every tensor of a graph gets on given faces, measured batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from export.onnx_file import to_bytes
from export.onnx_info import element_types
from runtime.backends.ort import OrtModel
from runtime.errors import InputError, UsageError

BATCH = 16


@dataclass(frozen=True)
class Range:
    """What was seen of one tensor."""

    name: str
    largest: float
    """Largest magnitude."""
    smallest: float
    """Smallest magnitude that is not zero; 0 when all values are."""
    rms: float
    constant: bool


def measure_ranges(model: ModelProto, faces: NDArray[np.float32]) -> dict[str, Range]:
    """Run a float graph on normalised faces and keep running extremes of each float tensor, constants included."""
    if not len(faces):
        raise UsageError("no faces to measure ranges on")
    watched = ModelProto()
    watched.CopyFrom(model)
    types = element_types(watched)
    outputs = {info.name for info in watched.graph.output}
    for name in dict.fromkeys(o for node in watched.graph.node for o in node.output):
        if types.get(name) == TensorProto.FLOAT and name not in outputs:
            watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = OrtModel(to_bytes(watched), optimise=False)
    order = [o for node in watched.graph.node for o in node.output if o in session.output_names]
    seen: dict[str, _Running] = {}
    for start in range(0, len(faces), BATCH):
        batch = faces[start : start + BATCH]
        values = [batch, *session.outputs(batch, order)]
        for name, value in zip((session.input_name, *order), values, strict=True):
            seen.setdefault(name, _Running()).add(value, name)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            seen.setdefault(tensor.name, _Running(True)).add(np.asarray(numpy_helper.to_array(tensor)), tensor.name)
    return {name: running.range(name) for name, running in seen.items()}


class _Running:
    def __init__(self, constant: bool = False) -> None:
        self.largest, self.smallest, self.squares, self.count = 0.0, np.inf, 0.0, 0
        self.constant = constant

    def add(self, values: NDArray[np.float32], name: str) -> None:
        size = np.abs(values)
        largest = float(size.max(initial=0.0))
        if not np.isfinite(largest):
            raise InputError(f"tensor {name!r} holds NaN or infinity on the given faces; the model itself is broken")
        self.largest = max(self.largest, largest)
        self.smallest = min(self.smallest, float(size.min(initial=np.inf, where=size > 0)))
        self.squares += largest**2 * float(np.square(size / largest).sum(dtype=np.float64)) if largest else 0.0
        self.count += size.size

    def range(self, name: str) -> Range:
        smallest = 0.0 if np.isinf(self.smallest) else self.smallest
        return Range(name, self.largest, smallest, float(np.sqrt(self.squares / max(self.count, 1))), self.constant)
