"""Half precision: interface float32 whatever is kept, layers at risk found, weights correctly rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from export.fp16 import audit, half_outputs, half_weights_differ, to_half
from export.onnx_file import opset_of, to_bytes
from export.onnx_info import describe
from export.ranges import measure_ranges
from export.shift import landmark_shift
from runtime.backends.ort import OrtModel
from runtime.errors import InputError, UsageError
from runtime.spec import ModelSpec

FIRST, SECOND = "conv1.reparam_conv", "conv1.reparam_conv.relu"


def kept_sets(model: ModelProto) -> dict[str, list[str]]:
    names = [node.name for node in model.graph.node]
    return {
        "nothing": [],
        "first": names[:1],
        "last": ["fc"],
        "first and last": [names[0], "fc"],
        "neighbours": names[:3],
        "neighbours before the last": ["concat", "fc"],
        "branch point": [names[1]],
        "all but one": [n for n in names if n != "conv7.reparam_conv"],
    }


@pytest.mark.parametrize(
    "which",
    [
        "nothing",
        "first",
        "last",
        "first and last",
        "neighbours",
        "neighbours before the last",
        "branch point",
        "all but one",
    ],
)
def test_interface_and_weights_survive(
    onnx_model: ModelProto, spec: ModelSpec, probes: NDArray[np.float32], which: str
) -> None:
    keep = kept_sets(onnx_model)[which]
    half = to_half(onnx_model, spec, keep)
    ports = [info.type.tensor_type.elem_type for info in (*half.graph.input, *half.graph.output)]
    assert ports == [TensorProto.FLOAT] * 2
    assert half_weights_differ(half, onnx_model, keep) is None
    precisions = describe(half, which).precisions
    weighted = {layer.name for layer in describe(onnx_model, which).layers}
    assert precisions.get("float32", 0) == len(weighted & set(keep))
    wanted = OrtModel(to_bytes(onnx_model))(probes)
    shift = landmark_shift(half_outputs(half, probes), wanted, spec)
    assert 0 < shift.mean_percent < (0.05 if "fc" in keep else 0.1)


def test_the_converter_alone_loses_the_output_type(onnx_model: ModelProto) -> None:
    """The bug that to_half works around; when this fails, the work-around can go."""
    from onnxconverter_common import float16

    raw = float16.convert_float_to_float16(onnx_model, keep_io_types=True, node_block_list=["fc"])
    assert raw.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT16


def test_kept_neighbours_are_not_rounded_in_between(onnx_model: ModelProto, spec: ModelSpec) -> None:
    half = to_half(onnx_model, spec, [FIRST, SECOND])
    maker = {output: node for node in half.graph.node for output in node.output}
    relu = next(n for n in half.graph.node if n.name == SECOND)
    assert maker[relu.input[0]].name == FIRST


def scaled(model: ModelProto, name: str, factor: float) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in (f"{name}.weight", f"{name}.bias"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    return copy


def blown_up(model: ModelProto, factor: float = 2.0**16) -> ModelProto:
    """The first layer's output times a power of two, divided out again in its readers: the same function."""
    copy = scaled(model, FIRST, factor)
    for tensor in copy.graph.initializer:
        if tensor.name == "conv2.reparam_conv.weight":
            values = numpy_helper.to_array(tensor) / np.float32(factor)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return copy


def test_overflow_is_found_named_and_avoided(
    onnx_model: ModelProto, spec: ModelSpec, probes: NDArray[np.float32]
) -> None:
    wild = blown_up(onnx_model)
    wanted = OrtModel(to_bytes(wild))(probes)
    assert not np.isfinite(half_outputs(to_half(wild, spec, ["fc"]), probes)).all()
    kept = audit(wild, measure_ranges(wild, probes))
    names = [k.node for k in kept]
    assert names == [FIRST, SECOND, "conv2.reparam_conv", "fc"]
    assert "65504" in kept[0].reason and FIRST in kept[0].reason
    shift = landmark_shift(half_outputs(to_half(wild, spec, names), probes), wanted, spec)
    assert shift.mean_percent < 0.05


