"""Int8 networks with layers left in float: every tensor in the form that is read, and the oracle's bytes from the C."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from export.c import quantised, reference, reference_int8
from export.c.ir import Add, Concat, Dense, Depthwise, Dequantise, Graph, Layer, Pool, Quantise, Shape, Tensor
from export.c.isas import header_text, source_text
from export.c.layout import Pixel
from export.c.pack import pack_depthwise
from export.c.passes import optimise
from export.c.read import read
from export.links_c import CRequest, generate, int8_truth, measure
from export.oracle import Oracle, Real, Stored, quantise, real
from runtime.errors import InputError
from runtime.geometry import network_input
from runtime.spec import ModelSpec

sys.path.insert(0, str(Path(__file__).parent))

import golden
from c_nets import Net, built, compile_c, convolutions, cpu_has, exported, faces, fp32_model, int8_model, spec_of
from zoo_nets import OTHERS, zoo_model

NETS = {
    "ghostone": spec_of("ghostone", 0.25, 64, 68),
    "ghostnet": spec_of("ghostnet", 0.25, 64, 68),
    "ghostnet-slim": spec_of("ghostnet-slim", 0.3, 80, 98),
    "pfld": spec_of("pfld", 0.125, 96, 5),
}
BUILDS = {
    "scalar": ("-DLM_FORCE_SCALAR",),
    "avx2": ("-mavx2", "-mfma"),
    "avx2vnni": ("-mavx2", "-mavxvnni", "-mfma"),
    "avx512": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni", "-mavx512dq"),
}
NEEDS = {"avx2": ("avx2", "fma"), "avx2vnni": ("avx2", "avx_vnni"), "avx512": ("avx512f", "avx512_vnni")}


@cache
def plain(name: str) -> ModelProto:
    return fp32_model(NETS[name])


def some_nodes(name: str, count: int, seed: int) -> list[str]:
    names = convolutions(plain(name))
    return [str(n) for n in np.random.default_rng(seed).choice(names, min(count, len(names)), replace=False)]


def first_convolution(name: str) -> str:
    """The one that reads the face."""
    return next(node.name for node in plain(name).graph.node if node.op_type == "Conv")


def values_of(graph: Graph, face: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """The compiler's own reference on one face."""
    if graph.input.step is None:
        start = reference.face_input(face, spec).astype(np.float32)
    else:
        codes = quantised.face_codes(spec, np.float32(quantised.step_of(graph.input)))
        start = np.stack([codes[face[..., c], c] for c in range(3)], axis=2)
    return np.asarray(reference_int8.run(graph, start)[id(graph.output)].reshape(-1), np.float32)


def matches_the_oracle(model: ModelProto, net: Net, spec: ModelSpec) -> bool:
    crops = np.concatenate([faces(2, spec.input_size), np.zeros((1, spec.input_size, spec.input_size, 3), np.uint8)])
    wanted = Oracle(model).run(network_input(crops, spec)).output.reshape(3, -1).astype(np.float32)
    return np.stack([net(crop) for crop in crops]).tobytes() == wanted.tobytes() and net.selftest() == (0, -1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETS)
def test_any_layers_may_stay_float(name: str, seed: int) -> None:
    spec = NETS[name]
    model = int8_model(plain(name), float_nodes=some_nodes(name, 1 + 3 * seed, seed))
    graph = optimise(read(model))
    face = faces(1, spec.input_size, seed)[0]
    wanted = Oracle(model).run(network_input(face[None], spec)).output.reshape(-1).astype(np.float32)
    assert values_of(graph, face, spec).tobytes() == wanted.tobytes()


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", OTHERS[2:5], ids=lambda c: c[0])
def test_layers_of_the_comparison_networks_may_stay_float(case: tuple[str, float, int, int]) -> None:
    spec = spec_of(*case)
    model = zoo_model(spec)
    names, face = convolutions(model), faces(1, spec.input_size)[0]
    for count in range(1, 7):
        chosen = np.random.default_rng(count).choice(names, count, replace=False)
        mixed = int8_model(model, float_nodes=[str(n) for n in chosen])
        wanted = Oracle(mixed).run(network_input(face[None], spec)).output.reshape(-1).astype(np.float32)
        assert values_of(optimise(read(mixed)), face, spec).tobytes() == wanted.tobytes(), list(chosen)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NETS)
