"""Export: one graph from both exporters, equal to the model in ULPs, silent about the machine, equal on repetition."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, helper
from torch import nn

from export.links import BATCHES, foreign_weights, onnx_checks, truth
from export.onnx_export import check_export_options, export_graph
from export.onnx_file import opset_of, parse_onnx, spec_of, to_bytes
from export.onnx_info import describe
from export.simplify import _slim, simplify
from export.tidy import means_to_pools, refuse_host_traces, tidy
from export.ulp import limit_from, ulps_apart
from runtime.backends.ort import OrtModel
from runtime.errors import CheckFailedError, InputError, UsageError
from runtime.spec import ModelSpec
from train.models.count import count
from train.models.zoo import build

ROOT = Path(__file__).resolve().parents[2]


def test_interface_and_metadata(onnx_model: ModelProto, spec: ModelSpec) -> None:
    info = describe(onnx_model, "model")
    assert [(p.name, p.type, p.shape) for p in info.inputs] == [("input", "float32", ("batch", 3, 64, 64))]
    assert [(p.name, p.type, p.shape) for p in info.outputs] == [("landmarks", "float32", ("batch", 196))]
    assert spec_of(onnx_model, "model") == spec
    assert len(onnx_model.metadata_props) == 1
    assert set(info.operators) == {"Conv", "Relu", "Concat", "GlobalAveragePool", "Flatten", "Gemm"}
    assert info.operators["GlobalAveragePool"] == 4


def test_cost_is_the_models(onnx_model: ModelProto, model: nn.Module, spec: ModelSpec) -> None:
    info, cost = describe(onnx_model, "model"), count(model, spec.input_size)
    assert (info.macs, info.params) == (cost.macs, cost.params)


@pytest.mark.parametrize("opset", [17, 18, 20])
def test_outputs_at_several_batch_sizes(
    make_onnx: Callable[..., ModelProto],
    model: nn.Module,
    spec: ModelSpec,
    probes: NDArray[np.float32],
    opset: int,
) -> None:
    graph = make_onnx(opset)
    assert opset_of(graph) == opset
    exact, limit = truth(model, probes)
    checks = onnx_checks(model, graph, spec, probes, exact, limit)
    assert [c.name for c in checks if not c.passed] == []
    assert next(c.value for c in checks if c.name == "outputs") > 0
    assert BATCHES == (1, 4, 7)


def test_both_exporters_and_a_third_opset_give_one_graph(
    make_onnx: Callable[..., ModelProto], model: nn.Module, spec: ModelSpec, probes: NDArray[np.float32]
) -> None:
    assert to_bytes(make_onnx(18, "dynamo")) == to_bytes(make_onnx(18))
    newest = make_onnx(21, "dynamo")
    assert opset_of(newest) == 21
    assert ulps_apart(OrtModel(to_bytes(newest))(probes), OrtModel(to_bytes(make_onnx()))(probes)) == 0


def test_dynamo_writes_opset_17(make_onnx: Callable[..., ModelProto]) -> None:
    assert to_bytes(make_onnx(17, "dynamo")) == to_bytes(make_onnx(17))


def test_nothing_about_the_machine(make_onnx: Callable[..., ModelProto]) -> None:
    for exporter in ("torchscript", "dynamo"):
        data = to_bytes(make_onnx(18, exporter))
        refuse_host_traces(data, "model")
        places = (ROOT, Path.home(), Path(torch.__file__).parent)
        assert not any(text in data for text in [b"stack_trace", b"nets.py", *(str(p).encode() for p in places)])


def test_the_raw_export_does_tell(model: nn.Module, spec: ModelSpec) -> None:
    """The guard is not idle: what the exporter writes before tidying holds stack traces with paths."""
    raw = export_graph(model, spec)
    with pytest.raises(InputError, match="trace of the machine"):
        refuse_host_traces(to_bytes(raw), "raw")


@pytest.mark.parametrize("text", ["/home/someone/x.py", "/usr/lib/python3", "site-packages", 'File "a.py"'])
def test_host_traces_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="not shipped"):
        refuse_host_traces(b"\x08\x01" + text.encode() + b"\x00", "file")
    refuse_host_traces(b"and/or conv1.weight", "file")


SCRIPT = """
import hashlib, sys
import numpy as np, torch
threads = int(sys.argv[1])
torch.set_num_threads(threads)
from runtime.spec import ModelSpec
from train.models.zoo import build
from export.onnx_export import export_graph
from export.simplify import simplify
from export.fp16 import to_half
from export.onnx_file import to_bytes
torch.manual_seed(5)
spec = ModelSpec("ghostone", 0.125, input_size=32)
model = build(spec, fused=True).eval()
probes = np.random.default_rng(0).uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32)
graph = simplify(export_graph(model, spec, exporter=sys.argv[2]), spec, probes, 1e4).model
for item in (graph, to_half(graph, spec, ["fc"])):
    print(hashlib.sha256(to_bytes(item)).hexdigest())
