"""The networks to compare with, as C: read, planned, compiled and run on every instruction set."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, helper, numpy_helper

from export.c import reference
from export.c.ir import Dense, Graph, Pick, Relu
from export.c.passes import check_int8, optimise
from export.c.picks import runs
from export.c.plan import Tuning, make_plan
from export.c.read import read
from export.oracle import Oracle
from runtime.errors import InputError
from runtime.geometry import network_input

sys.path.insert(0, str(Path(__file__).parent))

from c_nets import STRICT, Net, built, compile_c, exported, faces, int8_model, spec_of
from test_compile import replay
from test_whole import need
from test_whole import reference as on_onnxruntime
from zoo_nets import ODD, OTHERS, zoo_model

ISA = {
    "mobilenetv3-small": "avx512",
    "mobilenetv3-large": "avx2",
    "mobileone-s0": "scalar",
    "resnet18": "sse2",
    "shufflenetv2": "avx512",
    "hrnet-w18": "scalar",
}
"""Each net on one instruction set, each instruction set on one net."""


@cache
def model_of(case: tuple[str, float, int, int], opset: int = 17) -> ModelProto:
    return zoo_model(spec_of(*case), opset=opset)


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    """Within the rounding of another order of sums, through up to 300 layers."""
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-2 * np.abs(wanted).max()  # the net looks at its input


QUICK = ("mobilenetv3-small", "mobileone-s0", "shufflenetv2")


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=() if c[0] in QUICK else pytest.mark.slow, id=f"{c[0]}-{c[2]}") for c in (*OTHERS, ODD)],
)
def test_the_c_equals_onnxruntime(case: tuple[str, float, int, int], tmp_path: Path) -> None:
    spec = spec_of(*case)
    flags = [flag for flag in need(ISA[case[0]]) if not flag.startswith("-O")]
    net = built(model_of(case), spec, tmp_path, "-O0" if case[0] == "hrnet-w18" else "-O1", *flags)
    crops = faces(2, spec.input_size)
    close(np.stack([net(crop) for crop in crops]), on_onnxruntime(model_of(case), crops, spec))
    assert net.selftest() == (0, -1)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["scalar", "sse2", "avx2", "avx512"])
@pytest.mark.parametrize("case", OTHERS[:-1], ids=lambda c: str(c[0]))
def test_every_net_on_every_instruction_set(case: tuple[str, float, int, int], isa: str, tmp_path: Path) -> None:
    spec = spec_of(*case)
    net = built(model_of(case), spec, tmp_path, *need(isa))
    crops = faces(2, spec.input_size)
    close(np.stack([net(crop) for crop in crops]), on_onnxruntime(model_of(case), crops, spec))
    assert net.selftest() == (0, -1)


def test_one_build_with_dispatch_in_one_header(tmp_path: Path) -> None:
    spec, model = spec_of(*OTHERS[0]), model_of(OTHERS[0])
    exported(model, spec, tmp_path, dispatch=True, single_header=True)
    source = tmp_path / "user.c"
    source.write_text('#define LM_IMPLEMENTATION\n#include "landmarks.h"\n')
    net = Net(compile_c([source], tmp_path / "net.so", *STRICT, "-O0", "-fPIC", "-shared"), spec)
    crops = faces(2, spec.input_size)
    close(np.stack([net(crop) for crop in crops]), on_onnxruntime(model, crops, spec))
    assert net.selftest() == (0, -1)


def plainly(graph: Graph, face: np.ndarray) -> np.ndarray:
    """A graph before any pass, layer by layer."""
    values = {id(graph.input): face}
    for layer in graph.layers:
        inputs = [values[id(tensor)] for tensor in layer.inputs]
        relu = isinstance(layer, Relu)
        values[id(layer.output)] = np.maximum(inputs[0], 0) if relu else reference.compute(layer, inputs)
    return values[id(graph.output)]


@pytest.mark.parametrize("case", (*OTHERS, ODD), ids=lambda c: f"{c[0]}-{c[2]}")
def test_passes_change_nothing_and_no_living_row_is_overwritten(case: tuple[str, float, int, int]) -> None:
    face = np.random.default_rng(0).normal(size=(case[2], case[2], 3))
    wanted = plainly(read(model_of(case)), face)
    graph = optimise(read(model_of(case)))
    assert np.allclose(reference.run(graph, face)[id(graph.output)], wanted, rtol=1e-8, atol=1e-9)
    for tuning in (Tuning(), Tuning(stream_bytes=1), Tuning(stream_bytes=1 << 30)):
        plan = make_plan(optimise(read(model_of(case))), tuning)
        replay(plan)
        assert plan.lower_bound <= plan.arena <= 1.3 * plan.lower_bound


def test_shuffles_become_runs_of_lanes() -> None:
    graph = optimise(read(model_of(OTHERS[4])))
    read_in_place = [layer for layer in graph.layers if isinstance(layer, Dense) and layer.picks is not None]
    copied = [layer for layer in graph.layers if isinstance(layer, Pick)]
    assert len(read_in_place) == 16 and max(len(layer.picks or ()) for layer in read_in_place) <= 9
    assert len(copied) == 2  # in front of the depthwise convolutions between stages


def test_runs() -> None:
    assert runs([]) == () and runs([3]) == ((3, 1),) and runs([2, 3, 5, 4]) == ((2, 2), (5, 1), (4, 1))


Node = tuple[str, list[str], dict[str, Any]]
NUMBERS = {"three": 3.0, "six": 6.0, "sixth": 1 / 6, "zero": 0.0, "one": 1.0, "two": 2.0}
HALVES = {"first": [0, 3], "ends": [3, 8], "axes": [1, 1]}

FORMS: dict[str, list[Node]] = {
    "hard swish": [("HardSwish", ["c"], {})],
    "hard swish by hard sigmoid": [("HardSigmoid", ["c"], {"alpha": 1 / 6}), ("Mul", ["c", "0"], {})],
    "hard swish, divided first": [
        ("Add", ["c", "three"], {}),
        ("Clip", ["0", "zero", "six"], {}),
        ("Div", ["1", "six"], {}),
        ("Mul", ["c", "2"], {}),
    ],
    "hard swish, divided last": [
        ("Add", ["three", "c"], {}),
        ("Clip", ["0", "zero", "six"], {}),
        ("Mul", ["1", "c"], {}),
        ("Mul", ["2", "sixth"], {}),
    ],
    "hard sigmoid": [("HardSigmoid", ["c"], {})],
    "relu6": [("Clip", ["c", "zero", "six"], {})],
    "clip with room above": [("Clip", ["c", "zero", ""], {})],
    "sigmoid": [("Sigmoid", ["c"], {})],
    "twice a sigmoid's ramp": [("Mul", ["c", "two"], {}), ("Clip", ["0", "zero", "one"], {})],
    "squeeze and excite": [
        ("GlobalAveragePool", ["c"], {}),
        ("HardSigmoid", ["0"], {"alpha": 0.4}),
        ("Mul", ["1", "c"], {}),
    ],
    "max pool 3": [("MaxPool", ["c"], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]})],
    "max pool 2": [("MaxPool", ["c"], {"kernel_shape": [2, 2], "strides": [2, 2]})],
    "max pool of negative values": [
        ("Mul", ["c", "two"], {}),
        ("Clip", ["0", "zero", "one"], {}),
        ("Sigmoid", ["1"], {}),
    ],
    "shuffle": [("Gather", ["c", "order"], {"axis": 1})],
    "slice and add": [
        ("Slice", ["c", "at0", "at4", "axis1"], {}),
        ("Slice", ["c", "at4", "at8", "axis1"], {}),
        ("Add", ["0", "1"], {}),
    ],
    "nearest": [
        ("Resize", ["c", "", "scales3"], {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"})
    ],
    "bilinear": [("Resize", ["c", "", "scales3"], {"mode": "linear", "coordinate_transformation_mode": "half_pixel"})],
    "nearest, uneven": [
        ("Resize", ["c", "", "", "36x23"], {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"})
    ],
    "bilinear, uneven": [
        ("Resize", ["c", "", "", "36x23"], {"mode": "linear", "coordinate_transformation_mode": "half_pixel"})
    ],
    "relu read twice": [("Relu", ["c"], {}), ("HardSwish", ["c"], {}), ("Add", ["0", "1"], {})],
    "depthwise 5": [("Conv", ["c", "dw5"], {"group": 8, "pads": [2, 2, 2, 2]}), ("Relu", ["0"], {})],
    "depthwise 5 by 2": [("Conv", ["c", "dw5"], {"group": 8, "pads": [2, 2, 2, 2], "strides": [2, 2]})],
    "depthwise 7": [("Conv", ["c", "dw7"], {"group": 8, "pads": [3, 3, 3, 3]}), ("HardSwish", ["0"], {})],
    "point by 2": [("Conv", ["c", "point"], {"strides": [2, 2]})],
    "wide 3x3": [("Conv", ["c", "wide"], {"pads": [1, 1, 1, 1]}), ("Conv", ["0", "wider"], {"pads": [1, 1, 1, 1]})],
}
"""What stands between the face's convolution (8 channels, 16 x 16) and a mean; numbers are earlier nodes."""


