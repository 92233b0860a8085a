"""What lies beside the two files: CMake, pkg-config, demo, self-test, bench; several models in one program."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import golden
from c_nets import STRICT, compile_c, compiler, run_program

from export.c import COptions, export_c


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on this machine")
    return found


def test_cmake_builds_tests_and_installs_what_pkg_config_finds(tmp_path: Path) -> None:
    cmake, _ = tool("cmake"), compiler()
    source, build, target = golden.folder_of("fp32"), tmp_path / "build", tmp_path / "target"
    for command in (
        [cmake, "-S", source, "-B", build, f"-DCMAKE_INSTALL_PREFIX={target}", "-DCMAKE_INSTALL_LIBDIR=lib"],
        [cmake, "--build", build],
        [str(Path(cmake).with_name("ctest")), "--test-dir", build],
        [cmake, "--install", build],
    ):
        result = run_program(*command)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert "self-test ok" in run_program(build / "landmarks_demo").stdout
    assert "p95" in run_program(build / "landmarks_bench", "3", "--layers").stdout
    assert (target / "include/landmarks.h").is_file() and (target / "lib/liblandmarks.a").is_file()
    config = tool("pkg-config")
    path = {"PKG_CONFIG_PATH": str(target / "lib/pkgconfig"), "PATH": "/usr/bin:/bin"}
    result = subprocess.run([config, "--cflags", "--libs", "landmarks"], capture_output=True, text=True, env=path)
    assert result.returncode == 0, result.stderr
    use = tmp_path / "use.c"
    use.write_text("#include <landmarks.h>\nint main(void) { return lm_arena_bytes() != LM_ARENA_BYTES; }\n")
    program = tmp_path / "use"
    subprocess.run([compiler(), str(use), "-o", str(program), *result.stdout.split()], check=True)
    assert run_program(program).returncode == 0


def test_the_prefix_is_on_every_symbol_macro_and_option(tmp_path: Path) -> None:
    for form in (COptions(isas=("avx2",)), COptions(isas=("avx2",), dispatch=True, single_header=True)):
        export_c(golden.fp32_model(), golden.SPEC, tmp_path, prefix="face_net", options=form)
        for path in (p for p in tmp_path.rglob("*") if p.is_file()):
            assert not re.search(r"(?<![A-Za-z0-9])[lL][mM]_\w+", path.read_text()), path.name


def test_two_models_with_two_prefixes_run_in_one_program(tmp_path: Path) -> None:
    """Two precisions of one net, one of them as a single header, in the same source file, as C and as C++."""
    export_c(golden.fp32_model(), golden.SPEC, tmp_path / "one", prefix="one", options=COptions(isas=("avx2",)))
    options = COptions(isas=("avx2",), dispatch=True, single_header=True)
    export_c(golden.int8_model(), golden.SPEC, tmp_path / "two", prefix="two_b", precision="int8", options=options)
    (tmp_path / "main.c").write_text(
        '#include "one/landmarks.h"\n#define TWO_B_IMPLEMENTATION\n#include "two/landmarks.h"\n#include <math.h>\n'
        "static unsigned char first[ONE_ARENA_BYTES + ONE_ARENA_ALIGN];\n"
        "static unsigned char second[TWO_B_ARENA_BYTES + TWO_B_ARENA_ALIGN];\n"
        "int main(void)\n{\n    one_ctx a;\n    two_b_ctx b;\n"
        "    return (int)one_init(&a, one_align(first), ONE_ARENA_BYTES) + (int)one_selftest(&a, NULL)\n"
        "        + (int)two_b_init(&b, two_b_align(second), TWO_B_ARENA_BYTES) + (int)two_b_selftest(&b, NULL)\n"
        "        + (ONE_POINTS != TWO_B_POINTS) + (ONE_ABI_VERSION != TWO_B_ABI_VERSION);\n}\n"
    )
    sources = [tmp_path / "main.c", tmp_path / "one/landmarks.c"]
    for flags in (STRICT, ("-x", "c++", "-std=c++17", *STRICT[1:])):
        assert run_program(compile_c(sources, tmp_path / "both", *flags, "-O0", f"-I{tmp_path}")).returncode == 0


MACRO_TEXT = (
    "ARENA_BYTES ARENA_ALIGN POINTS INPUT_WIDTH INPUT_HEIGHT INPUT_CHANNELS INPUT_ORDER PRECISION MODEL_SHA256 "
    "MAX_SIDE ABI_VERSION"
)


def test_the_header_says_what_the_model_is() -> None:
    header = (golden.folder_of("fp32") / "landmarks.h").read_text()
    values = dict(re.findall(r"^#define LM_(\w+) (\S+)$", header, re.MULTILINE))
    assert set(MACRO_TEXT.split()) <= set(values)
    assert values["MODEL_SHA256"] == f'"{golden.sha256()}"'
    assert (values["POINTS"], values["INPUT_WIDTH"], values["INPUT_ORDER"]) == ("5", "32", '"bgr"')
    assert values["ABI_VERSION"] == "1"
