"""The contract in words agrees with the real parser, and every rule fires on the graph that breaks it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from export.contract import LAST_OPSET, Finding, check_contract, refusals
from export.onnx_file import read_onnx, write_onnx
from runtime.errors import UsageError

Variant = dict[str, Any]
GOOD: Variant = {"activations": "s8", "symmetric": True, "bias": False}
VARIANTS: dict[str, tuple[Variant, set[str]]] = {
    "as it should be": (GOOD, set()),
    "quantised bias": ({**GOOD, "bias": True}, {"bias"}),
    "asymmetric": ({**GOOD, "symmetric": False}, {"zero point"}),
    "unsigned": ({**GOOD, "activations": "u8"}, {"type", "zero point"}),
    "quantise and dequantise weights": ({**GOOD, "AddQDQPairToWeight": True}, set()),
    "dedicated pairs": ({**GOOD, "DedicatedQDQPair": True}, set()),
}


class Feed:
    """Calibration faces in the form ONNX Runtime asks for."""

    def __init__(self, data: NDArray[np.float32]) -> None:
        self.rest = iter([data[i : i + 4] for i in range(0, len(data), 4)])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self.rest, None)
        return None if batch is None else {"input": batch}


@pytest.fixture(scope="module")
def quantised(
    make_onnx: Callable[..., ModelProto], probes: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], ModelProto]:
    """Graphs as ONNX Runtime's own quantiser makes them, good and bad."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    folder = tmp_path_factory.mktemp("variants")
    write_onnx(folder / "float.onnx", make_onnx())
    made: dict[str, ModelProto] = {}

    def make(name: str) -> ModelProto:
        if name not in made:
            options = dict(VARIANTS[name][0])
            kind = {"s8": QuantType.QInt8, "u8": QuantType.QUInt8}[options.pop("activations")]
            symmetric, bias = options.pop("symmetric"), options.pop("bias")
            target = folder / f"{name}.onnx"
            quantize_static(
                folder / "float.onnx",
                target,
                Feed(probes[:8]),
                quant_format=QuantFormat.QDQ,
                activation_type=kind,
                weight_type=QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=["Conv", "Gemm"],
                extra_options={
                    "ActivationSymmetric": symmetric,
                    "WeightSymmetric": True,
                    "QuantizeBias": bias,
                    "OpTypesToExcludeOutputQuantization": ["Conv", "Gemm"],
                    **options,
                },
            )
            made[name] = read_onnx(target)
        copy = ModelProto()
        copy.CopyFrom(made[name])
        return copy

    return make


def rules(findings: list[Finding], level: str = "refused") -> set[str]:
    return {f.rule for f in findings if f.level == level}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_onnxruntime(quantised: Callable[[str], ModelProto], name: str) -> None:
    refused = rules(check_contract(quantised(name)))
    assert refused == VARIANTS[name][1]


def test_float_graph_is_accepted_everywhere_its_opset_is_known(onnx_model: ModelProto) -> None:
    assert check_contract(onnx_model) == []
    assert rules(check_contract(onnx_model, "8.6")) == {"opset"}


@pytest.mark.parametrize(
    ("target", "row"), [("8.6", "8.6"), ("10.3", "10.0"), ("10.9", "10.9"), ("10.16.2", "10.13"), ("11.4.1", "11")]
)
def test_each_line_has_its_last_opset(onnx_model: ModelProto, target: str, row: str) -> None:
    for opset, refused in ((LAST_OPSET[row], set()), (LAST_OPSET[row] + 1, {"opset"})):
        onnx_model.opset_import[0].version = opset
        assert rules(check_contract(onnx_model, target)) == refused


@pytest.mark.parametrize("target", ["8.4", "twelve", ""])
def test_unknown_version_is_a_usage_error(onnx_model: ModelProto, target: str) -> None:
    with pytest.raises(UsageError, match="known lines"):
        check_contract(onnx_model, target)


def nodes(model: ModelProto, op_type: str) -> list[onnx.NodeProto]:
    return [n for n in model.graph.node if n.op_type == op_type]


def constant(model: ModelProto, name: str) -> TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def replace(model: ModelProto, name: str, value: NDArray[Any]) -> None:
    constant(model, name).CopyFrom(numpy_helper.from_array(value, name))


def activation_quantiser(model: ModelProto) -> onnx.NodeProto:
    return next(n for n in nodes(model, "QuantizeLinear") if n.input[0] == "input")


def weight_dequantiser(model: ModelProto) -> onnx.NodeProto:
    constants = {t.name for t in model.graph.initializer}
    return next(n for n in nodes(model, "DequantizeLinear") if n.input[0] in constants)


def break_negative_scale(model: ModelProto) -> None:
    name = activation_quantiser(model).input[1]
    replace(model, name, -numpy_helper.to_array(constant(model, name)))


def break_scale_is_computed(model: ModelProto) -> None:
    node = activation_quantiser(model)
    old, node.input[1] = node.input[1], "computed"
    model.graph.node.insert(0, helper.make_node("Abs", [old], ["computed"], "abs"))


def break_scale_per_channel_of_an_activation(model: ModelProto) -> None:
    node = activation_quantiser(model)
    replace(model, node.input[1], np.full(3, 0.01, np.float32))
    replace(model, node.input[2], np.zeros(3, np.int8))


def break_half_scale_before_its_time(model: ModelProto) -> None:
    replace(model, activation_quantiser(model).input[1], np.array(0.01, np.float16))


def break_weight_axis(model: ModelProto) -> None:
    node = weight_dequantiser(model)
    next(a for a in node.attribute if a.name == "axis").i = 1