def form_model(nodes: list[Node], stem: int = 3) -> ModelProto:
    draw = np.random.default_rng(3)

    def weight(*shape: int) -> np.ndarray:
        return draw.normal(0, 2 / np.prod(shape[1:]) ** 0.5, shape).astype(np.float32)

    constants: dict[str, np.ndarray] = {name: np.float32(value) for name, value in NUMBERS.items()}  # type: ignore[misc]
    constants |= {"stem": weight(8, 3, stem, stem), "dw5": weight(8, 1, 5, 5), "dw7": weight(8, 1, 7, 7)}
    constants |= {"point": weight(12, 8, 1, 1), "wide": weight(150, 8, 3, 3), "wider": weight(100, 150, 3, 3)}
    constants |= {"order": np.asarray([5, 0, 1, 7, -2, 2, 3, 4]), "scales3": np.asarray([1, 1, 3, 3], np.float32)}
    constants |= {"36x23": np.asarray([1, 8, 36, 23]), "12x36": np.asarray([1, 8, 12, 36])}
    constants |= {"scales1": np.asarray([1, 1, 1.3, 1.3], np.float32)}
    constants |= {"at0": np.asarray([0]), "at4": np.asarray([4]), "at8": np.asarray([8]), "axis1": np.asarray([1])}
    made = [helper.make_node("Conv", ["x", "stem"], ["c"], pads=[stem // 2] * 4)]
    for index, (op, names, attributes) in enumerate(nodes):
        made.append(helper.make_node(op, names, [str(index)], **attributes))
    made.append(helper.make_node("GlobalAveragePool", [str(len(nodes) - 1)], ["mean"]))
    made.append(helper.make_node("Flatten", ["mean"], ["y"]))
    used = {name for node in made for name in node.input}
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items() if n in used]
    face = [helper.make_tensor_value_info("x", 1, [1, 3, 16, 16])]
    graph = helper.make_graph(made, "g", face, [helper.make_tensor_value_info("y", 1, None)], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("form", "stem"), [*((form, 3) for form in FORMS), ("relu6", 7)])
def test_every_form_means_what_onnx_says(form: str, stem: int) -> None:
    model = form_model(FORMS[form], stem)
    face = np.random.default_rng(1).normal(size=(16, 16, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"x": face.transpose(2, 0, 1)[None]})[0].reshape(-1)
    graph = optimise(read(model))
    found = reference.run(graph, face.astype(np.float64))[id(graph.output)].reshape(-1)
    assert np.allclose(found, wanted, rtol=2e-5, atol=2e-6)
    make_plan(graph, Tuning())


def test_every_form_as_c(tmp_path: Path) -> None:
    """The self-test compares every layer with the sums that numpy expects."""
    for index, form in enumerate(
        (
            "max pool 3",
            "nearest",
            "bilinear",
            "nearest, uneven",
            "bilinear, uneven",
            "slice and add",
            "relu read twice",
            "wide 3x3",
        )
    ):
        folder = tmp_path / str(index)
        spec = spec_of("resnet18", 0.125, 16, 4 if form != "slice and add" else 2)
        spec = spec_of("resnet18", 0.125, 16, 50) if form == "wide 3x3" else spec
        assert built(form_model(FORMS[form]), spec, folder, "-O0").selftest() == (0, -1), form


@pytest.mark.parametrize(
    ("nodes", "word"),
    [
        ([("Mul", ["c", "c"], {})], "one factor per channel"),
        ([("Mul", ["c", "two"], {})], "a ramp from 0"),
        ([("Clip", ["c", "one", "six"], {})], "a ramp from 0"),
        ([("Div", ["two", "c"], {})], "a division by a constant"),
        ([("Softmax", ["c"], {"axis": 1})], "heatmaps"),
        ([("Resize", ["c", "", "scales3"], {"mode": "cubic"})], "nearest"),
        ([("Resize", ["c", "", "", "12x36"], {"mode": "linear"})], "both sides larger"),
        ([("Resize", ["c", "", "scales1"], {"mode": "linear"})], "16 to 20 by 1.3"),
        ([("Gather", ["c", "order"], {"axis": 2})], "a list of channels"),
        ([("Conv", ["c", "dw5"], {"group": 8, "pads": [1, 1, 1, 1]})], "depthwise with kernel"),
        ([("Slice", ["c", "at0", "at4", "at2"], {})], "constant"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line(nodes: list[Node], word: str) -> None:
    with pytest.raises(InputError, match=word) as error:
        optimise(read(form_model(nodes)))
    assert "\n" not in str(error.value)


def test_weights_behind_a_shuffle_are_permuted_with_it() -> None:
    """A wrong column shows: the reader of the picked channels gets other weights."""
    graph = optimise(read(model_of(OTHERS[4])))
    layer = next(x for x in graph.layers if isinstance(x, Dense) and x.picks is not None)
    face = np.random.default_rng(0).normal(size=(64, 64, 3))
    before = reference.run(graph, face)[id(graph.output)]
    layer.weights = np.ascontiguousarray(layer.weights[:, ::-1])
    assert np.abs(reference.run(graph, face)[id(graph.output)] - before).max() > 1e-4


def test_an_operator_on_constants_alone_is_refused_on_maps() -> None:
    model = form_model([("Unsqueeze", ["c", "axis1"], {})])
    with pytest.raises(InputError, match="feature map"):
        read(model)


INT8 = [(OTHERS[2], "avx2"), (OTHERS[3], "avx512"), (OTHERS[4], "scalar")]
"""The nets whose int8 form is int8 throughout, each on one instruction set."""


@pytest.mark.parametrize(
    ("case", "isa"),
    [pytest.param(*one, marks=pytest.mark.slow if one[1] == "avx512" else (), id=one[0][0]) for one in INT8],
)
def test_the_int8_c_equals_the_oracle_bit_for_bit(case: tuple[str, float, int, int], isa: str, tmp_path: Path) -> None:
    spec, model = spec_of(*case), int8_model(model_of(case))
    net = built(model, spec, tmp_path, *need(isa), int8=True)
    crops = faces(2, spec.input_size)
    wanted = Oracle(model).run(network_input(crops, spec)).output
    assert np.stack([net(crop) for crop in crops]).tobytes() == wanted.reshape(2, -1).tobytes()
    assert len({tuple(row) for row in wanted}) == 2
    assert net.selftest() == (0, -1)


def test_shuffles_stay_runs_of_lanes_in_int8() -> None:
    graph = optimise(read(int8_model(model_of(OTHERS[4]))))
    assert sum(isinstance(layer, Dense) and layer.picks is not None for layer in graph.layers) == 16
    assert sum(isinstance(layer, Pick) for layer in graph.layers) == 2


def test_int8_nets_with_float_layers_are_refused_in_one_line() -> None:
    graph = optimise(read(form_model(FORMS["hard swish"])))
    for layer in graph.layers:
        if isinstance(layer, Dense):
            layer.steps = np.ones(8, np.float32)
    graph.input.step = np.float32(1)
    with pytest.raises(InputError, match="would stay in float") as error:
        check_int8(graph)
    assert "\n" not in str(error.value)
