"""The compiler's passes: what is refused, what is fused, and that no two living rows share memory."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.c import reference
from export.c.ir import Add, Concat, Dense, Depthwise, Graph, Layer, Pool, Relu, Tensor
from export.c.isas import Needs, kernels_of, source_text
from export.c.layout import Layouts, Pixel, Twins
from export.c.pack import panels
from export.c.passes import is_int8, optimise
from export.c.plan import Plan, Tuning, input_rows, make_plan
from export.c.quantised import face_formula
from export.c.read import read, supported_ops
from export.c.tiles import RULES, few_sizes, near_steps, nearly_equal, only_needed, rule_of, tile_calls, up_to_eight
from runtime.errors import InputError

sys.path.insert(0, str(Path(__file__).parent))

from c_nets import fp32_model, int8_model, spec_of

FAMILY = [("ghostone", 0.25), ("ghostnet", 0.25), ("ghostnet-slim", 0.3), ("pfld", 0.125)]


def tiny(op: str, **attributes: object) -> onnx.ModelProto:
    """Face -> 3x3 convolution -> one operator."""
    weight = onnx.numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "w")
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        onnx.helper.make_node(op, ["c"], ["y"], **attributes),
    ]
    values = [onnx.helper.make_tensor_value_info("x", 1, [1, 3, 16, 16])]
    outputs = [onnx.helper.make_tensor_value_info("y", 1, None)]
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", values, outputs, [weight]))


@pytest.mark.parametrize("op", ["Tanh", "ConvTranspose", "Erf", "InstanceNormalization", "LSTM"])
def test_foreign_operators_are_refused_by_name_with_the_list_of_known_ones(op: str) -> None:
    with pytest.raises(InputError, match=op) as error:
        read(tiny(op))
    assert all(known in str(error.value) for known in supported_ops())


def test_known_operators_with_foreign_settings_are_refused() -> None:
    for model, word in [
        (tiny("AveragePool", kernel_shape=[2, 2]), "window"),
        (tiny("Clip", min=0.0, max=-6.0), "limits"),
        (tiny("MaxPool", kernel_shape=[3, 2]), "equal values"),
        (tiny("MaxPool", kernel_shape=[2, 2], ceil_mode=1), "rounding"),
        (tiny("Softmax", axis=1), "heatmaps"),
        (tiny("Flatten"), "1x1 map"),
        (tiny("Relu"), "not a vector"),
    ]:
        with pytest.raises(InputError, match=word):
            read(model)


def test_broken_weights_are_refused() -> None:
    model = fp32_model(spec_of("ghostone", 0.125, 32, 5))
    weight = next(t for t in model.graph.initializer if len(t.dims) == 4)
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    with pytest.raises(InputError, match="NaN"):
        read(model)
    weight.data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(InputError, match="external"):
        read(model)


@pytest.mark.parametrize(("architecture", "width"), FAMILY)
def test_passes_change_nothing_but_the_work(architecture: str, width: float) -> None:
    model = fp32_model(spec_of(architecture, width, 64, 68))
    face = np.random.default_rng(0).normal(size=(64, 64, 3))

    def relu_by_hand(graph: Graph) -> np.ndarray:
        values = {id(graph.input): face}
        for layer in graph.layers:
            inputs = [values[id(tensor)] for tensor in layer.inputs]
            values[id(layer.output)] = (
                np.maximum(inputs[0], 0) if isinstance(layer, Relu) else reference.compute(layer, inputs)
            )
        return values[id(graph.output)]

    plain = relu_by_hand(read(model))
    graph = optimise(read(model))
    assert not any(isinstance(layer, Relu) for layer in graph.layers)
    assert np.allclose(reference.run(graph, face)[id(graph.output)], plain, rtol=1e-9, atol=1e-9)
    for index, layer in enumerate(graph.layers):
        if isinstance(layer, Pool):
            assert graph.layers[index - 1].output is layer.inputs[0]
    if architecture == "pfld":
        assert not any(isinstance(layer, Add) for layer in graph.layers)
        assert any(isinstance(layer, Dense) and len(layer.inputs) == 2 for layer in graph.layers)


@pytest.mark.parametrize(("architecture", "width"), FAMILY)
def test_concatenated_halves_are_written_in_place(architecture: str, width: float) -> None:
    graph = optimise(read(fp32_model(spec_of(architecture, width, 64, 68))))
    layouts = Layouts(graph)
    for layer in graph.layers:
        if isinstance(layer, Concat):
            home, start = layouts.home(layer.output)
            for part in layer.inputs:
                assert layouts.home(part) == (home, start)
                start += layouts.pixel(part).lanes


def lanes_written(plan: Plan, layer: Layer) -> list[int]:
    """Float kernels write whole vectors, but for a twin's last channels."""
    place = plan.place(layer.output)
    if layer.output.step is not None or place.left_over is None:
        lanes = place.pixel.lanes if layer.output.step is not None else 16 * place.pixel.vectors
        return list(range(place.lane, place.lane + lanes))
    return [place.lane + lane + i for lane, count in place.spans() for i in range(count)]