def break_integer_values_read(model: ModelProto) -> None:
    quantiser = activation_quantiser(model)
    model.graph.node.append(helper.make_node("Identity", [quantiser.output[0]], ["copy"], "copy"))


def break_sixteen_bits(model: ModelProto) -> None:
    replace(model, activation_quantiser(model).input[2], np.array(0, np.int16))


def break_implicit_uint8(model: ModelProto) -> None:
    for node in (*nodes(model, "QuantizeLinear"), *nodes(model, "DequantizeLinear")):
        if len(node.input) > 2 and len(constant(model, node.input[2]).dims) == 0:
            del node.input[2]


def break_integer_operator(model: ModelProto) -> None:
    nodes(model, "Conv")[0].op_type = "QLinearConv"


def break_foreign_domain(model: ModelProto) -> None:
    nodes(model, "Relu")[0].domain = "com.microsoft"
    nodes(model, "Relu")[0].op_type = "FusedActivation"


def break_text_input(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING


def break_weight_is_computed(model: ModelProto) -> None:
    node = weight_dequantiser(model)
    old, node.input[0] = node.input[0], "computed weight"
    model.graph.node.insert(0, helper.make_node("Neg", [old], ["computed weight"], "neg"))


BREAKS: dict[str, tuple[Callable[[ModelProto], None], set[str]]] = {
    "negative scale": (break_negative_scale, {"scale"}),
    "scale is computed": (break_scale_is_computed, {"scale"}),
    "activation per channel": (break_scale_per_channel_of_an_activation, {"scale"}),
    "half scale": (break_half_scale_before_its_time, {"scale"}),
    "weight axis": (break_weight_axis, {"scale"}),
    "integer values are read": (break_integer_values_read, {"pair"}),
    "sixteen bits": (break_sixteen_bits, {"type"}),
    "implicit uint8": (break_implicit_uint8, {"type"}),
    "integer operator": (break_integer_operator, {"operator"}),
    "foreign domain": (break_foreign_domain, {"operator"}),
    "text input": (break_text_input, {"interface"}),
    "weight is computed": (break_weight_is_computed, {"weight", "pair", "scale"}),
}


@pytest.mark.parametrize("name", BREAKS)
def test_each_break_is_refused(quantised: Callable[[str], ModelProto], name: str) -> None:
    model = quantised("as it should be")
    change, wanted = BREAKS[name]
    change(model)
    found = rules(check_contract(model))
    assert found and found <= wanted, found


def test_default_placement_is_warned_about(
    make_onnx: Callable[..., ModelProto], probes: NDArray[np.float32], tmp_path: Path
) -> None:
    from onnxruntime.quantization import QuantType, quantize_static

    write_onnx(tmp_path / "float.onnx", make_onnx())
    quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "all.onnx",
        Feed(probes[:8]),
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    findings = check_contract(read_onnx(tmp_path / "all.onnx"))
    assert not refusals(findings)
    assert rules(findings, "warning") == {"placement", "concat"}


def test_a_pool_that_reuses_its_scale_is_warned_about() -> None:
    scales = [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in (("a", 0.1), ("b", 0.1))]
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "a", "z"], ["q"], "q"),
            helper.make_node("DequantizeLinear", ["q", "a", "z"], ["d"], "d"),
            helper.make_node("GlobalAveragePool", ["d"], ["p"], "p"),
            helper.make_node("QuantizeLinear", ["p", "b", "z"], ["r"], "r"),
            helper.make_node("DequantizeLinear", ["r", "b", "z"], ["y"], "y"),
        ],
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 1, 1])],
        [*scales, numpy_helper.from_array(np.array(0, np.int8), "z")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    assert rules(check_contract(model), "warning") == {"pool"}
    replace(model, "b", np.array(0.01, np.float32))
    assert check_contract(model) == []


def test_messages_name_the_node_and_the_remedy(quantised: Callable[[str], ModelProto]) -> None:
    finding = check_contract(quantised("quantised bias"))[0]
    assert "DequantizeLinear" in finding.node and "QuantizeBias=False" in finding.message


NVIDIA_TAKES = {"scale is computed", "activation per channel", "implicit uint8", "integer values are read"}
"""Where the checker is stricter than this one parser: its documentation or the ONNX text forbids these."""


@pytest.fixture(scope="module")
def nvidia(
    quantised: Callable[[str], ModelProto], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], list[str]]:
    """What NVIDIA's parser and builder say about each variant and each break; asked once, in one process."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install tensorrt-rtx")
    folder = tmp_path_factory.mktemp("nvidia")
    for name in VARIANTS:
        write_onnx(folder / f"{name}.onnx", quantised(name))
    for name, (change, _) in BREAKS.items():
        model = quantised("as it should be")
        change(model)
        write_onnx(folder / f"{name}.onnx", model)
    script = Path(__file__).with_name("nvidia_parse.py")
    files = sorted(str(p) for p in folder.glob("*.onnx"))
    built = [str(folder / f"{name}.onnx") for name in ("as it should be", "weight is computed")]
    command = [sys.executable, str(script), *files, "--build", *built]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    answers = json.loads(run.stdout.strip().splitlines()[-1])
    return lambda name: list(answers[str(folder / f"{name}.onnx")])


@pytest.mark.parametrize("name", VARIANTS)
def test_nvidias_parser_agrees(nvidia: Callable[[str], list[str]], name: str) -> None:
    assert bool(nvidia(name)) == bool(VARIANTS[name][1]), nvidia(name)


@pytest.mark.parametrize("name", BREAKS)
def test_nvidias_parser_refuses_the_breaks(nvidia: Callable[[str], list[str]], name: str) -> None:
    assert bool(nvidia(name)) == (name not in NVIDIA_TAKES), nvidia(name)