def test_subnormals_are_found_and_avoided(onnx_model: ModelProto, spec: ModelSpec, probes: NDArray[np.float32]) -> None:
    tiny = blown_up(onnx_model, 2.0**-16)
    wanted = OrtModel(to_bytes(tiny))(probes)
    careless = landmark_shift(half_outputs(to_half(tiny, spec, ["fc"]), probes), wanted, spec)
    kept = audit(tiny, measure_ranges(tiny, probes))
    names = [k.node for k in kept]
    assert set(names) >= {FIRST, SECOND} and "subnormals" in kept[0].reason
    careful = landmark_shift(half_outputs(to_half(tiny, spec, names), probes), wanted, spec)
    assert careful.mean_percent < 0.05 < careless.mean_percent


def test_a_usual_model_keeps_its_head_only(onnx_model: ModelProto, probes: NDArray[np.float32]) -> None:
    assert [k.node for k in audit(onnx_model, measure_ranges(onnx_model, probes))] == ["fc"]


def test_ranges_are_those_of_a_plain_run(onnx_model: ModelProto, probes: NDArray[np.float32]) -> None:
    ranges = measure_ranges(onnx_model, np.concatenate([probes, probes[:5] * 3]))
    output = OrtModel(to_bytes(onnx_model))(np.concatenate([probes, probes[:5] * 3]))
    assert ranges["landmarks"].largest == pytest.approx(np.abs(output).max(), rel=1e-5)
    assert ranges["input"].largest == max(np.abs(probes).max(), np.abs(probes[:5]).max() * 3)
    assert ranges["fc.weight"].constant and not ranges[FIRST].constant
    assert ranges[SECOND].largest <= ranges[FIRST].largest


def test_a_broken_model_is_named(onnx_model: ModelProto, probes: NDArray[np.float32]) -> None:
    with pytest.raises(InputError, match=r"conv1\.reparam_conv.*NaN or infinity"):
        measure_ranges(scaled(onnx_model, FIRST, float("nan")), probes)


@pytest.mark.parametrize("value", [1.0, 1e-9, -1e-9, 7e4, -7e4, 6.1e-5, 0.0, 2049.0])
def test_weights_of_any_size_are_rounded_as_promised(onnx_model: ModelProto, spec: ModelSpec, value: float) -> None:
    tensor = next(t for t in onnx_model.graph.initializer if t.name == "conv2.reparam_conv.weight")
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] = value
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    half = to_half(onnx_model, spec, ["fc"])
    found = next(numpy_helper.to_array(t) for t in half.graph.initializer if t.name == tensor.name).flat[0]
    wanted = np.copysign(max(abs(value), 2.0**-24), value) if value else 0.0
    assert found == np.float16(np.clip(wanted, -65504, 65504))


@pytest.mark.parametrize("opset", [17, 18, 20])
def test_opset_stays(make_onnx: Callable[..., ModelProto], spec: ModelSpec, opset: int) -> None:
    half = to_half(make_onnx(opset), spec, ["fc"])
    assert opset_of(half) == opset
    onnx.checker.check_model(half, full_check=True)


def test_a_changed_weight_is_seen(onnx_model: ModelProto, spec: ModelSpec) -> None:
    half = to_half(onnx_model, spec, ["fc"])
    for tensor in half.graph.initializer:
        original = TensorProto.FromString(tensor.SerializeToString())
        values: NDArray[Any] = numpy_helper.to_array(tensor).copy()
        values.flat[values.size // 2] = values.flat[values.size // 2] * 1.01 or 1e-3
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        assert tensor.name in str(half_weights_differ(half, onnx_model, ["fc"]))
        tensor.CopyFrom(original)
    assert half_weights_differ(half, onnx_model, ["fc"]) is None


def test_wrong_use_is_refused(onnx_model: ModelProto, spec: ModelSpec) -> None:
    with pytest.raises(UsageError, match="no layer called 'conv9'"):
        to_half(onnx_model, spec, ["conv9"])
    with pytest.raises(InputError, match="already holds Cast"):
        to_half(to_half(onnx_model, spec), spec)


def test_conversion_is_repeatable(onnx_model: ModelProto, spec: ModelSpec) -> None:
    assert to_bytes(to_half(onnx_model, spec, [FIRST, "fc"])) == to_bytes(to_half(onnx_model, spec, ["fc", FIRST]))
