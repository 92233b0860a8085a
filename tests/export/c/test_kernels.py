"""Every kernel by itself: on the shapes of real nets and on random ones, against plain C (int8: byte for byte)."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pytest

from export.c.body import ROW_KERNELS
from export.c.isas import F32, HERE, S8
from export.c.passes import optimise
from export.c.plan import Tuning, make_plan
from export.c.read import read

sys.path.insert(0, str(Path(__file__).parent))

from c_kernels import FOLDER, write_harness
from c_nets import compile_c, cpu_has, fp32_model, int8_model, run_program, spec_of
from c_shapes import Shapes, shapes_of

NETS = [("ghostone", 0.5, 64, 98), ("ghostnet", 0.25, 64, 68), ("ghostnet-slim", 0.3, 80, 98), ("pfld", 0.125, 96, 5)]
"""Nets whose shapes are tried; between them they have tails of every kind, odd maps and sums of maps."""

FLAGS = {
    "scalar": (),
    "sse2": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx2vnni": ("-mavx2", "-mavxvnni"),
    "avx512": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni", "-mavx512dq"),
}
NEEDS = {"avx2": ("avx2", "fma"), "avx2vnni": ("avx2", "avx_vnni"), "avx512": ("avx512f", "avx512_vnni")}
CASES = [(isa, False) for isa in ("scalar", "sse2", "avx2", "avx512")] + [
    (isa, True) for isa in ("avx2", "avx2vnni", "avx512")
]


@cache
def shapes(int8: bool) -> Shapes:
    plans = []
    for case in NETS:
        model = fp32_model(spec_of(*case))
        plans.append(make_plan(optimise(read(int8_model(model) if int8 else model)), Tuning()))
    return shapes_of(plans)


def kernels(folder: Path, isa: str, int8: bool, *flags: str, cc: str = "gcc", **changes: tuple[str, str]) -> Path:
    if not cpu_has(*NEEDS.get(isa, ())):
        pytest.skip(f"this processor has no {isa}")
    source = write_harness(folder, isa, shapes(int8), int8, **changes)
    options = (*FLAGS[isa], f"-I{FOLDER}", *flags)
    return compile_c([source], folder / "kernels", *options, "-lm", cc=cc)


def named(case: tuple[str, bool]) -> str:
    return f"{case[0]}-{'s8' if case[1] else 'f32'}"


@pytest.mark.parametrize("case", CASES, ids=named)
def test_kernels_equal_their_reference(case: tuple[str, bool], tmp_path: Path) -> None:
    result = run_program(kernels(tmp_path, *case, "-O2"), "3000")
    assert result.returncode == 0, result.stdout


SPREAD = {
    ("gcc", "-O0"): "scalar",
    ("clang", "-O1"): "sse2",
    ("gcc", "-O3"): "avx2",
    ("gcc", "-O2"): "avx2vnni",
    ("clang", "-O3"): "avx512",
}
"""Every instruction set, compiler and level once; all combinations are exhaustive."""
EVERY = [
    pytest.param(
        case,
        cc,
        level,
        marks=() if SPREAD.get((cc, level)) == case[0] else pytest.mark.exhaustive,
        id=f"{named(case)}-{cc}{level}",
    )
    for case in CASES
    for cc in ("gcc", "clang")
    for level in ("-O0", "-O1", "-O2", "-O3")
]


@pytest.mark.slow
@pytest.mark.parametrize("case, cc, level", EVERY)
def test_kernels_at_every_level_of_optimisation(case: tuple[str, bool], cc: str, level: str, tmp_path: Path) -> None:
    program = kernels(tmp_path, *case, level, "-ffp-contract=fast", cc=cc)
    result = run_program(program, "20000", "check", str(len(level) + ord(level[-1])))
    assert result.returncode == 0, result.stdout


@pytest.mark.exhaustive
def test_a_million_random_int8_tensors(tmp_path: Path) -> None:
    for isa in ("avx2", "avx2vnni", "avx512"):
        folder = tmp_path / isa
        folder.mkdir()
        result = run_program(kernels(folder, isa, True, "-O3"), "500000")
        assert result.returncode == 0, result.stdout


MUTANTS = [
    ("avx512", False, "w += N * 16;", "w += N * 16 - (k == 5);"),
    ("avx512", False, "permutex2var_ps(all, odd, more)", "permutex2var_ps(all, even, more)"),
    ("avx512", False, "LM_TAIL_PUT(3, LM_QUARTER(3))", "LM_TAIL_PUT(3, LM_QUARTER(2))"),
    ("avx512", False, "_mm512_shuffle_f32x4(bias, bias, 0x44)", "bias"),
    ("avx512", False, "_mm512_maskz_shuffle_f32x4(0xff,", "_mm512_maskz_shuffle_f32x4(0xffff,"),
    ("avx512", False, "if (i < left) {", "if (i < left + 1) {"),
    ("avx512", False, "LM_DW_COLUMN(2, 0, 1)", "LM_DW_COLUMN(2, 1, 0)"),
    ("avx512", False, "upper0 = upper2;", "upper0 = upper1;"),
    ("avx512", False, "LM_DW_MUL(3, 22, lower##L)", "LM_DW_MUL(3, 21, lower##L)"),
    ("avx512", False, "_mm512_loadu_ps(shift + i)", "_mm512_loadu_ps(shift)"),
    ("avx512", False, "shift != 0 && kernel == lm_dw_s1_inside ? lm_dw_s1_two_11", "0 ? kernel"),
    ("avx512", False, "a->y[1] + shift", "a->y[1]"),
    ("avx512", False, "shift == 0 ? 16 : shift & 15", "16"),
    ("avx2", False, "(int)(shift & 15) - lane % 16", "(int)(shift & 15)"),
    ("avx2", False, "if (written == LM_SIMD) {", "if (written >= 0) {"),
    ("scalar", False, "y += shift;", ""),
    ("scalar", False, "LM_VECTOR : (int)(shift & 15)", "LM_VECTOR : LM_VECTOR"),
    ("avx512", False, '"i"((i) * (S) * 4)', '"i"((i < 13 ? i : 12) * (S) * 4)'),
    ("avx512", False, "LM_W_1 LM_NEAR_14(S)", "LM_W_1 if (k != 5) { LM_NEAR_14(S) }"),
    ("avx512", False, "pixel += 14;", "pixel += 13;"),
    ("avx512", False, "LM_EACH_14(LM_PLUS_1)", "LM_EACH_13(LM_PLUS_1)"),
    (
        "avx2",
        False,
        "lm_gemm_finish_tail(a, lane, pixel + i, sums + i * 16)",
        "lm_gemm_finish_tail(a, lane, pixel, sums)",
    ),
    ("avx512", True, "_mm512_max_epi8(_mm512_permutexvar_epi32(order", "_mm512_max_epi8(_mm512_permutexvar_epi32(low"),
    ("avx512", True, "LM_SUM_PRODUCTS(middle##q, pad, w0##q)", ""),
    ("avx512", True, "start + 256", "start + 600"),
    ("avx2", True, "_mm256_sign_epi8(w, x)", "w"),
    ("avx2", True, "a->positive ? plus : both", "plus"),
    ("avx2", True, "lm_qdw_plus : lm_qdw_signed", "lm_qdw_signed : lm_qdw_plus"),
    ("avx2", True, "LM_DW_PUT(middle, a->in_width - 1)", "LM_DW_PUT(left, a->in_width - 1)"),
    ("avx2", True, "start + 256", "start + 600"),
    ("avx2", True, "_mm256_permute4x64_epi64(words, 0xd8)", "words"),
    ("avx2vnni", True, "LM_SUM_PRODUCTS(middle##q, pad, LM_DW_W(q, 0))", ""),
    ("avx2vnni", True, "LM_FLIP_128(raised)", "raised"),
    ("avx2vnni", True, "128 * pixels", "127 * pixels"),
    ("avx2vnni", True, "a->add + pixel * a->add_step", "a->add"),
    ("avx2", True, "w0 = _mm256_loadu_ps(w), w1 = _mm256_loadu_ps(w + 8)", "w0 = _mm256_loadu_ps(w), w1 = w0"),
    ("avx2", True, "LM_QUAD(LM_ORDERED_PUT)", "LM_ORDERED_PUT(0) LM_ORDERED_PUT(1) LM_ORDERED_PUT(2)"),
    ("avx512", True, "pixel + (i < count ? i : 0)", "pixel"),
    (
        "avx512",
        True,
        "s##i = _mm512_add_ps(s##i, product)",
        "s##i = _mm512_fmadd_ps(_mm512_set1_ps(x##i[a->at[k]]), weight, s##i)",
    ),
    ("avx2vnni", True, "_mm256_srli_epi32(sum, 16)", "_mm256_srai_epi32(sum, 17)"),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m[0]}-{m[2][:24]}")
def test_a_broken_kernel_is_noticed(mutant: tuple[str, bool, str, str], tmp_path: Path) -> None:
    isa, int8, old, new = mutant
    result = run_program(kernels(tmp_path, isa, int8, "-O1", "-w", break_kernel=(old, new)), "3000")
    assert result.returncode == 1
    assert result.stdout


def test_every_kernel_belongs_to_an_instruction_set() -> None:
    used = {name for table in (F32, S8) for isa in table.values() for name in isa.kernels}
    rows = {"ramp-f32", "gate-f32", "exp-f32", "sigmoid-f32", "scale-f32", "maxpool-f32", "pick-f32"}
    rows |= {"nearest-f32", "bilinear-f32", "mass-f32", "qmaxpool-s8", "qpick-s8"}
    rows |= {"dwk-f32-scalar", "dwk-f32-block", "vector-f32-avx512"}
    rows |= {f"ordered-f32-{isa.ordered}" for isa in S8.values()}
    assert {path.stem for path in (HERE / "kernels").glob("*.c")} == used | rows | set(ROW_KERNELS.values())