def test_every_single_layer_may_stay_float(name: str) -> None:
    spec = NETS[name]
    face = faces(1, spec.input_size)[0]
    for node in convolutions(plain(name)):
        model = int8_model(plain(name), float_nodes=[node])
        wanted = Oracle(model).run(network_input(face[None], spec)).output.reshape(-1).astype(np.float32)
        assert values_of(optimise(read(model)), face, spec).tobytes() == wanted.tobytes(), node


SPREAD = [("ghostnet", "scalar"), ("ghostone", "avx2"), ("pfld", "avx512"), ("ghostnet-slim", "avx2vnni")]
EVERY = [
    pytest.param(name, build, marks=() if (name, build) in SPREAD else pytest.mark.exhaustive)
    for name in NETS
    for build in BUILDS
]


@pytest.mark.parametrize(("name", "build"), EVERY)
def test_mixed_c_equals_the_oracle_bit_for_bit(name: str, build: str, tmp_path: Path) -> None:
    """`-ffp-contract=fast`: a compiler that may fuse products into sums must not find any."""
    if not cpu_has(*NEEDS.get(build, ())):
        pytest.skip(f"this processor has no {build}")
    spec = NETS[name]
    model = int8_model(plain(name), float_nodes=[*some_nodes(name, 5, len(build)), first_convolution(name)])
    net = built(model, spec, tmp_path, "-O2", "-ffp-contract=fast", *BUILDS[build], int8=True)
    assert matches_the_oracle(model, net, spec)


def test_mixed_dispatch_holds_every_path(tmp_path: Path) -> None:
    if not cpu_has("avx2"):
        pytest.skip("choosing at run time is for x86-64 with AVX2")
    spec = NETS["ghostone"]
    model = int8_model(plain("ghostone"), float_nodes=some_nodes("ghostone", 3, 9))
    exported(model, spec, tmp_path, True, dispatch=True)
    net = Net(compile_c([tmp_path / "landmarks.c"], tmp_path / "net.so", "-O1", "-fPIC", "-shared"), spec)
    for path in range(net.library.lm_isa_count()):
        if net.library.lm_use_isa(net.context, path) == 0:
            assert matches_the_oracle(model, net, spec), path


def test_the_selftest_names_a_float_layer_inside(tmp_path: Path) -> None:
    spec = NETS["ghostone"]
    node = first_convolution("ghostone")
    net = built(int8_model(plain("ghostone"), float_nodes=[node]), spec, tmp_path, "-O1", int8=True)
    assert net.selftest() == (0, -1)
    source = (tmp_path / "landmarks.c").read_text()
    layer = int(source[: source.index("a.k_total = ")].rsplit("static void lm_layer_")[-1].split("(")[0])
    changed = source.replace("a.k_total = ", "a.k_total = -1 + ", 1)
    (tmp_path / "landmarks.c").write_text(changed)
    library = compile_c([tmp_path / "landmarks.c"], tmp_path / "broken.so", "-O1", "-fPIC", "-shared")
    assert Net(library, spec).selftest() == (8, layer)


def test_the_chain_link_compares_every_bit_of_a_mixed_network() -> None:
    spec, plain_model = golden.SPEC, golden.fp32_model()
    model = int8_model(plain_model, float_nodes=convolutions(plain_model)[2:5])
    crops, request = faces(3, spec.input_size), CRequest(("int8",), isas=("scalar",))
    truth = int8_truth(model, spec, Oracle(model).run(network_input(crops, spec)).output)
    measured = measure(generate(model, spec, "int8", request), spec, request, crops, truth)
    if not measured.checks:
        pytest.skip("no C compiler on this machine")
    values = {check.name: check.value for check in measured.checks}
    assert values["outputs"] == values["self-test"] == values["warnings"] == 0
    wrong = replace(truth, wanted=np.nextafter(truth.wanted, np.float32(9)))
    measured = measure(generate(model, spec, "int8", request), spec, request, crops, wrong)
    assert next(check.value for check in measured.checks if check.name == "outputs") == truth.wanted.size


CROSSING = """#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>
{kernels}
void quantise(const float *x, int count, float step, uint8_t *y) {{ lm_quantise_row(x, 0, 1, count, step, y, 0); }}
void dequantise(const uint8_t *x, int count, float step, float *y) {{ lm_dequantise_row(x, 0, 1, count, step, y, 0); }}
"""


