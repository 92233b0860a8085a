"""Limits that a whole-width network must keep: time to compile it, code beside the weights."""

from __future__ import annotations

import resource
import shutil
import sys
from pathlib import Path

import pytest
from onnx import ModelProto

sys.path.insert(0, str(Path(__file__).parent))

from c_nets import compile_c, cpu_has, exported, fp32_model, int8_model, run_program, spec_of

SPEC = spec_of("ghostone", 1.0, 112, 98)
COMPILE_SECONDS = 20
CODE_BYTES = 64 << 10
ISA_FLAGS = {
    "avx512": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mavx2", "-mfma"),
    "avx2": ("-mavx2", "-mfma"),
    "sse2": (),
    "scalar": ("-DLM_FORCE_SCALAR",),
}


@pytest.fixture(scope="module")
def models() -> dict[bool, ModelProto]:
    model = fp32_model(SPEC)
    return {False: model, True: int8_model(model)}


def code_bytes(program: Path) -> int:
    rows = [line.split() for line in run_program("size", "-A", program).stdout.splitlines()]
    return sum(int(row[1]) for row in rows if row and row[0].startswith(".text"))


@pytest.mark.slow
@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_compile_time_and_code_size(int8: bool, models: dict[bool, ModelProto], tmp_path: Path) -> None:
    if not cpu_has("sse2"):
        pytest.skip("the limits are for x86-64")
    if shutil.which("size") is None:
        pytest.skip("no size (binutils) on this machine")
    exported(models[int8], SPEC, tmp_path, int8)
    seconds, sizes = {}, {}
    for isa, flags in ISA_FLAGS.items():
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        built = compile_c([tmp_path / "landmarks.c"], tmp_path / f"{isa}.o", "-O3", "-c", *flags)
        seconds[isa] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        sizes[isa] = code_bytes(built)
    print(f"seconds of CPU time {seconds}, bytes of code {sizes}")
    assert max(seconds.values()) < COMPILE_SECONDS, seconds
    assert max(sizes.values()) < CODE_BYTES, sizes


@pytest.mark.slow
def test_code_size_of_the_network_with_most_layers(tmp_path: Path) -> None:
    if not cpu_has("sse2"):
        pytest.skip("the limits are for x86-64")
    if shutil.which("size") is None:
        pytest.skip("no size (binutils) on this machine")
    spec = spec_of("ghostnet", 1.0, 112, 98)
    exported(fp32_model(spec), spec, tmp_path, False)
    built = compile_c([tmp_path / "landmarks.c"], tmp_path / "net.o", "-O3", "-c", *ISA_FLAGS["avx512"])
    assert code_bytes(built) < CODE_BYTES