def replay(plan: Plan) -> None:
    """Run the schedule row by row; every lane that is read must still hold what was written there for it."""
    memory: dict[tuple[int, int, int], tuple[int, int]] = {}
    parts = {id(layer.output): layer.inputs for layer in plan.graph.layers if isinstance(layer, Concat)}

    def leaves(tensor: Tensor) -> list[Tensor]:
        return [leaf for part in parts[id(tensor)] for leaf in leaves(part)] if id(tensor) in parts else [tensor]

    def read(tensor: Tensor, row: int) -> None:
        for leaf in leaves(tensor):
            place = plan.place(leaf)
            for lane, count in place.spans():
                for at in {lane, lane + count - 1}:
                    slot = (id(place.buffer), row % place.buffer.rows, place.lane + at)
                    assert memory.get(slot) == (id(leaf), row), (leaf.name, row, at)

    for group in plan.groups:
        for step, rows in group.in_order():
            for row in rows:
                for position, tensor in enumerate(step.layer.inputs):
                    for source in input_rows(step.layer, row, position):
                        if 0 <= source < tensor.shape.height:
                            read(tensor, source)
                place = plan.place(step.layer.output)
                written = 0 if isinstance(step.layer, Pool) else row
                for lane in lanes_written(plan, step.layer):
                    memory[id(place.buffer), written % place.buffer.rows, lane] = (id(step.layer.output), written)


def test_turns_shorten_the_rings_and_leave_the_rows() -> None:
    graph = optimise(read(fp32_model(spec_of("ghostone", 1.0, 112, 98))))
    once, twice = make_plan(graph, Tuning(turns=1)), make_plan(graph, Tuning())
    assert max(step.turns for step in twice.groups[0].steps) == 2
    assert twice.arena < once.arena
    for plan in (once, twice):
        for group in plan.groups:
            done: dict[int, list[int]] = {}
            for step, rows in group.in_order():
                done.setdefault(id(step), []).extend(rows)
            assert all(done[id(step)] == list(range(step.height)) for step in group.steps)


def test_depthwise_layers_of_streams_get_pairs_of_rows() -> None:
    graph = optimise(read(fp32_model(spec_of("ghostone", 0.5, 112, 98))))
    for group in make_plan(graph, Tuning()).groups:
        for step in group.steps:
            if isinstance(step.layer, Depthwise) and step.layer.stride == 1 and step.height > 1:
                assert step.rate >= 2, step.layer.name


@pytest.mark.parametrize(
    ("count", "lanes", "spans"),
    [
        (24, 48, [(0, 24), (32, 16), (24, 8)]),
        (50, 112, [(0, 50), (64, 48), (50, 2)]),
        (20, 48, [(0, 20), (32, 16), (20, 4)]),
        (4, 16, [(0, 4), (4, 4)]),
    ],
)
def test_twins_share_a_vector(count: int, lanes: int, spans: list[tuple[int, int]]) -> None:
    pixel = Pixel((Twins(count),))
    assert (pixel.lanes, pixel.spans()) == (lanes, spans)
    assert len(set(pixel.lane_of_channel())) == 2 * count
    runs, order = pixel.reading(None)
    at = [lane + i for lane, length in runs for i in range(length)]
    assert at == sorted(at) and at == [pixel.lane_of_channel()[channel] for channel in order]


def test_who_may_be_a_twin() -> None:
    plan = make_plan(optimise(read(fp32_model(spec_of("ghostone", 0.5, 112, 98)))), Tuning())
    counts = {layer.output.shape.channels for layer in plan.graph.layers if plan_left_over(plan, layer) is not None}
    assert counts == {24, 20, 50, 84, 36, 54, 4}, "the last vectors of 30, 60 and 126 are too full to share"
    for layer in plan.graph.layers:
        if isinstance(layer, Concat) and layer.output.shape.height > 1:
            whole = plan.place(layer.output)
            wanted = [whole.lane + lane for lane in whole.pixel.lane_of_channel()]
            parts = [plan.place(part) for part in layer.inputs]
            assert wanted == [p.lane + lane + i for p in parts for lane, count in p.spans() for i in range(count)]


def plan_left_over(plan: Plan, layer: Layer) -> int | None:
    return None if isinstance(layer, Concat) else plan.place(layer.output).left_over