"""


def test_bytes_do_not_depend_on_place_hash_seed_or_threads(tmp_path: Path) -> None:
    seen = []
    for place, seed, threads, exporter in ((ROOT, "0", 1, "torchscript"), (tmp_path, "77", 2, "dynamo")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        run = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SCRIPT, str(threads), exporter],
            capture_output=True,
            text=True,
            check=True,
            cwd=place,
            env=environment,
        )
        seen.append(run.stdout.split())
    assert len(seen[0]) == 2 and seen[0] == seen[1]


def test_tidying_twice_changes_nothing(onnx_model: ModelProto, spec: ModelSpec) -> None:
    once = to_bytes(onnx_model)
    assert to_bytes(tidy(onnx_model, spec)) == once
    assert hashlib.sha256(once).hexdigest() == hashlib.sha256(to_bytes(onnx_model)).hexdigest()


def test_equal_biases_are_not_shared(spec: ModelSpec, probes: NDArray[np.float32]) -> None:
    """Exporters store equal constants once; the layer that loses its bias by that would fail the weight check."""
    torch.manual_seed(3)
    model = build(spec, fused=True).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            torch.nn.init.constant_(module.bias, 0.01)
    raw = export_graph(model, spec, exporter="torchscript")
    graph = simplify(raw, spec, probes, 1e4).model
    assert foreign_weights(model, graph) == 0
    assert sum(t.name.endswith(".bias") for t in graph.graph.initializer) == 51


def test_the_other_simplifier_gives_an_equal_graph(
    model: nn.Module, spec: ModelSpec, probes: NDArray[np.float32], onnx_model: ModelProto
) -> None:
    raw = export_graph(model, spec, exporter="torchscript")
    slim = tidy(_slim(raw), spec)
    assert len(slim.graph.node) == len(onnx_model.graph.node)
    assert foreign_weights(model, slim) == 0
    assert ulps_apart(OrtModel(to_bytes(slim))(probes), OrtModel(to_bytes(onnx_model))(probes)) == 0


def test_a_simplifier_that_breaks_the_graph_is_caught(
    model: nn.Module, spec: ModelSpec, probes: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = export_graph(model, spec, exporter="torchscript")

    def broken(graph: ModelProto) -> tuple[ModelProto, str]:
        copy = parse_onnx(to_bytes(graph), "copy")
        relu = next(n for n in copy.graph.node if n.op_type == "Relu")
        relu.op_type = "Tanh"
        return copy, "broken"

    monkeypatch.setattr("export.simplify._simplify", broken)
    with pytest.raises(CheckFailedError, match="broken changed the meaning"):
        simplify(raw, spec, probes, 1000)


def mean_graph(
    node: onnx.NodeProto, constants: list[onnx.TensorProto], output: list[int | str], opset: int
) -> ModelProto:
    graph = helper.make_graph(
        [node],
        "mean",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["b", 4, 6, 6])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, output)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


AXES = onnx.numpy_helper.from_array(np.array([2, 3]), "axes")
MEANS = {
    "axes as input": (helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0), [AXES], ["b", 4], 18),
    "axes kept": (helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1), [AXES], ["b", 4, 1, 1], 18),
    "axes as attribute": (helper.make_node("ReduceMean", ["x"], ["y"], axes=[-1, -2], keepdims=0), [], ["b", 4], 17),
    "average pool": (helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[6, 6]), [], ["b", 4, 1, 1], 17),
}


@pytest.mark.parametrize("name", MEANS)
def test_every_way_to_write_a_global_mean(name: str) -> None:
    graph = mean_graph(*MEANS[name])  # type: ignore[arg-type]
    x = np.random.default_rng(1).standard_normal((3, 4, 6, 6)).astype(np.float32)
    before = OrtModel(to_bytes(graph))(x)
    means_to_pools(graph)
    assert graph.graph.node[0].op_type == "GlobalAveragePool"
    after = OrtModel(to_bytes(graph))(x)
    assert after.shape == before.shape and ulps_apart(after, before) <= 4
    assert ulps_apart(after.reshape(3, 4), x.astype(np.float64).mean((2, 3)).astype(np.float32)) <= 4


PARTIAL = {
    "one axis": (helper.make_node("ReduceMean", ["x"], ["y"], axes=[2], keepdims=1), [], ["b", 4, 1, 6], 17),
    "small window": (helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3]), [], ["b", 4, 4, 4], 17),
    "channels": (helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=1), [], ["b", 1, 6, 6], 17),
}


@pytest.mark.parametrize("name", PARTIAL)
def test_other_means_stay(name: str) -> None:
    graph = mean_graph(*PARTIAL[name])  # type: ignore[arg-type]
    before = to_bytes(graph)
    means_to_pools(graph)
    assert to_bytes(graph) == before


@pytest.mark.parametrize(("opset", "exporter"), [(16, "dynamo"), (22, "dynamo"), (21, "torchscript"), (18, "onnx")])
def test_impossible_options_are_refused_early(opset: int, exporter: str) -> None:
    with pytest.raises(UsageError):
        check_export_options(opset, exporter)


def test_a_model_in_training_mode_is_refused(model: nn.Module, spec: ModelSpec) -> None:
    model.train()
    try:
        with pytest.raises(UsageError, match="eval mode"):
            export_graph(model, spec)
    finally:
        model.eval()


def test_a_graph_of_another_model_is_seen(model: nn.Module, onnx_model: ModelProto) -> None:
    assert foreign_weights(model, onnx_model) == 0
    del onnx_model.graph.initializer[3]
    assert foreign_weights(model, onnx_model) == 1


def test_ulps() -> None:
    one = np.float32([1.0, 0.5])
    next_up = np.nextafter(one, np.float32(2))
    assert ulps_apart(next_up, one) == 1
    assert ulps_apart(np.float32([1e-9]), np.float32([0.0])) < 0.1
    assert ulps_apart(np.float32([np.nan]), np.float32([0.0])) == float("inf")
    assert ulps_apart(one, one[:1]) == float("inf")
    assert limit_from(one, one.astype(np.float64)) == 64
    assert limit_from(one * np.float32(1.01), one.astype(np.float64)) > 1e5
