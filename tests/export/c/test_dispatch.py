"""Builds that choose their instruction set at run time, and the form with one header: the same numbers everywhere."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from export.c.dispatch import dispatch_order, in_its_own_names
from export.c.isas import F32, NAMES, S8
from export.oracle import Oracle
from runtime.errors import UsageError
from runtime.geometry import network_input

sys.path.insert(0, str(Path(__file__).parent))

from c_nets import STRICT, Net, compile_c, cpu_has, exported, faces, fp32_model, int8_model, run_program, spec_of

HERE = Path(__file__).parent
SPEC = spec_of("ghostnet", 0.125, 32, 5)
LM_ERR_ISA = 9
STRICT_CPP = ("-x", "c++", "-std=c++17", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror")
FLAGS = {
    "AVX2": "avx2",
    "FMA": "fma",
    "AVX512F": "avx512f",
    "AVX512BW": "avx512bw",
    "AVX512VL": "avx512vl",
    "AVX512VNNI": "avx512_vnni",
    "AVXVNNI": "avx_vnni",
}
"""Bit of cpu.c -> word of /proc/cpuinfo."""


@pytest.fixture(scope="module")
def models() -> dict[bool, ModelProto]:
    model = fp32_model(SPEC)
    return {False: model, True: int8_model(model)}


def x86() -> None:
    if not cpu_has("sse2"):
        pytest.skip("choosing at run time is for x86-64; this machine is none")


def wanted_paths(int8: bool) -> list[tuple[str, bool]]:
    """(title, does this machine have it) of every path, best first."""
    table = S8 if int8 else F32
    names = [name for name in dispatch_order(NAMES, int8) if table[name].target is not None]
    last = next(i for i, name in enumerate(names) if table[name].target == "")
    return [(table[n].title, cpu_has(*(FLAGS[bit] for bit in table[n].needs))) for n in names[: last + 1]]


@pytest.mark.parametrize(
    ("cc", "int8"), [("gcc", False), ("gcc", True), ("clang", True)], ids=["gcc-fp32", "gcc-int8", "clang-int8"]
)
def test_every_path_of_one_object_gives_the_right_numbers(
    cc: str, int8: bool, models: dict[bool, ModelProto], tmp_path: Path
) -> None:
    x86()
    exported(models[int8], SPEC, tmp_path, int8, dispatch=True)
    flags = (*STRICT, "-O1", "-fPIC", "-shared")
    net = Net(compile_c([tmp_path / "landmarks.c"], tmp_path / "net.so", *flags, cc=cc), SPEC)
    library = net.library
    library.lm_isa_name.restype = library.lm_isa.restype = ctypes.c_char_p
    paths = wanted_paths(int8)
    assert [library.lm_isa_name(i).decode() for i in range(library.lm_isa_count())] == [title for title, _ in paths]
    assert library.lm_isa_name(-1) == library.lm_isa_name(len(paths)) == b"?"
    assert library.lm_isa().decode() == next(title for title, here in paths if here)
    assert library.lm_use_isa(net.context, -1) == library.lm_use_isa(net.context, len(paths)) == LM_ERR_ISA
    crops = faces(2, 32)
    found: dict[str, NDArray[np.float32]] = {"chosen": np.stack([net(crop) for crop in crops])}
    for index, (title, here) in enumerate(paths):
        assert library.lm_use_isa(net.context, index) == (0 if here else LM_ERR_ISA)
        if here:
            found[title] = np.stack([net(crop) for crop in crops])
            assert net.selftest() == (0, -1), title
    first = found["chosen"]
    if int8:
        wanted = Oracle(models[True]).run(network_input(crops, SPEC)).output
        assert all(value.tobytes() == wanted.astype(np.float32).tobytes() for value in found.values()), list(found)
    else:
        limit = 256 * np.finfo(np.float32).eps * np.abs(first).max()
        assert all(np.abs(value - first).max() <= limit for value in found.values()), list(found)


CPUS = {"Nehalem": ("SSE2", "C99"), "Haswell": ("AVX2", "AVX2")}
"""Processor for qemu -> what a float and an int8 build choose on it."""


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_a_lesser_processor_gets_what_it_can_run(int8: bool, models: dict[bool, ModelProto], tmp_path: Path) -> None:
    x86()
    qemu = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    if qemu is None:
        pytest.skip("no qemu-x86_64 (package qemu-user-static) to play a lesser processor")
    exported(models[int8], SPEC, tmp_path, int8, dispatch=True)
    sources = [HERE / "run_faces.c", tmp_path / "landmarks.c"]
    program = compile_c(sources, tmp_path / "run", "-O1", "-static", f"-I{tmp_path}")
    crop = faces(1, 32)
    here = subprocess.run([str(program)], input=crop.tobytes(), capture_output=True, timeout=60)
    assert here.returncode == 0
    for cpu, titles in CPUS.items():
        command = [qemu, "-cpu", cpu, str(program)]
        there = subprocess.run(command, input=crop.tobytes(), capture_output=True, timeout=60)
        assert there.returncode == 0 and there.stderr.decode().splitlines()[-1] == titles[int8], there.stderr
        if int8:
            assert there.stdout == here.stdout
        refused = subprocess.run([*command, "0"], input=crop.tobytes(), capture_output=True, timeout=60)
        assert refused.returncode == LM_ERR_ISA


@pytest.mark.parametrize("flag", ["-DLM_NO_DISPATCH", "-DLM_FORCE_SCALAR"])
def test_the_choice_can_be_left_to_the_compiler(flag: str, models: dict[bool, ModelProto], tmp_path: Path) -> None:
    x86()
    exported(models[True], SPEC, tmp_path, True, dispatch=True)
    sources = [HERE / "run_faces.c", tmp_path / "landmarks.c"]
    program = compile_c(sources, tmp_path / "run", *STRICT, "-O0", flag, f"-I{tmp_path}")
    result = subprocess.run([str(program)], input=faces(1, 32).tobytes(), capture_output=True, timeout=60)
    assert result.returncode == 0 and result.stderr == b"C99"
    wanted = Oracle(models[True]).run(network_input(faces(1, 32), SPEC)).output
    assert result.stdout == wanted.astype(np.float32).tobytes()
    assert subprocess.run([str(program), "1"], input=b"", capture_output=True).returncode == LM_ERR_ISA


def test_dispatch_needs_something_to_choose_among(models: dict[bool, ModelProto], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="x86-64"):
        exported(models[False], SPEC, tmp_path / "no", dispatch=True, isas=("neon",))
    assert not (tmp_path / "no").exists()


def test_engines_do_not_meet() -> None:
    engine = "#define LM_X 1\n  #define lm_call lm_call_fast\nstatic int lm_tile_1(lm_net *n) { return lm_row(n); }\n"
    own = in_its_own_names(engine, "avx2", "typedef struct lm_net lm_net; lm_row")
    assert "lm_avx2_tile_1(lm_net *n) { return lm_row(n); }" in own
    assert own.endswith("#undef LM_X\n#undef lm_avx2_call\n")


@pytest.mark.parametrize(("dispatch", "int8"), [(False, False), (True, True)], ids=["one-fp32", "dispatch-int8"])
def test_single_header_as_c_and_cpp(dispatch: bool, int8: bool, models: dict[bool, ModelProto], tmp_path: Path) -> None:
    exported(models[int8], SPEC, tmp_path / "two", int8, dispatch=dispatch, isas=("avx2",))
    exported(models[int8], SPEC, tmp_path / "one", int8, dispatch=dispatch, isas=("avx2",), single_header=True)
    code = "#define LM_IMPLEMENTATION\n" + (HERE / "run_faces.c").read_text() + '\n#include "landmarks.h"\n'
    (tmp_path / "run.c").write_text(code)
    other = '#include "landmarks.h"\n#include "landmarks.h"\nsize_t other(void);\nsize_t other(void)\n{\n'
    (tmp_path / "other.c").write_text(other + "    return lm_arena_bytes();\n}\n")
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(tmp_path / "one/landmarks.h", only)
    crops = faces(1, 32)
    outputs = set()
    builds = [
        (STRICT, [tmp_path / "run.c", tmp_path / "other.c"], only),
        (STRICT_CPP, [tmp_path / "run.c", tmp_path / "other.c"], only),
        (STRICT, [HERE / "run_faces.c", tmp_path / "two/landmarks.c"], tmp_path / "two"),
        (STRICT, [HERE / "run_faces.c", tmp_path / "one/landmarks.c"], tmp_path / "one"),
    ]
    for i, (flags, sources, include) in enumerate(builds):
        program = compile_c(sources, tmp_path / f"run{i}", *flags, "-O0", f"-I{include}")
        result = subprocess.run([str(program)], input=crops.tobytes(), capture_output=True, timeout=60)
        assert result.returncode == 0
        outputs.add(result.stdout)
    assert len(outputs) == 1 and len(outputs.pop()) == 40


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_nothing_but_the_interface_and_constants(int8: bool, models: dict[bool, ModelProto], tmp_path: Path) -> None:
    exported(models[int8], SPEC, tmp_path, int8, dispatch=True)
    library = compile_c([tmp_path / "landmarks.c"], tmp_path / "landmarks.o", "-O0", "-fno-pie", "-c")
    if shutil.which("nm") is None:
        pytest.skip("no nm on this machine")
    header = (tmp_path / "landmarks.h").read_text()
    declared = set(re.findall(r"\b(lm_\w+)\([^;]*\);", re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)))
    symbols = [line.split() for line in run_program("nm", library).stdout.splitlines()]
    assert {words[-1] for words in symbols if words[-2] in "TDBGVW"} == declared
    assert not [words for words in symbols if words[-2] in "dDbBC"], "writable globals"
    wanted = {"memcpy", "memset", "memmove", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail", "strcmp"}
    assert {words[-1] for words in symbols if words[-2] == "U"} <= wanted
