"""The generated C on other machines, under qemu: int8 gives the oracle's bytes on aarch64 and on a Cortex-M."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import cross
import golden
from c_nets import STRICT, compile_c, exported, faces, fp32_model, int8_model, spec_of
from zoo_nets import OTHERS, zoo_model

from export.c import COptions, export_c
from export.oracle import Oracle
from runtime.backends.ort import OrtModel
from runtime.geometry import network_input

HERE = Path(__file__).parent
AARCH64 = {
    "NEON": ("-march=armv8-a",),
    "NEON dot product": ("-march=armv8.2-a+dotprod",),
    "C99": ("-march=armv8-a", "-DLM_FORCE_SCALAR"),
}


def need(*tools: str) -> None:
    if gone := cross.missing(*tools):
        pytest.skip(f"no {gone} on this machine (Debian: gcc-aarch64-linux-gnu qemu-user-static, "
                    "gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm)")  # fmt: skip


def aarch64_run(folder: Path, program: Path, flags: tuple[str, ...], pixels: bytes) -> tuple[str, bytes]:
    """(instruction set, landmarks) of a static aarch64 program under qemu-user; its self-test passed."""
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if qemu is None:
        pytest.skip("no qemu-aarch64 (package qemu-user-static) on this machine")
    sources = [HERE / "run_faces.c", folder / "landmarks.c"]
    compile_c(sources, program, *STRICT, "-O2", "-static", f"-I{folder}", *flags, cc="aarch64-linux-gnu-gcc")
    result = subprocess.run([qemu, "-cpu", "max", str(program)], input=pixels, capture_output=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stderr.decode(), result.stdout


@pytest.mark.parametrize("isa", ["NEON dot product", "C99"])
def test_int8_on_aarch64_gives_the_bytes_of_the_oracle(isa: str, tmp_path: Path) -> None:
    need("aarch64-linux-gnu-gcc")
    spec = spec_of("ghostnet", 0.25, 64, 68)
    model = int8_model(fp32_model(spec))
    exported(model, spec, tmp_path, True)
    crops = np.concatenate([faces(2, 64), np.full((1, 64, 64, 3), 255, np.uint8)])
    title, found = aarch64_run(tmp_path, tmp_path / "run", AARCH64[isa], crops.tobytes())
    assert title == isa
    assert found == Oracle(model).run(network_input(crops, spec)).output.astype(np.float32).tobytes()


def test_float_on_aarch64_gives_the_same_landmarks(tmp_path: Path) -> None:
    need("aarch64-linux-gnu-gcc")
    export_c(golden.fp32_model(), golden.SPEC, tmp_path)
    crops = faces(2, 32).tobytes()
    found = {isa: aarch64_run(tmp_path, tmp_path / "run", AARCH64[isa], crops) for isa in ("NEON", "C99")}
    assert {isa: title for isa, (title, _) in found.items()} == {"NEON": "NEON", "C99": "C99"}
    fast, plain = (np.frombuffer(found[isa][1], np.float32) for isa in ("NEON", "C99"))
    assert np.abs(fast - plain).max() <= 256 * np.finfo(np.float32).eps * np.abs(plain).max()


@pytest.mark.parametrize("case", OTHERS[:-1], ids=lambda c: str(c[0]))
def test_the_comparison_networks_on_aarch64(case: tuple[str, float, int, int], tmp_path: Path) -> None:
    need("aarch64-linux-gnu-gcc")
    spec = spec_of(*case)
    model = zoo_model(spec)
    exported(model, spec, tmp_path)
    crops = faces(2, spec.input_size)
    title, found = aarch64_run(tmp_path, tmp_path / "run", AARCH64["NEON"], crops.tobytes())
    landmarks = np.frombuffer(found, np.float32)
    wanted = OrtModel(model.SerializeToString())(network_input(crops, spec))
    assert title == "NEON"
    assert np.abs(landmarks - wanted.reshape(-1)).max() <= 1e-4 * np.abs(wanted).max()
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-2 * np.abs(wanted).max(), "the network looks at its input"


def test_dispatch_elsewhere_than_on_x86_leaves_the_choice_to_the_compiler(tmp_path: Path) -> None:
    need("aarch64-linux-gnu-gcc")
    export_c(golden.fp32_model(), golden.SPEC, tmp_path, options=COptions(dispatch=True))
    title, _ = aarch64_run(tmp_path, tmp_path / "run", AARCH64["NEON"], faces(1, 32).tobytes())
    assert title == "NEON"


def test_a_microcontroller_gives_the_bytes_of_the_oracle(tmp_path: Path) -> None:
    need(cross.ARM_GCC, cross.QEMU_ARM)
    model = golden.int8_model()
    export_c(model, golden.SPEC, tmp_path, precision="int8")
    built = cross.firmware(tmp_path, tmp_path / "firmware.elf")
    run = cross.run_on_board(built.path, golden.SPEC.points)
    wanted = Oracle(model).run(network_input(cross.board_faces(32), golden.SPEC)).output
    assert run.landmarks.tobytes() == wanted.astype(np.float32).tobytes()
    assert run.selftest == 0 and run.stack < 8192


@pytest.mark.slow
def test_the_quarter_width_net_fits_a_microcontroller(tmp_path: Path) -> None:
    need(cross.ARM_GCC, cross.QEMU_ARM)
    spec = spec_of("ghostone", 0.25, 112, 98)
    model = int8_model(fp32_model(spec))
    report = exported(model, spec, tmp_path, True)
    for core in cross.CORES:
        built = cross.firmware(tmp_path, tmp_path / f"{core}.elf", core)
        assert built.flash < 256 << 10 and built.ram < report.arena_bytes + (40 << 10)
    run = cross.run_on_board(tmp_path / "cortex-m7.elf", spec.points)
    wanted = Oracle(model).run(network_input(cross.board_faces(112), spec)).output
    assert run.landmarks.tobytes() == wanted.astype(np.float32).tobytes() and run.selftest == 0
