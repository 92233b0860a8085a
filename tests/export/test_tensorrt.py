"""The adapter against stand-ins of TensorRT 8.6, 10.3 and 11: what each version is asked for, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

import fake_tensorrt
from fake_cuda import FakeCuda, fake_cuda  # noqa: F401

from export.fp16 import to_half
from export.onnx_file import to_bytes
from export.tensorrt import build_plan
from export.tensorrt_inspect import Inspected, precisions, require_honest, type_name
from export.tensorrt_rules import BuildOptions, abilities_of, refuse_options
from runtime.engine import Port, Profile
from runtime.errors import CheckFailedError, InputError, UsageError
from runtime.spec import ModelSpec

VERSIONS = ("8.6", "10.3", "11")
Make = Callable[..., ModelProto]


@pytest.fixture
def behaviour() -> fake_tensorrt.Behaviour:
    return fake_tensorrt.Behaviour()


@pytest.fixture
def module(fake_cuda: FakeCuda, behaviour: fake_tensorrt.Behaviour) -> Callable[[str], Any]:  # noqa: F811
    return lambda version: fake_tensorrt.make(version, fake_cuda, behaviour)


@pytest.fixture(scope="session")
def graphs(make_onnx: Make, spec: ModelSpec) -> dict[str, bytes]:
    full = make_onnx(opset=17)
    return {"fp32": to_bytes(full), "fp16": to_bytes(to_half(full, spec))}


@pytest.mark.parametrize(
    ("version", "typing", "asked"),
    [
        ("8.6", "weak", {"strong": False, "network flags": 1, "flags": ["FP16"]}),
        ("10.3", "strong", {"strong": True, "network flags": 2, "flags": []}),
        ("11", "strong", {"strong": True, "network flags": 0, "flags": []}),
    ],
)
def test_precision_comes_from_the_graph_where_it_can(
    module: Any, behaviour: fake_tensorrt.Behaviour, graphs: Any, version: str, typing: str, asked: dict[str, Any]
) -> None:
    options = BuildOptions(Profile(1, 2, 16), workspace_mib=64, level=4)
    plan = build_plan(module(version), graphs["fp16"], "fp16", options)
    build = behaviour.builds[0]
    assert plan.typing == typing and asked.items() <= build.items()
    assert build["level"] == 4 and build["workspace"] == 64 << 20 and build["verbosity"] == "DETAILED"
    shapes = build["profiles"][0]["input"]
    assert [shape[0] for shape in shapes] == [1, 2, 16]
    assert build["previews"] == ([] if version == "11" else ["PROFILE_SHARING_0806"])


def test_float32_is_not_tf32(module: Any, behaviour: fake_tensorrt.Behaviour, graphs: Any) -> None:
    for version in VERSIONS:
        build_plan(module(version), graphs["fp32"], "fp32", BuildOptions())
    assert [build["flags"] for build in behaviour.builds] == [[], [], []]


def test_compatible_engines(module: Any, behaviour: fake_tensorrt.Behaviour, graphs: Any) -> None:
    for version in VERSIONS:
        options = BuildOptions(version_compatible=True, hardware="ampere-plus")
        build_plan(module(version), graphs["fp32"], "fp32", options)
    assert {tuple(b["flags"]) for b in behaviour.builds} == {("VERSION_COMPATIBLE",)}
    assert {b["hardware"] for b in behaviour.builds} == {"AMPERE_PLUS"}
    build_plan(module("11"), graphs["fp32"], "fp32", BuildOptions(hardware="same-sm"))
    assert behaviour.builds[-1]["hardware"] == "SAME_COMPUTE_CAPABILITY"


@pytest.mark.parametrize(
    ("version", "options", "told"),
    [
        ("10.3", BuildOptions(hardware="same-sm"), "TensorRT 10.3.0 knows no hardware compatibility 'same-sm'"),
        ("11", BuildOptions(legacy="entropy"), "TensorRT 11.4.0.106 has no calibrators"),
        ("11", BuildOptions(dla=True), "has no DLA; it came back with 11.4.1"),
        ("10.3", BuildOptions(dla=True), "builds for the GPU only"),
        ("10.3", BuildOptions(Profile(4, 2, 8)), "expected 1 <= --min-batch <= --batch <= --max-batch"),
        ("10.3", BuildOptions(Profile(1, 2, 4096)), "batches of 1, 2, 4096"),
        ("10.3", BuildOptions(level=6), "--level 6: expected 0 to 5"),
        ("10.3", BuildOptions(workspace_mib=0), "--workspace 0"),
    ],
)
def test_what_a_version_cannot_do_is_refused_first(
    module: Any, behaviour: fake_tensorrt.Behaviour, graphs: Any, version: str, options: BuildOptions, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        build_plan(module(version), graphs["fp32"], "fp32", options)
    assert not behaviour.builds


@pytest.mark.parametrize(
    ("version", "told"),
    [("10.8.0", "10.7 was the last"), ("11.3.0", "came back with 11.4.1"), ("11.4.1", "for the GPU only")],
)
def test_dla_has_a_sentence_for_each_version(module: Any, version: str, told: str) -> None:
    able = replace(abilities_of(module("11")), version=version)
    with pytest.raises(UsageError, match=told):
        refuse_options(BuildOptions(dla=True), able)


def test_jetson_makes_no_hardware_compatible_engines(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.tensorrt_rules.l4t_release", lambda: "L4T 36.4.3")
    with pytest.raises(UsageError, match="not for Jetson"):
        refuse_options(BuildOptions(hardware="ampere-plus"), abilities_of(module("10.3")))


def test_a_graph_that_a_version_does_not_read(module: Any, make_onnx: Make) -> None:
    newer = to_bytes(make_onnx(opset=18))
    with pytest.raises(InputError, match=r"TensorRT 8.6.2 would not take it.*opset 18.*export with --opset 17"):
        build_plan(module("8.6"), newer, "fp32", BuildOptions())
    build_plan(module("10.3"), newer, "fp32", BuildOptions())


def test_timings_are_kept_and_foreign_ones_left_aside(
    module: Any, behaviour: fake_tensorrt.Behaviour, graphs: Any
) -> None:
    first = build_plan(module("10.3"), graphs["fp32"], "fp32", BuildOptions(), timings=b"")
    second = build_plan(module("10.3"), graphs["fp32"], "fp32", BuildOptions(), timings=first.timings)
    assert (first.timings, second.timings) == (b"timing+", b"timing++")
    assert build_plan(module("10.3"), graphs["fp32"], "fp32", BuildOptions(), timings=b"foreign").timings == b"timing+"
    assert build_plan(module("10.3"), graphs["fp32"], "fp32", BuildOptions()).timings == b""
    assert [b["timing"] for b in behaviour.builds] == [b"timing", b"timing+", b"timing", None]


def test_progress_is_told(module: Any, graphs: Any) -> None:
    told: list[tuple[str, float]] = []
    build_plan(
        module("10.3"),
        graphs["fp32"],
        "fp32",
        BuildOptions(),
        progress=lambda phase, share: told.append((phase, share)),
    )
    assert told[0] == ("Building engine", 0.0) and told[-1] == ("Building engine", 1.0)
    assert [round(share, 2) for _, share in told[1:-1]] == [0.33, 0.67, 1.0]


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_ends_the_build_at_the_next_step(module: Any, behaviour: fake_tensorrt.Behaviour, graphs: Any) -> None:
    # A shell starts its background jobs with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    pressed, steps = threading.Event(), []

    def press() -> None:
        steps.append(1)
        if not pressed.is_set():
            pressed.set()
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(0.5)

    behaviour.on_step = press
    try:
        with pytest.raises(KeyboardInterrupt):
            build_plan(module("10.3"), graphs["fp32"], "fp32", BuildOptions())
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(steps) == 1 and not behaviour.builds, "the build ended at the step where the key was pressed"


def test_a_parser_that_says_no(module: Any, graphs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = module("11")
    monkeypatch.setattr("export.tensorrt.check_graph", lambda *_: None)
    with pytest.raises(InputError, match=r"model.onnx: TensorRT 11.4.0.106 refuses the graph: failed to parse"):
        build_plan(trt, b"nonsense", "fp32", BuildOptions())


def test_a_builder_that_fails(module: Any, graphs: Any, behaviour: fake_tensorrt.Behaviour) -> None:
    def fail() -> None:
        raise RuntimeError("the builder broke")

    behaviour.on_step = fail
    with pytest.raises(RuntimeError, match="the builder broke"):
        build_plan(module("10.3"), graphs["fp32"], "fp32", BuildOptions())


OLD_LAYER = {
    "Name": "conv1 + relu1",
    "LayerType": "CaskConvolution",
    "Inputs": [{"Name": "a", "Dimensions": [1, 8, 8, 8], "Format/Datatype": "Channel major FP16 format"}],
    "Outputs": [{"Name": "b", "Dimensions": [1, 8, 8, 8], "Format/Datatype": "Channel major FP16 format"}],
}


@pytest.mark.parametrize(
    ("layer", "wanted"),
    [
        (OLD_LAYER, ["float16"]),
        ({**OLD_LAYER, "Weights": {"Type": "Int8", "Count": 9}}, ["int8"]),
        ({**OLD_LAYER, "Weights": {"Type": "Float", "Count": 9}}, ["float32"]),
        ({"Name": "c", "LayerType": "kgen", "Inputs": [{"DataType": "Half"}], "Outputs": [{"DataType": "Int8"}]},
         ["float16"]),
        ({"Name": "c", "LayerType": "conv", "Inputs": [{"DataType": "Int8"}], "Outputs": [{"DataType": "Float"}]},
         ["int8"]),
        ({"Name": "c", "LayerType": "gemm", "Inputs": [{"DataType": "BFloat16"}], "Outputs": []}, ["bfloat16"]),
        ({"Name": "c", "LayerType": "Reformat", "Inputs": [{"DataType": "Float"}], "Outputs": [{"DataType": "Int8"}]},
         []),
        ({"Name": "c", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "N/A due to dynamic shapes"}]},
         ["unknown"]),
        ("conv1 + relu1", ["unknown"]),
    ],
)  # fmt: skip
def test_the_inspector_is_understood_in_every_version(layer: Any, wanted: list[str]) -> None:
    assert precisions(json.dumps({"Layers": [layer], "Bindings": ["a", "b"]})) == wanted


def test_nonsense_of_the_inspector_counts_for_nothing() -> None:
    assert precisions("not json") == precisions("[]") == precisions("{}") == []


PORTS = (Port("input", "input", "float32", (-1, 3, 64, 64)), Port("landmarks", "output", "float32", (-1, 196)))

HALF_OUTPUT = replace(PORTS[1], dtype="float16")


@pytest.mark.parametrize(
    ("found", "precision", "told"),
    [
        (Inspected(PORTS, {"float32": 30}), "fp16", "asked for fp16, but no layer of the engine computes in float16"),
        (Inspected(PORTS, {"float32": 30, "float16": 2}), "int8", "no layer of the engine computes in int8"),
        (Inspected(PORTS, {"unknown": 30}), "fp16", r"layers: 30 unknown"),
        (Inspected(PORTS, {}), "fp32", "layers: none at all"),
        (
            Inspected((PORTS[0], replace(PORTS[1], dtype="float16")), {"float16": 9}),
            "fp16",
            "landmarks of the engine is",
        ),
        (Inspected((*PORTS, replace(PORTS[1], name="more")), {"float16": 9}), "fp16", "3 inputs and outputs"),
        (Inspected(PORTS[:1], {"float16": 9}), "fp16", "output landmarks of the engine is missing"),
    ],
)
def test_an_engine_that_is_not_what_its_name_says(found: Inspected, precision: Any, told: str) -> None:
    with pytest.raises(CheckFailedError, match=told):
        require_honest(found, precision, ("input", "landmarks"), "face.plan")


def test_an_honest_engine_passes() -> None:
    require_honest(Inspected(PORTS, {"int8": 1, "float32": 9}), "int8", ("input", "landmarks"), "face.plan")


def test_names_of_types(module: Any) -> None:
    trt = module("10.3")
    assert [type_name(t) for t in trt.DataType][:5] == ["float32", "float16", "int8", "int32", "bool"]
    assert np.dtype(type_name(trt.DataType.HALF)) == np.float16
