"""NEON kernels by themselves, under qemu-user: as on x86, and the bytes of plain C are those of the other machine."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from c_kernels import FOLDER, write_harness
from c_nets import compile_c, run_program
from test_kernels import shapes

CROSS = "aarch64-linux-gnu-gcc"
FLAGS = {
    ("neon", False): ("-march=armv8-a",),
    ("neon", True): ("-march=armv8.2-a+dotprod",),
    ("scalar", True): ("-march=armv8-a",),
    ("scalar", False): ("-march=armv8-a",),
}
"""(instruction set, int8) -> flags; int8 without dot products is plain C."""


def emulator() -> str:
    if shutil.which(CROSS) is None:
        pytest.skip(f"no {CROSS} on this machine (Debian: gcc-aarch64-linux-gnu)")
    found = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if found is None:
        pytest.skip("no qemu-aarch64 on this machine (Debian: qemu-user-static)")
    return found


def run_arm(folder: Path, isa: str, int8: bool, count: int, level: str = "-O2", **changes: tuple[str, str]) -> str:
    """What the harness printed; the first line that is wrong when a kernel is."""
    qemu = emulator()
    source = write_harness(folder, isa, shapes(int8), int8, **changes)
    flags = (level, "-static", "-w", f"-I{FOLDER}", *FLAGS[isa, int8])
    program = compile_c([source], folder / f"arm-{isa}", *flags, "-lm", cc=CROSS)
    return run_program(qemu, "-cpu", "max", program, str(count)).stdout.strip()


@pytest.mark.parametrize("isa", ["neon", "scalar"])
def test_float_kernels_on_aarch64_stay_within_their_bounds(isa: str, tmp_path: Path) -> None:
    assert run_arm(tmp_path, isa, False, 200).startswith("right")


def test_int8_kernels_give_the_same_bytes_on_both_machines(tmp_path: Path) -> None:
    dots, plain = (run_arm(tmp_path, isa, True, 300) for isa in ("neon", "scalar"))
    assert dots.startswith("right") and dots == plain
    source = write_harness(tmp_path, "scalar", shapes(True), True)
    here = compile_c([source], tmp_path / "here", "-O2", "-w", f"-I{FOLDER}", "-lm")
    assert run_program(here, "300").stdout.strip() == plain


@pytest.mark.exhaustive
@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-O3"])
def test_int8_kernels_on_aarch64_at_every_level(level: str, tmp_path: Path) -> None:
    assert len({run_arm(tmp_path, isa, True, 4000, level) for isa in ("neon", "scalar")}) == 1


MUTANTS = [
    (True, "vcvtnq_s32_f32(f3)", "vcvtq_s32_f32(f3)"),
    (True, "s##i##_3 = vdotq_s32(s##i##_3, w3, x);", "s##i##_3 = vdotq_s32(s##i##_3, w2, x);"),
    (True, "at >= 0 && at < a->in_width", "at >= 0"),
    (True, "vmaxq_s8(vcombine_s8(first, second), vdupq_n_s8((int8_t)a->low))", "vcombine_s8(first, second)"),
    (False, "sums + i * 16", "sums"),
    (False, "LM_DW_TAPS(0, i, left, middle, right)", "LM_DW_TAPS(0, i, left, left, right)"),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m[1][:24])
def test_a_broken_neon_kernel_is_noticed(mutant: tuple[bool, str, str], tmp_path: Path) -> None:
    int8, old, new = mutant
    said = run_arm(tmp_path, "neon", int8, 300, "-O1", break_kernel=(old, new))
    assert said and not said.startswith("right")