@pytest.mark.parametrize(("architecture", "width"), FAMILY)
@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_no_living_row_is_overwritten(architecture: str, width: float, int8: bool) -> None:
    model = fp32_model(spec_of(architecture, width, 64, 68))
    model = int8_model(model) if int8 else model
    for tuning in (
        Tuning(),
        Tuning(stream_bytes=1),
        Tuning(stream_bytes=1 << 30),
        Tuning(1, 2),
        Tuning(1, 1, 10**9, 2),
    ):
        graph = optimise(read(model))
        assert is_int8(graph) == int8
        plan = make_plan(graph, tuning)
        replay(plan)
        for one in plan.buffers:
            for other in plan.buffers:
                if one is not other and one.first <= other.last and other.first <= one.last:
                    assert one.offset + one.size <= other.offset or other.offset + other.size <= one.offset
        assert plan.lower_bound <= plan.arena <= 1.3 * plan.lower_bound


@given(st.integers(1, 64))
def test_panels_cover_all_vectors_evenly(vectors: int) -> None:
    sizes = panels(vectors)
    assert sum(sizes) == vectors and max(sizes) <= 4 and max(sizes) - min(sizes) <= 1


@settings(max_examples=50)
@given(st.floats(0.002, 0.2), st.floats(0.1, 0.9), st.floats(0.1, 1.0))
def test_a_formula_for_the_face_gives_every_code(step: float, mean: float, std: float) -> None:
    byte = np.arange(256, dtype=np.float32)
    codes = np.clip(np.rint((byte / 255 - mean) / std / step), -128, 127).astype(np.int8)
    found = face_formula(np.repeat(codes[:, None], 3, axis=1))
    if found is not None:
        factor, shift = found[0][0], found[1][0]
        assert (np.clip((np.arange(256) * factor + shift) >> 16, -128, 127) == codes).all()


KERNEL = """#define LM_TILE(M, N) \\
    static LM_T void lm_qtile_##M##_##N(const lm_args *a, const lm_some *t) \\
    { body }
LM_TILE(1, 1) LM_TILE(7, 1) LM_TILE(8, 1)
"""


def test_tiles_that_no_call_needs_fall_back_on_single_pixels() -> None:
    kernel = KERNEL + "\n".join(RULES[nearly_equal])
    short = only_needed(kernel, frozenset({(56, 1)}))
    assert "LM_TILE(1, 1) LM_FEW_TILE(7, 1) LM_TILE(8, 1)" in short
    assert "static LM_T void lm_qtile_##M##_##N(const lm_args *a, const lm_some *t)" in short.split("LM_FEW_TILE")[1]
    assert only_needed(kernel, frozenset({(56, 1), (7, 1)})) == kernel
    other = kernel.replace("6 : 8", "5 : 8")
    assert only_needed(other, frozenset({(56, 1)})) == other


def test_the_widest_kernels_are_cut_to_what_a_model_needs() -> None:
    source = source_text("kernels/qgemm-s8-avx512vnni.c")
    assert rule_of(source) is up_to_eight
    assert rule_of(source_text("kernels/gemm-f32-avx512.c")) is few_sizes
    assert "LM_FEW_TILE(2, 1)" in only_needed(source, frozenset({(56, 1)}))


def test_products_of_one_vector_get_tiles_for_their_own_steps() -> None:
    plan = make_plan(optimise(read(fp32_model(spec_of("ghostone", 0.5, 112, 98)))), Tuning())
    assert near_steps(plan) == (48, 80, 112, 144)
    source = kernels_of("avx512", False, Needs(tile_calls(plan), near=near_steps(plan)))
    assert "#define LM_NEAR_STEPS(X) X(48) X(80) X(112) X(144)\n" in source
    assert "LM_FEW_TILE(14, 1)" in source, "the tile for all steps is not needed then"
    assert "LM_TAIL(14, 4, LM_QUAD_ALL)" in source, "tails are"
    assert "#define LM_NEAR_STEPS(X) X" not in kernels_of("avx2", False, Needs(tile_calls(plan), near=(48,)))
    assert " LM_TILE(14, 1)" in kernels_of("avx512", False, Needs(tile_calls(plan)))


@given(st.integers(1, 300), st.integers(1, 4))
def test_rules_for_tiles_cover_all_pixels(pixels: int, vectors: int) -> None:
    for rule in RULES:
        sizes = rule(pixels, vectors)
        assert sizes and min(sizes) >= 1 and max(sizes) <= (6 if vectors == 4 else 14)
        assert any(pixels % size == 0 for size in sizes) or len(sizes) > 1
