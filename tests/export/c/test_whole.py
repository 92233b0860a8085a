"""Whole networks: the generated C against ONNX Runtime (float) and against the integer oracle (int8, bit for bit)."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from export.oracle import Oracle
from runtime.geometry import network_input
from runtime.spec import ModelSpec
from train.data.synth.source import SynthSource

sys.path.insert(0, str(Path(__file__).parent))

from c_nets import Net, built, compile_c, cpu_has, faces, fp32_model, int8_model, spec_of

CASES = [
    ("ghostone", 0.25, 64, 68),
    ("ghostnet", 0.5, 64, 106),
    ("ghostnet-slim", 0.3, 80, 98),
    ("pfld", 0.125, 96, 5),
]
"""Architecture, width, input size, points: odd channel counts, odd maps, every block of the family."""

BUILDS = {
    "scalar": ("-O1", "-DLM_FORCE_SCALAR"),
    "sse2": ("-O1",),
    "avx2": ("-O1", "-mavx2", "-mfma"),
    "avx2vnni": ("-O1", "-mavx2", "-mavxvnni"),
    "avx512": ("-O1", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni", "-mavx512dq"),
    "contracted": ("-O2", "-march=native", "-ffp-contract=fast"),
}
NEEDS = {"avx2": ("avx2", "fma"), "avx2vnni": ("avx2", "avx_vnni"), "avx512": ("avx512f", "avx512_vnni")}


def reference(model: ModelProto, crops: NDArray[np.uint8], spec: ModelSpec) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.stack([session.run(None, {name: network_input(crop[None], spec)})[0].reshape(-1) for crop in crops])


def close(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    """A few hundred units in the last place of the largest output: sums of up to 1568 products in another order."""
    assert np.abs(found - wanted).max() <= 256 * np.finfo(np.float32).eps * np.abs(wanted).max()


def need(name: str) -> tuple[str, ...]:
    if not cpu_has(*NEEDS.get(name, ())):
        pytest.skip(f"this processor has no {name}")
    return BUILDS[name]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[1]}-{c[2]}px-{c[3]}")
def test_float_equals_onnxruntime(case: tuple[str, float, int, int], tmp_path: Path) -> None:
    spec = spec_of(*case)
    model = fp32_model(spec)
    net = built(model, spec, tmp_path, "-O1", "-march=native")
    crops = faces(2, spec.input_size)
    close(np.stack([net(crop) for crop in crops]), reference(model, crops, spec))
    assert net.selftest() == (0, -1)


@pytest.mark.parametrize("name", ["scalar", "sse2", "avx2", "avx512"])
def test_float_on_every_instruction_set(name: str, tmp_path: Path) -> None:
    spec = spec_of("ghostnet", 0.25, 64, 68)
    model = fp32_model(spec)
    net = built(model, spec, tmp_path, *need(name))
    crops = faces(2, spec.input_size)
    close(np.stack([net(crop) for crop in crops]), reference(model, crops, spec))
    assert net.selftest() == (0, -1)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[1]}-{c[2]}px-{c[3]}")
def test_int8_equals_the_oracle_bit_for_bit(case: tuple[str, float, int, int], tmp_path: Path) -> None:
    spec = spec_of(*case)
    model = int8_model(fp32_model(spec))
    net = built(model, spec, tmp_path, "-O1", "-march=native", int8=True)
    crops = faces(3, spec.input_size)
    wanted = Oracle(model).run(network_input(crops, spec)).output
    found = np.stack([net(crop) for crop in crops])
    assert found.tobytes() == wanted.reshape(3, -1).astype(np.float32).tobytes()
    assert net.selftest() == (0, -1)


@pytest.mark.parametrize("name", BUILDS)
def test_int8_on_every_instruction_set(name: str, tmp_path: Path) -> None:
    spec = spec_of("ghostnet", 0.25, 64, 68)
    model = int8_model(fp32_model(spec))
    net = built(model, spec, tmp_path, *need(name), int8=True)
    crops = np.concatenate(
        [faces(2, spec.input_size), np.full((1, 64, 64, 3), 255, np.uint8), np.zeros((1, 64, 64, 3), np.uint8)]
    )
    wanted = Oracle(model).run(network_input(crops, spec)).output
    assert np.stack([net(crop) for crop in crops]).tobytes() == wanted.reshape(4, -1).tobytes()
    assert net.selftest() == (0, -1)


def test_the_selftest_names_the_layer_whose_weight_changed(tmp_path: Path) -> None:
    spec = spec_of("ghostone", 0.25, 64, 68)
    net = built(int8_model(fp32_model(spec)), spec, tmp_path, "-O1", int8=True)
    assert net.selftest() == (0, -1)
    source = (tmp_path / "landmarks.c").read_text()
    start = source.index("lm_scale[")
    first = source.index("0x", start)
    end = source.index("f", first)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "landmarks.h").write_text((tmp_path / "landmarks.h").read_text())
    (broken / "landmarks.c").write_text(source[:first] + "0x1p-2" + source[end:])
    library = compile_c([broken / "landmarks.c"], broken / "net.so", "-O1", "-fPIC", "-shared")
    assert Net(library, spec).selftest() == (8, 1)


ZOO = [("ghostone", 0.25), ("ghostnet", 0.25), ("ghostnet-slim", 0.25), ("pfld", 0.25), ("ghostone", 1.0)]
LEVELS = [(cc, level) for cc in ("gcc", "clang") for level in ("-O0", "-O1", "-O2", "-O3")]
SPREAD = [
    (("ghostone", 0.25), "avx512", ("gcc", "-O3")),
    (("ghostnet", 0.25), "avx2", ("clang", "-O2")),
    (("ghostnet-slim", 0.25), "scalar", ("gcc", "-O0")),
    (("pfld", 0.25), "avx512", ("clang", "-O3")),
    (("ghostnet", 0.25), "avx2vnni", ("clang", "-O1")),
    (("ghostone", 1.0), "avx512", ("gcc", "-O2")),
]
"""Every net, instruction set, compiler and level once; all combinations are exhaustive."""
EVERY = [
    pytest.param(*one, marks=() if one in SPREAD else pytest.mark.exhaustive, id=f"{one[0]}-{one[1]}-{''.join(one[2])}")
    for one in itertools.product(ZOO, ("scalar", "avx2", "avx2vnni", "avx512"), LEVELS)
]


@pytest.mark.slow
@pytest.mark.parametrize("case, name, build", EVERY)
def test_every_int8_layer_of_the_zoo_at_every_level(
    case: tuple[str, float], name: str, build: tuple[str, str], tmp_path: Path
) -> None:
    """The self-test compares every layer's codes with numpy's; two faces are compared with the oracle besides."""
    spec = spec_of(case[0], case[1], 112, 98)
    model = int8_model(fp32_model(spec))
    flags = [flag for flag in need(name) if not flag.startswith("-O")]
    net = built(model, spec, tmp_path, build[1], *flags, int8=True, cc=build[0])
    assert net.selftest() == (0, -1)
    crops = faces(2, spec.input_size, seed=len(name))
    wanted = Oracle(model).run(network_input(crops, spec)).output
    assert np.stack([net(crop) for crop in crops]).tobytes() == wanted.reshape(2, -1).tobytes()


@pytest.mark.slow
def test_a_thousand_synthetic_faces_equal_the_oracle(tmp_path: Path) -> None:
    spec = spec_of("ghostone", 0.25, 64, 98)
    model = int8_model(fp32_model(spec))
    net = built(model, spec, tmp_path, "-O2", "-march=native", int8=True)
    source = SynthSource(1000, seed=5, size=spec.input_size)
    crops = np.stack([source.photo(index) for index in range(len(source))])
    wanted = Oracle(model).run(network_input(crops, spec)).output
    assert np.stack([net(crop) for crop in crops]).tobytes() == wanted.reshape(len(crops), -1).tobytes()
