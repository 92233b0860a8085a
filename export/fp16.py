"""A float32 graph in half precision: range audit first, layers at risk stay float32, input and output stay float32."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from export.onnx_file import to_bytes
from export.onnx_info import WEIGHTED, element_types
from export.ranges import BATCH, Range
from export.tidy import finish
from runtime.backends.ort import OrtModel
from runtime.errors import InputError, UsageError
from runtime.lazy import require
from runtime.spec import ModelSpec

HALF_MAX = 65504.0
SMALLEST_SUBNORMAL = 2.0**-24
OVERFLOW_LIMIT = 0.5 * HALF_MAX
"""Faces not seen may go twice as far."""
SUBNORMAL_LIMIT = 2.0**-13
"""Below this size of a tensor's values, the fixed step of subnormals is coarser than half precision's own rounding."""


@dataclass(frozen=True)
class Kept:
    """A layer that stays float32, and why."""

    node: str
    reason: str


def audit(model: ModelProto, ranges: dict[str, Range]) -> list[Kept]:
    """Layers that half precision would hurt: overflow, subnormals, and the head, whose output is coordinates."""
    kept: dict[str, str] = {}
    for node in model.graph.node:
        for name in (*node.output, *node.input):
            reason = _risk(ranges.get(name))
            if reason:
                kept.setdefault(node.name, reason)
    head = _head(model)
    if head is not None:
        kept.setdefault(
            head.name, "it puts out coordinates: one half-precision step is 0.05 pixels of a 112-pixel crop"
        )
    return [Kept(node.name, kept[node.name]) for node in model.graph.node if node.name in kept]


def _risk(seen: Range | None) -> str | None:
    if seen is None or seen.largest == 0:
        return None
    if seen.largest > OVERFLOW_LIMIT:
        return f"{seen.name} reaches {seen.largest:.4g}, half of float16's {HALF_MAX:g} is the limit"
    if seen.rms < SUBNORMAL_LIMIT:
        return f"{seen.name} is as small as {seen.rms:.3g} (rms), float16 has subnormals there"
    return None


def _head(model: ModelProto) -> NodeProto | None:
    """The layer that puts out the landmarks."""
    outputs = {info.name for info in model.graph.output}
    return next((n for n in model.graph.node if n.op_type in WEIGHTED and outputs & set(n.output)), None)


def to_half(model: ModelProto, spec: ModelSpec, keep: Iterable[str] = ()) -> ModelProto:
    """Convert a simplified float32 graph; the nodes named in `keep` compute in float32."""
    float16 = require("onnxconverter_common.float16", "converting to float16")
    kept = sorted(set(keep))
    _refuse_unfit(model, kept)
    source = ModelProto()
    source.CopyFrom(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted: ModelProto = float16.convert_float_to_float16(
            source,
            min_positive_val=SMALLEST_SUBNORMAL,
            max_finite_val=HALF_MAX,
            keep_io_types=True,
            node_block_list=kept,
        )
    _float_outputs(converted)
    _drop_useless_casts(converted)
    result = finish(converted, spec)
    _refuse_surprises(result, model, kept)
    return result


def rounded_everywhere(half: ModelProto) -> ModelProto:
    """The same graph with every tensor an output, so that ONNX Runtime on a CPU rounds each one to float16.

    Left to itself it computes in float32 across several operators and looks twice as good as a GPU will be.
    """
    result = ModelProto()
    result.CopyFrom(half)
    types = element_types(result)
    known = {info.name for info in result.graph.output}
    for name in dict.fromkeys(o for node in half.graph.node for o in node.output):
        if name not in known and name in types:
            result.graph.output.append(onnx.helper.make_tensor_value_info(name, types[name], None))
    return result


def half_outputs(half: ModelProto, faces: NDArray[np.float32]) -> NDArray[np.float32]:
    """Landmarks of a float16 graph with every tensor rounded, run in small batches."""
    session = OrtModel(to_bytes(rounded_everywhere(half)), optimise=False)
    name = half.graph.output[0].name
    index = session.output_names.index(name)
    parts = [session.outputs(faces[i : i + BATCH])[index] for i in range(0, len(faces), BATCH)]
    return np.concatenate(parts)


def _refuse_unfit(model: ModelProto, kept: Collection[str]) -> None:
    names = {node.name for node in model.graph.node}
    unknown = [name for name in kept if name not in names]
    if unknown:
        raise UsageError(f"float16: no layer called {unknown[0]!r} to keep in float32")
    odd = sorted({n.op_type for n in model.graph.node} & {"Cast", "QuantizeLinear", "DequantizeLinear"})
    if odd:
        raise InputError(f"float16: the graph already holds {odd[0]} nodes; convert the plain float32 model")
    types = {t.data_type for t in model.graph.initializer}
    if TensorProto.FLOAT16 in types:
        raise InputError("float16: the graph already holds float16 weights; convert the float32 model")


def _cast_target(node: NodeProto) -> int:
    return next(int(a.i) for a in node.attribute if a.name == "to") if node.op_type == "Cast" else 0


def _float_outputs(model: ModelProto) -> None:
    """The converter declares the output float16 when the layer that makes it was kept; undo that."""
    makers = {output: node for node in model.graph.node for output in node.output}
    for info in model.graph.output:
        maker = makers[info.name]
        if info.type.tensor_type.elem_type == TensorProto.FLOAT16 and _cast_target(maker) == TensorProto.FLOAT16:
            next(a for a in maker.attribute if a.name == "to").i = TensorProto.FLOAT
        info.type.tensor_type.elem_type = TensorProto.FLOAT


def _drop_useless_casts(model: ModelProto) -> None:
    """Between two kept layers the converter rounds to float16 and back; that would overflow where it must not."""
    graph = model.graph
    changed = True
    while changed:
        changed = False
        del graph.value_info[:]
        types = element_types(model)
        makers = {output: node for node in graph.node for output in node.output}
        outputs = {info.name for info in graph.output}
        for node in [n for n in graph.node if n.op_type == "Cast"]:
            target, source = _cast_target(node), node.input[0]
            before = makers.get(source)
            if before is not None and _cast_target(before) == TensorProto.FLOAT16 and target == TensorProto.FLOAT:
                source = before.input[0]
            if types.get(source) != target:
                continue
            _bypass(graph, node, source, node.output[0] in outputs)
            changed = True
            break
    used = {name for node in graph.node for name in node.input} | {info.name for info in graph.output}
    for node in [n for n in graph.node if n.op_type == "Cast" and n.output[0] not in used]:
        graph.node.remove(node)


def _bypass(graph: onnx.GraphProto, cast: NodeProto, source: str, is_output: bool) -> None:
    """Take a cast out: its readers read `source`, or the maker of `source` makes the model's output."""
    target = cast.output[0]
    graph.node.remove(cast)
    old, new = (source, target) if is_output else (target, source)
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new
        for i, name in enumerate(node.output):
            if is_output and name == old:
                node.output[i] = new


