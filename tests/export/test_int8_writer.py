"""The Q/DQ file: what is in it, and that it means what was calibrated."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "calib"))
import nets

from calib.graph import read_graph
from calib.mixed import with_float
from calib.observe import Observation, observe_peaks
from calib.plan import Plan, plain_weight_scales, predict_plan, snap_biases
from calib.ranges import group_scales
from calib.sites import find_sites
from export.contract import check_contract
from export.int8 import is_int8, write_int8
from export.oracle import Oracle
from runtime.errors import CheckFailedError, InputError
from runtime.geometry import network_input

CROPS = nets.faces(12, margin=0)
MODELS = {"ghost": nets.ghost_net(), "ghost13": nets.ghost_net(opset=13), "residual": nets.residual_net()}


def plan_for(model: onnx.ModelProto) -> Plan:
    graph = read_graph(model)
    sites = find_sites(graph)
    seen = Observation(observe_peaks(graph, sites, CROPS, nets.SPEC), {})
    return Plan(graph, sites, group_scales(sites, seen), plain_weight_scales(graph, sites))


def by_onnxruntime(model: onnx.ModelProto, batch: np.ndarray, extra: list[str] | None = None) -> list[np.ndarray]:
    import onnxruntime

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for name in extra or []:
        copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT8, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": batch})


@pytest.mark.parametrize("name", MODELS)
def test_onnx_runtime_computes_what_calibration_imitated(name: str) -> None:
    plan = plan_for(MODELS[name])
    batch = network_input(CROPS, nets.SPEC)
    (output,) = by_onnxruntime(write_int8(MODELS[name], plan), batch)
    imitated = predict_plan(snap_biases(plan), CROPS, nets.SPEC)
    gaps = np.abs(output - imitated).max(axis=1)
    assert np.median(gaps) < 1e-6, "a face may differ where a value lay on the edge between two steps"
    assert gaps.max() < 5e-3


@pytest.mark.parametrize("name", MODELS)
def test_tensorrt_would_take_it_without_a_word(name: str) -> None:
    assert [str(f) for f in check_contract(write_int8(MODELS[name], plan_for(MODELS[name])))] == []


def test_the_file_is_symmetric_per_channel_and_keeps_names_and_metadata() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(MODELS["ghost"])
    entry = model.metadata_props.add()
    entry.key, entry.value = "landmark_toolkit_spec", nets.SPEC.to_json()
    written = write_int8(model, plan_for(model))
    assert is_int8(written)
    assert not is_int8(model)
    assert written.metadata_props[0].value == nets.SPEC.to_json()
    assert [n.name for n in written.graph.node if "Quantize" not in n.op_type and "Dequantize" not in n.op_type] == [
        n.name for n in model.graph.node
    ]
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in written.graph.initializer}
    for node in written.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert not constants[node.input[2]].any()
            assert constants[node.input[2]].dtype == np.int8
    weights = [n for n in written.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants]
    assert len(weights) == sum(n.op_type == "Conv" for n in model.graph.node)
    for node in weights:
        codes = constants[node.input[0]]
        assert codes.dtype == np.int8
        assert codes.min() >= -127
        assert constants[node.input[1]].shape == (codes.shape[0],)
        assert [a.i for a in node.attribute if a.name == "axis"] == [0]
    assert all(value.dtype == np.float32 for name, value in constants.items() if name.endswith(".bias"))
    used = {name for node in written.graph.node for name in node.input}
    assert set(constants) <= used, "nothing is left over"


def test_a_bias_is_a_whole_number_of_accumulator_units() -> None:
    plan = plan_for(MODELS["ghost"])
    written = write_int8(MODELS["ghost"], plan)
    constants = {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in written.graph.initializer}
    unit = float(plan.scales["stem.relu"]) * plan.weight_scales["one.primary.weight"].astype(np.float64)
    whole = constants["one.primary.bias"] / unit
    np.testing.assert_allclose(whole, np.rint(whole), atol=1e-3)
    assert np.abs(whole).max() > 50


def test_equal_plans_give_equal_bytes() -> None:
    plan = plan_for(MODELS["residual"])
    assert write_int8(MODELS["residual"], plan).SerializeToString(deterministic=True) == write_int8(
        MODELS["residual"], plan
    ).SerializeToString(deterministic=True)


def test_an_old_opset_is_raised_and_nothing_else_changes() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(MODELS["ghost13"])
    model.opset_import[0].version = 12
    written = write_int8(model, plan_for(model))
    assert written.opset_import[0].version == 13
    same = write_int8(MODELS["ghost13"], plan_for(MODELS["ghost13"]))
    batch = network_input(CROPS[:2], nets.SPEC)
    np.testing.assert_array_equal(by_onnxruntime(written, batch)[0], by_onnxruntime(same, batch)[0])


def test_float_layers_keep_float_weights_and_inputs() -> None:
    plan = with_float(plan_for(MODELS["ghost"]), ["Conv_stem"])
    written = write_int8(MODELS["ghost"], plan)
    stem = next(n for n in written.graph.node if n.name == "Conv_stem")
    assert list(stem.input[:2]) == ["input", "stem.weight"]
    assert [str(f) for f in check_contract(written)] == []


def test_another_network_and_impossible_scales_are_refused() -> None:
    plan = plan_for(MODELS["ghost"])
    with pytest.raises(InputError, match="another network"):
        write_int8(MODELS["residual"], plan)
    bad = replace(plan, scales={**plan.scales, "one.primary.relu": np.float32("nan")})
    with pytest.raises(CheckFailedError, match=r"one\.primary\.relu"):
        write_int8(MODELS["ghost"], bad)


def test_a_sum_that_could_overflow_is_refused() -> None:
    plan = plan_for(MODELS["ghost"])
    parameters = dict(plan.graph.parameters)
    parameters["one.primary.bias"] = parameters["one.primary.bias"] + np.float32(1e9)
    with pytest.raises(CheckFailedError, match="overflow"):
        write_int8(MODELS["ghost"], replace(plan, graph=replace(plan.graph, parameters=parameters)))


def test_the_oracle_reads_its_own_file() -> None:
    written = write_int8(MODELS["ghost"], plan_for(MODELS["ghost"]))
    again = onnx.load_from_string(written.SerializeToString())
    batch = network_input(CROPS[:2], nets.SPEC)
    assert Oracle(again).run(batch).output.tobytes() == Oracle(written).run(batch).output.tobytes()
