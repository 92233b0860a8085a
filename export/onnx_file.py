"""ONNX files that may come from anywhere: capped, whole in one file, and read without touching any other file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from runtime.errors import InputError
from runtime.files import read_bytes, write_atomic
from runtime.spec import METADATA_KEY, ModelSpec

MAX_ONNX_BYTES = 512 << 20
MAX_NODES = 100_000
ONNX_DOMAINS = ("", "ai.onnx")


def read_onnx(path: Path | str) -> ModelProto:
    """Read a self-contained ONNX file; whatever is wrong with it is one InputError."""
    return parse_onnx(read_bytes(path, MAX_ONNX_BYTES), str(path))


def parse_onnx(data: bytes, where: str) -> ModelProto:
    """Parse ONNX bytes, refuse external data and impossible tensors."""
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: not an ONNX file, or cut short") from error
    if not model.graph.node or not model.opset_import or not model.ir_version:
        raise InputError(f"{where}: not an ONNX file (no graph, operator set or format version in it)")
    if len(model.graph.node) > MAX_NODES:
        raise InputError(f"{where}: {len(model.graph.node)} nodes, the limit is {MAX_NODES}")
    for tensor in _all_tensors(model):
        _refuse_odd_tensor(tensor, where)
    return model


def check_onnx(model: ModelProto, where: str) -> None:
    """The format's own full check, shapes included."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, TypeError) as error:
        raise InputError(f"{where}: not valid ONNX: {str(error).strip().splitlines()[0][:300]}") from error


def to_bytes(model: ModelProto) -> bytes:
    """Serialise so that equal models give equal bytes."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def write_onnx(path: Path | str, model: ModelProto) -> None:
    """Write an ONNX file atomically."""
    data = to_bytes(model)
    write_atomic(path, lambda stream: stream.write(data))


def opset_of(model: ModelProto) -> int:
    """Version of the standard operators that the model imports; 0 when it imports none."""
    return max((o.version for o in model.opset_import if o.domain in ONNX_DOMAINS), default=0)


def spec_of(model: ModelProto, where: str) -> ModelSpec | None:
    """The spec in the model's metadata; None for a foreign file."""
    texts = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    if len(texts) > 1:
        raise InputError(f"{where}: {len(texts)} model specs in its metadata, expected one")
    return ModelSpec.from_json(texts[0], f"{where}: spec in the metadata") if texts else None


def set_spec(model: ModelProto, spec: ModelSpec) -> None:
    """Make the spec the model's only metadata."""
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=spec.to_json())


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and all graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            yield from graphs_of(attribute)


def graphs_of(attribute: AttributeProto) -> Iterator[GraphProto]:
    """The graphs an attribute holds."""
    if attribute.HasField("g"):
        yield from graphs(attribute.g)
    for inner in attribute.graphs:
        yield from graphs(inner)


def _all_tensors(model: ModelProto) -> Iterator[TensorProto]:
    for graph in graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            yield from _tensors_of(node)
    for function in model.functions:
        for node in function.node:
            yield from _tensors_of(node)
            for attribute in node.attribute:
                for graph in graphs_of(attribute):
                    yield from graph.initializer
    for info in model.training_info:
        yield from info.initialization.initializer
        yield from info.algorithm.initializer


def _tensors_of(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
            yield from (sparse.values, sparse.indices)


def _refuse_odd_tensor(tensor: TensorProto, where: str) -> None:
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise InputError(
            f"{where}: tensor {tensor.name!r} lies in another file (external data), which is never read; "
            "save the model as one file first (onnx.save with save_as_external_data=False)"
        )
    if any(size < 0 for size in tensor.dims):
        raise InputError(f"{where}: tensor {tensor.name!r} has the impossible shape {list(tensor.dims)}")
    width = _BYTES.get(tensor.data_type)
    if width and tensor.raw_data and math.prod(tensor.dims) * width != len(tensor.raw_data):
        raise InputError(
            f"{where}: tensor {tensor.name!r} of shape {list(tensor.dims)} needs {math.prod(tensor.dims) * width} "
            f"bytes and has {len(tensor.raw_data)}; the file is damaged"
        )
    stored = len(tensor.raw_data) or sum(
        len(values)
        for values in (
            tensor.float_data,
            tensor.int32_data,
            tensor.int64_data,
            tensor.double_data,
            tensor.uint64_data,
            tensor.string_data,
        )
    )
    if tensor.dims and math.prod(tensor.dims) > 2 * stored:
        raise InputError(f"{where}: tensor {tensor.name!r} claims {list(tensor.dims)} values and stores {stored}")


_BYTES: dict[int, int] = {
    TensorProto.FLOAT: 4,
    TensorProto.UINT8: 1,
    TensorProto.INT8: 1,
    TensorProto.UINT16: 2,
    TensorProto.INT16: 2,
    TensorProto.INT32: 4,
    TensorProto.INT64: 8,
    TensorProto.BOOL: 1,
    TensorProto.FLOAT16: 2,
    TensorProto.BFLOAT16: 2,
    TensorProto.DOUBLE: 8,
}
