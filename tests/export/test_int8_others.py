"""The networks to compare with on the int8 road: executor, sites, equalisation, Q/DQ file, exact integers."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import ModelProto

from calib.equalize import apply_factors, channel_classes
from calib.graph import Graph, read_graph, run
from calib.plan import torch_parameters
from calib.sites import find_sites
from export.links_c import refuse_int8_c
from export.oracle import Oracle
from runtime.errors import InputError, UsageError
from runtime.geometry import network_input

sys.path.insert(0, str(Path(__file__).parent / "c"))

from c_nets import faces, int8_model, spec_of
from zoo_nets import OTHERS, zoo_model

NETS = OTHERS[:5]


@cache
def model_of(case: tuple[str, float, int, int]) -> ModelProto:
    return zoo_model(spec_of(*case))


def batch_of(case: tuple[str, float, int, int]) -> np.ndarray:
    return network_input(faces(2, case[2]), spec_of(*case))


def by_onnxruntime(model: ModelProto, batch: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {session.get_inputs()[0].name: row[None]})[0] for row in batch])


def by_torch(graph: Graph, batch: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(run(graph, torch_parameters(graph), torch.from_numpy(batch)).numpy())


def near(found: np.ndarray, wanted: np.ndarray, limit: float) -> None:
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-2 * np.abs(wanted).max()
    assert np.abs(found - wanted).max() <= limit * np.abs(wanted).max()


@pytest.mark.parametrize("case", NETS, ids=lambda c: str(c[0]))
def test_the_executor_agrees_with_onnx_runtime(case: tuple[str, float, int, int]) -> None:
    near(by_torch(read_graph(model_of(case)), batch_of(case)), by_onnxruntime(model_of(case), batch_of(case)), 1e-4)


@pytest.mark.parametrize("case", NETS, ids=lambda c: str(c[0]))
def test_the_integers_are_what_onnx_runtime_computes(case: tuple[str, float, int, int]) -> None:
    model = int8_model(model_of(case))
    near(Oracle(model).run(batch_of(case)).output, by_onnxruntime(model, batch_of(case)), 1e-4)


@pytest.mark.parametrize("case", NETS, ids=lambda c: str(c[0]))
def test_channel_factors_leave_the_network_as_it_is(case: tuple[str, float, int, int]) -> None:
    graph = read_graph(model_of(case))
    classes, count = channel_classes(graph)
    table = np.append(np.exp(np.random.default_rng(0).normal(0, 0.5, count)), 1.0)
    factors = {tensor: table[index] for tensor, index in classes.items()}
    assert sum(bool((values != 1).any()) for values in factors.values()) > len(factors) / 20
    near(by_torch(apply_factors(graph, factors), batch_of(case)), by_torch(graph, batch_of(case)), 1e-3)


def test_factors_of_channels_stay_float_and_maps_become_int8() -> None:
    graph = read_graph(model_of(NETS[0]))
    sites = find_sites(graph)
    scales = [node for node in graph.nodes if node.op == "Mul"]
    assert scales and all(sum((n.name, t) in sites.readers for t in n.inputs) == 1 for n in scales)
    pooled = {node.output for node in graph.nodes if node.op == "Pool"}
    squeezes = [node for node in graph.weighted if node.op == "Conv" and node.inputs[0] in pooled]
    assert len(squeezes) == len(scales) and not any(node.name in sites.quantised for node in squeezes)


def test_a_shuffling_stage_and_a_max_pool_share_one_scale() -> None:
    shuffled = read_graph(model_of(NETS[4]))
    sites = find_sites(shuffled)
    first = next(n for n in shuffled.nodes if n.op == "Gather")
    last = [n for n in shuffled.nodes if n.op == "Gather"][3]
    assert sites.group[first.output] == sites.group[last.output]
    pooled = next(n for n in shuffled.nodes if n.op == "MaxPool")
    assert sites.group[pooled.inputs[0]] == sites.group[pooled.output]


def test_heatmaps_are_refused_with_the_list_of_what_is_known() -> None:
    with pytest.raises(InputError, match=r"Resize|Shape|Softmax|Identity") as error:
        read_graph(model_of(OTHERS[5]))
    assert "\n" not in str(error.value)


def test_int8_c_of_gated_nets_is_refused_before_calibration() -> None:
    with pytest.raises(UsageError, match=r"HardSigmoid, HardSwish, Mul.*--c-precision fp32"):
        refuse_int8_c(model_of(NETS[0]), spec_of(*NETS[0]))
    for case in NETS[2:]:
        refuse_int8_c(model_of(case), spec_of(*case))