DEPTHWISE = """#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>
{kernels}
void row(const float *x, int width, int stride, const float *w, const float *bias, float *y)
{{
    const float *rows[3] = {{NULL, x, x + 32 * width}};
    lm_dw_ordered_row(rows, 32, width, stride, w, bias, y, 32, (width + stride - 1) / stride, 2, 0);
}}
"""


@pytest.mark.parametrize("level", ["-O1", "-O3"])
def test_depthwise_sums_are_neither_fused_nor_reordered(level: str, tmp_path: Path) -> None:
    headers = "#define LM_ZERO 0\n" + "".join(header_text(f"kernels/{name}.h") for name in ("kernel", "kernel-s8"))
    source = tmp_path / "depthwise.c"
    source.write_text(DEPTHWISE.format(kernels=headers + source_text("kernels/dwordered3x3-f32.c")))
    fma = ("-mavx2", "-mfma") if cpu_has("avx2", "fma") else ()
    flags = (level, "-ffp-contract=fast", *fma, "-fPIC", "-shared")
    library = ctypes.CDLL(str(compile_c([source], tmp_path / "depthwise.so", *flags)))
    draw = np.random.default_rng(1)
    for width, stride in ((7, 1), (8, 2), (1, 1), (13, 2)):
        x, weights = draw.normal(size=(2, width, 32)), draw.normal(size=(32, 3, 3))
        shapes = Shape(1, -(-width // stride), 32), Shape(2, width, 32)
        layer = Depthwise([Tensor("x", shapes[1])], Tensor("y", shapes[0]), weights=weights.astype(np.float32))
        layer.bias, layer.stride = draw.normal(size=32).astype(np.float32), stride
        packed, bias = pack_depthwise(layer, Pixel((32,)))
        x, y = np.ascontiguousarray(x, np.float32), np.zeros((shapes[0].width, 32), np.float32)
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (x, packed, bias, y)]
        library.row(pointers[0], width, stride, *pointers[1:])
        assert y.tobytes() == reference_int8.compute(layer, [x])[0].tobytes()


@pytest.mark.parametrize("zero", [0, 128])
def test_rounding_on_the_edge_between_two_codes_is_the_oracles(zero: int, tmp_path: Path) -> None:
    """A product with the reciprocal of the step would round some of these the other way."""
    headers = "".join(header_text(f"kernels/{name}.h") for name in ("kernel", "kernel-s8"))
    kernels = "".join(source_text(f"kernels/{name}.c") for name in ("quantise-s8", "dequantise-s8"))
    source = tmp_path / "crossing.c"
    source.write_text(CROSSING.format(kernels=f"#define LM_ZERO {zero}\n{headers}{kernels}"))
    flags = ("-O2", "-ffp-contract=fast", "-fPIC", "-shared")
    library = ctypes.CDLL(str(compile_c([source], tmp_path / "crossing.so", *flags)))
    draw = np.random.default_rng(5)
    edges = np.arange(-140, 140) + np.float32(0.5)
    for step in (10.0 ** draw.uniform(-4, 1, 200)).astype(np.float32):
        middle = (edges * np.float64(step)).astype(np.float32)
        x = np.concatenate([middle, *(np.nextafter(middle, np.float32(end)) for end in (-np.inf, np.inf))])
        x = np.append(x, np.float32([np.inf, -np.inf, 3e38, 0, -0.0]))
        y, back = np.zeros(x.size, np.uint8), np.zeros(x.size, np.float32)
        size, scale = ctypes.c_int(x.size), ctypes.c_float(step)
        library.quantise(ctypes.c_void_p(x.ctypes.data), size, scale, ctypes.c_void_p(y.ctypes.data))
        with np.errstate(over="ignore"):
            wanted = quantise(Real(x), step)
        assert ((y.astype(int) - zero).astype(np.int8) == wanted).all()
        library.dequantise(ctypes.c_void_p(y.ctypes.data), size, scale, ctypes.c_void_p(back.ctypes.data))
        assert back.tobytes() == real(Stored(wanted, step)).tobytes()


STEP = np.float32(0.25)


def conv(source: Tensor, name: str, int8: bool, channels: int = 4) -> Dense:
    weights = np.ones((channels, source.shape.channels, 1, 1), np.float32)
    out = Tensor(name, Shape(8, 8, channels))
    steps = np.full(channels, 0.5, np.float32) if int8 else None
    return Dense([source], out, name, weights=weights, bias=np.zeros(channels, np.float32), steps=steps)


def rounded(source: Tensor, step: np.float32 = STEP) -> Quantise:
    return Quantise([source], Tensor(source.name + "_q", source.shape, step), source.name + " as int8")


def kinds(graph: Graph) -> list[str]:
    marks = {
        Dense: "dense",
        Depthwise: "dw",
        Quantise: "quantise",
        Dequantise: "dequantise",
        Add: "add",
        Concat: "concat",
    }
    return [marks[type(x)] + ("" if x.output.step is None else "8") for x in graph.layers]


def chain(*layers: Layer) -> Graph:
    return Graph(layers[0].inputs[0], layers[-1].output, list(layers))


def face() -> Tensor:
    return Tensor("face", Shape(8, 8, 3))


def test_a_float_result_is_rounded_by_a_layer_and_an_int8_one_is_not() -> None:
    start = rounded(face())
    first = conv(start.output, "first", True)
    middle_q = rounded(first.output)
    second = conv(middle_q.output, "second", True)
    assert kinds(optimise(chain(start, first, middle_q, second))) == ["dense8", "dense"]
    source = face()
    first = conv(source, "first", False)
    middle_q = rounded(first.output)
    second = conv(middle_q.output, "second", True)
    graph = optimise(chain(first, middle_q, second))
    assert kinds(graph) == ["dense", "quantise8", "dense"] and graph.input is source


def test_a_result_that_is_read_in_both_forms_is_computed_in_both() -> None:
    start = rounded(face())
    first = conv(start.output, "first", True)
    stored = rounded(first.output)
    second, third = conv(stored.output, "second", True), conv(first.output, "third", False)
    both = Add([second.output, third.output], Tensor("sum", second.output.shape), "sum")
    graph = optimise(chain(start, first, stored, second, third, both))
    assert kinds(graph) == ["dense", "dense8", "dense", "dense", "add"]


def test_an_addition_in_both_forms_takes_its_sums_twice() -> None:
    start = rounded(face())
    left, right = conv(start.output, "left", True), conv(start.output, "right", True)
    left_q = rounded(left.output)
    total = Add([left_q.output, right.output], Tensor("total", left.output.shape), "total")
    total_q = rounded(total.output)
    one, other = conv(total_q.output, "one", True), conv(total.output, "other", False)
    end = Add([one.output, other.output], Tensor("end", one.output.shape), "end")
    graph = optimise(chain(start, left, right, left_q, total, total_q, one, other, end))
    assert kinds(graph) == ["dense8", "dequantise", "dense", "add", "dense8", "dense", "dense", "add"]
    fused = next(x for x in graph.layers if isinstance(x, Dense) and len(x.inputs) == 2)
    assert fused.output.step == STEP and fused.inputs[1].step == STEP


def test_both_forms_of_a_concatenation() -> None:
    start = rounded(face())
    left, right = conv(start.output, "left", True), conv(start.output, "right", False)
    right.inputs = [start.inputs[0]]
    both = Concat([left.output, right.output], Tensor("both", Shape(8, 8, 8)), "both")
    stored = rounded(both.output)
    one = conv(stored.output, "one", True)
    with pytest.raises(InputError, match="the face is read both as int8 and as float"):
        optimise(chain(start, left, right, both, stored, one))
    left = conv(start.output, "left", True)
    middle = conv(left.output, "middle", False)
    both = Concat([left.output, middle.output], Tensor("both", Shape(8, 8, 8)), "both")
    stored = rounded(both.output)
    graph = optimise(chain(start, left, middle, both, stored, conv(stored.output, "one", True)))
    assert kinds(graph) == ["dense", "dense8", "dense", "quantise8", "concat8", "dense"]


def test_what_no_kernel_does_is_refused_with_the_forms() -> None:
    start = rounded(face())
    first = conv(start.output, "first", True)
    pool = Pool([first.output], Tensor("pool", Shape(1, 1, 4)), "pool")
    with pytest.raises(InputError, match="pool 4 @1x1 'pool' reads float and makes float"):
        optimise(chain(start, first, pool))
    again, other = rounded(face()), np.float32(0.125)
    twice = Quantise([again.output], Tensor("twice", again.output.shape, other), "twice")
    with pytest.raises(InputError, match=r"'face' is int8 of scale 0\.25, it is read as 0\.125"):
        optimise(chain(again, twice, conv(twice.output, "first", True)))