def _refuse_surprises(result: ModelProto, model: ModelProto, kept: Collection[str]) -> None:
    """Interface float32, kept layers float32 all through, every other weight the float32 one correctly rounded."""
    for info in (*result.graph.input, *result.graph.output):
        if info.type.tensor_type.elem_type != TensorProto.FLOAT:
            raise InputError(f"float16: {info.name} is no longer float32 after the conversion")
    problem = half_weights_differ(result, model, kept)
    if problem:
        raise InputError(f"float16: {problem}")


def half_weights_differ(half: ModelProto, full: ModelProto, kept: Collection[str]) -> str | None:
    """Name a constant of a float16 graph that is not what the float32 graph and the kept layers demand."""
    mine = {t.name: t for t in half.graph.initializer}
    readers = {name: node for node in full.graph.node for name in node.input}
    for tensor in full.graph.initializer:
        if tensor.name not in mine:
            return f"constant {tensor.name!r} is missing"
        values = np.asarray(numpy_helper.to_array(tensor))
        stays = readers[tensor.name].name in kept or values.dtype != np.float32
        wanted = values if stays else _rounded(values)
        found = np.asarray(numpy_helper.to_array(mine[tensor.name]))
        if found.dtype != wanted.dtype or not np.array_equal(found, wanted):
            return f"constant {tensor.name!r} is not the float32 weight {'as it was' if stays else 'rounded'}"
    extra = sorted(set(mine) - {t.name for t in full.graph.initializer})
    return f"unexpected constant {extra[0]!r}" if extra else None


def _rounded(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """To nearest even; what would become zero keeps the smallest subnormal, what would overflow the largest number."""
    size = np.abs(values)
    bounded = np.where((size > 0) & (size < SMALLEST_SUBNORMAL), np.copysign(SMALLEST_SUBNORMAL, values), values)
    clipped: NDArray[Any] = np.clip(bounded, -HALF_MAX, HALF_MAX)
    return clipped.astype(np.float16)
