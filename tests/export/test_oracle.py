"""The integer oracle against ONNX Runtime, against slow loops, and against cases worked out by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "calib"))
sys.path.insert(0, str(Path(__file__).parent))
import nets
from test_int8_writer import MODELS, by_onnxruntime, plan_for

from calib.mixed import with_float
from export.int8 import write_int8
from export.oracle import Oracle, Pending, Real, Stored, Term, convolve, quantise, real
from runtime.errors import InputError
from runtime.geometry import network_input

BATCH = network_input(nets.faces(6, seed=8, margin=0), nets.SPEC)


def fed_with_codes(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The model with every stored tensor as an input: each layer then works on given int8 values alone."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    stored = [n.output[0] for n in copy.graph.node if n.op_type == "QuantizeLinear"]
    for node in copy.graph.node:
        for place, name in enumerate(node.input):
            if node.op_type == "DequantizeLinear" and name in stored:
                node.input[place] = f"{name}_given"
    for name in stored:
        copy.graph.input.append(onnx.helper.make_tensor_value_info(f"{name}_given", onnx.TensorProto.INT8, None))
        copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT8, None))
    return copy, stored


@pytest.mark.parametrize("name", MODELS)
def test_each_tensor_is_within_one_step_of_onnx_runtime_given_the_same_inputs(name: str) -> None:
    import onnxruntime

    written = write_int8(MODELS[name], plan_for(MODELS[name]))
    ours = Oracle(written).run(BATCH, keep=True)
    fed, stored = fed_with_codes(written)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(fed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {"input": BATCH, **{f"{n}_given": ours.stored[n] for n in stored}}
    theirs = session.run(None, feeds)
    np.testing.assert_allclose(theirs[0], ours.output, rtol=0, atol=2e-6)
    for tensor, codes in zip(stored, theirs[1:], strict=True):
        gap = np.abs(codes.astype(int) - ours.stored[tensor])
        assert gap.max() <= 1, tensor
        assert (gap > 0).mean() < 1e-3, f"{tensor}: only values on the edge between two steps may differ"


def test_the_whole_network_agrees_with_onnx_runtime() -> None:
    written = write_int8(MODELS["ghost"], plan_for(MODELS["ghost"]))
    (theirs,) = by_onnxruntime(written, BATCH)
    gaps = np.abs(theirs - Oracle(written).run(BATCH).output).max(axis=1)
    assert np.median(gaps) < 2e-6
    assert gaps.max() < 5e-3


def test_float_layers_run_in_the_fixed_order() -> None:
    plan = with_float(plan_for(MODELS["ghost"]), ["Conv_stem"])
    written = write_int8(MODELS["ghost"], plan)
    (theirs,) = by_onnxruntime(written, BATCH)
    gaps = np.abs(theirs - Oracle(written).run(BATCH).output).max(axis=1)
    assert np.median(gaps) < 2e-6


@pytest.mark.parametrize(
    ("channels", "outs", "kernel", "stride", "pad", "groups"),
    [
        (3, 4, 3, 2, 1, 1),
        (4, 4, 3, 1, 1, 4),
        (4, 4, 3, 2, 0, 4),
        (8, 6, 1, 1, 0, 1),
        (4, 6, 3, 1, 1, 2),
        (2, 5, 5, 1, 0, 1),
    ],
)
def test_convolution_equals_loops(channels: int, outs: int, kernel: int, stride: int, pad: int, groups: int) -> None:
    random = np.random.default_rng(0)
    codes = random.integers(-128, 128, (2, channels, 7, 6)).astype(np.int8)
    weight = random.integers(-127, 128, (outs, channels // groups, kernel, kernel)).astype(np.int8)
    found = convolve(codes, weight, [pad] * 4, [stride] * 2, groups)
    padded = np.pad(codes.astype(np.int64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    expected = np.zeros(found.shape, dtype=np.int64)
    per = channels // groups
    for o in range(outs):
        first = o // (outs // groups) * per
        for y in range(found.shape[2]):
            for x in range(found.shape[3]):
                window = padded[
                    :, first : first + per, y * stride : y * stride + kernel, x * stride : x * stride + kernel
                ]
                expected[:, o, y, x] = (window * weight[o].astype(np.int64)).sum(axis=(1, 2, 3))
    np.testing.assert_array_equal(found, expected)


def test_large_sums_stay_exact() -> None:
    codes = np.full((1, 600, 3, 3), 127, dtype=np.int8)
    weight = np.full((2, 600, 3, 3), 127, dtype=np.int8)
    weight[1, 0, 0, 0] = 126
    found = convolve(codes, weight, [0] * 4, [1, 1], 1)
    assert found.ravel().tolist() == [127 * 127 * 5400, 127 * 127 * 5400 - 127], "float32 has steps of 8 up there"


def pending(values: list[int], unit: float, **limits: float) -> Pending:
    array = np.array(values, dtype=np.int32).reshape(1, 1, 1, -1)
    return Pending((Term(array, np.array([unit])),), **limits)


def codes_of(value: object, step: float) -> list[int]:
    return quantise(value, np.float32(step)).ravel().tolist()


def test_ties_go_to_even_and_the_range_is_cut() -> None:
    assert codes_of(pending([1, 3, 5, -1, -3, 1000, -1000], 0.5), 1.0) == [0, 2, 2, 0, -2, 127, -128]
    assert codes_of(Real(np.array([[[[0.5, 1.5, 2.5, -0.5, 300.0]]]], np.float32)), 1.0) == [0, 2, 2, 0, 127]


def test_relu_and_clip_are_limits_of_the_integers() -> None:
    assert codes_of(pending([-7, 7], 1.0, low=0.0), 1.0) == [0, 7]
    assert codes_of(pending([-7, 5, 7, 9], 1.0, low=0.0, high=6.0), 0.5) == [0, 10, 12, 12]


def test_the_multiplier_is_rounded_once_to_float32_and_the_product_once() -> None:
    value, unit, step = 8_388_607, 0.1 / 3, 2203.0
    multiplier = np.float32(np.float64(unit) / np.float64(np.float32(step)))
    expected = int(np.rint(np.float32(value) * multiplier))
    assert codes_of(pending([value], unit), step) == [expected]


def test_an_addition_scales_each_side_then_adds_then_rounds() -> None:
    left, right = (
        Term(np.array([[[[3]]]], np.int32), np.array([0.25])),
        Term(np.array([[[[1]]]], np.int8), np.array([0.75])),
    )
    assert codes_of(Pending((left, right)), 1.0) == [2]
    assert real(Pending((left, right))).item() == 1.5


def test_stored_values_pass_unchanged_at_their_own_step() -> None:
    value = Stored(np.array([[[[-128, 5]]]], np.int8), np.float32(0.3))
    assert codes_of(value, 0.3) == [-128, 5]
    assert codes_of(value, 0.6) == [-64, 2]


def test_unknown_operators_and_zero_points_are_refused() -> None:
    written = write_int8(MODELS["ghost"], plan_for(MODELS["ghost"]))
    relu = next(n for n in written.graph.node if n.op_type == "Relu")
    relu.op_type = "Sigmoid"
    with pytest.raises(InputError, match="operator Sigmoid has no integer meaning"):
        Oracle(written)
    relu.op_type = "Relu"
    zero = next(t for t in written.graph.initializer if t.name == "int8_zero_point")
    zero.CopyFrom(onnx.numpy_helper.from_array(np.array(3, np.int8), zero.name))
    with pytest.raises(InputError, match="zero point 0"):
        Oracle(written)
