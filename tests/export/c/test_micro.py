"""C for microcontrollers: the oracle's bytes from a third of the memory, several times as fast with DSP."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

sys.path.insert(0, str(Path(__file__).parent))

import cross
import golden
from c_nets import STRICT, Net, compile_c, exported, faces, fp32_model, int8_model, run_program, spec_of
from test_compile import replay
from test_cross import need
from test_mixed import NETS, first_convolution, matches_the_oracle, plain, some_nodes
from zoo_nets import OTHERS, zoo_model

from export.c import COptions, export_c
from export.c.export import smallest_plan
from export.c.isas import HERE, MICRO
from export.links_c import CRequest, refuse_c_request
from export.oracle import Oracle
from runtime.errors import UsageError
from runtime.geometry import network_input
from runtime.spec import ModelSpec

FAMILY = [
    ("ghostone", 0.25, 64, 98),
    ("ghostnet", 0.25, 64, 68),
    ("pfld", 0.125, 96, 5),
    ("ghostnet-slim", 0.3, 80, 98),
]
OTHER = [case for case in OTHERS if case[0] in ("mobileone-s0", "resnet18", "shufflenetv2")]
SANITISE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")


@cache
def model_of(case: tuple[str, float, int, int]) -> tuple[ModelSpec, ModelProto]:
    spec = spec_of(*case)
    return spec, int8_model(fp32_model(spec) if case in FAMILY else zoo_model(spec))


def wanted(model: ModelProto, spec: ModelSpec, crops: np.ndarray) -> bytes:
    return Oracle(model).run(network_input(crops, spec)).output.astype(np.float32).tobytes()


@pytest.mark.parametrize("case", [*FAMILY, *OTHER], ids=lambda c: str(c[0]))
def test_the_oracles_bytes_from_a_third_of_the_memory(case: tuple[str, float, int, int], tmp_path: Path) -> None:
    spec, model = model_of(case)
    usual = exported(model, spec, tmp_path / "usual", True)
    tight = exported(model, spec, tmp_path / "micro", True, isas=(MICRO,))
    crops = faces(3, spec.input_size)
    truth = wanted(model, spec, crops)
    levels = [("-O1",), *([("-O3", "-march=native")] if case in FAMILY else [])]
    for number, level in enumerate(levels):  # the second: gcc 12 can get loops over bytes wrong with VNNI
        flags = (*STRICT, *level, "-fPIC", "-shared")
        net = Net(compile_c([tmp_path / "micro/landmarks.c"], tmp_path / f"{number}.so", *flags), spec)
        assert np.stack([net(crop) for crop in crops]).tobytes() == truth
        assert net.selftest() == (0, -1)
    face = 3 * spec.input_size**2
    assert 3 * (tight.arena_bytes - face) < usual.arena_bytes - face
    assert tight.weight_bytes < usual.weight_bytes


@pytest.mark.parametrize("case", [*FAMILY, *OTHER], ids=lambda c: str(c[0]))
def test_no_living_row_is_overwritten(case: tuple[str, float, int, int]) -> None:
    plan = smallest_plan(model_of(case)[1])
    replay(plan)
    assert plan.tight and plan.lower_bound <= plan.arena <= 1.3 * plan.lower_bound


@pytest.mark.parametrize("case", [FAMILY[0], FAMILY[1], OTHER[1]], ids=lambda c: str(c[0]))
def test_nothing_is_touched_outside(case: tuple[str, float, int, int], tmp_path: Path) -> None:
    """The self-test and two faces under AddressSanitizer; the arena is a block of its own."""
    spec, model = model_of(case)
    exported(model, spec, tmp_path, True, isas=(MICRO,))
    main = tmp_path / "main.c"
    main.write_text(
        """#include "landmarks.h"
#include <stdio.h>
#include <stdlib.h>
int main(void)
{
    static uint8_t face[LM_INPUT_WIDTH * LM_INPUT_HEIGHT * 3];
    float xy[2 * LM_POINTS];
    const size_t blocks = (LM_ARENA_BYTES + LM_ARENA_ALIGN - 1) / LM_ARENA_ALIGN;
    void *memory = aligned_alloc(LM_ARENA_ALIGN, blocks * LM_ARENA_ALIGN);
    lm_ctx ctx;
    int layer, status = lm_init(&ctx, memory, LM_ARENA_BYTES);
    for (int n = 0; n < 2 && status == 0; n++) {
        for (size_t i = 0; i < sizeof face; i++) {
            face[i] = (uint8_t)rand();
        }
        status = lm_run(&ctx, face, xy);
    }
    status = status == 0 ? (int)lm_selftest(&ctx, &layer) : status;
    free(memory);
    puts(lm_isa());
    return status;
}
""",
        encoding="utf-8",
    )
    sources = [main, tmp_path / "landmarks.c"]
    program = compile_c(sources, tmp_path / "main", "-O1", "-g", "-w", *SANITISE, f"-I{tmp_path}")
    result = run_program(program)
    assert result.returncode == 0, result.stderr[:2000]
    assert result.stdout.strip() == "C99"


@pytest.mark.parametrize("name", ["ghostone", "ghostnet-slim"])
def test_layers_that_stay_float_take_part(name: str, tmp_path: Path) -> None:
    spec = NETS[name]
    model = int8_model(plain(name), float_nodes=[*some_nodes(name, 5, 1), first_convolution(name)])
    exported(model, spec, tmp_path, True, isas=(MICRO,))
    flags = (*STRICT, "-O1", "-fPIC", "-shared")
    assert matches_the_oracle(
        model, Net(compile_c([tmp_path / "landmarks.c"], tmp_path / "net.so", *flags), spec), spec
    )


def board(
    folder: Path, model: ModelProto, spec: ModelSpec, isas: tuple[str, ...], core: str = "cortex-m7"
) -> cross.BoardRun:
    export_c(model, spec, folder, precision="int8", options=COptions(isas=isas))
    return cross.run_on_board(cross.firmware(folder, folder / "firmware.elf", core).path, spec.points, core)


def test_dsp_instructions_give_the_oracles_bytes_several_times_as_fast(tmp_path: Path) -> None:
    need(cross.ARM_GCC, cross.QEMU_ARM)
    spec, model = model_of(FAMILY[0])
    fast, plain = (board(tmp_path / isa, model, spec, (isa,)) for isa in (MICRO, "scalar"))
    truth = wanted(model, spec, cross.board_faces(spec.input_size))
    assert fast.landmarks.tobytes() == truth and plain.landmarks.tobytes() == truth
    assert fast.selftest == 0 and plain.selftest == 0
    assert 4 * fast.instructions < plain.instructions


@pytest.mark.parametrize("case", [*FAMILY, OTHER[0], OTHER[2]], ids=lambda c: str(c[0]))
def test_vectors_give_the_oracles_bytes(case: tuple[str, float, int, int], tmp_path: Path) -> None:
    """Cortex-M55: channel counts that are no multiple of eight, sums of maps, float outputs, large kernels."""
    need(cross.ARM_GCC, cross.QEMU_ARM)
    spec, model = model_of(case)
    run = board(tmp_path, model, spec, (MICRO,), "cortex-m55")
    assert run.landmarks.tobytes() == wanted(model, spec, cross.board_faces(spec.input_size))
    assert run.selftest == 0


def test_vectors_take_a_third_of_the_instructions(tmp_path: Path) -> None:
    need(cross.ARM_GCC, cross.QEMU_ARM)
    spec, model = model_of(FAMILY[0])
    runs = [board(tmp_path / core, model, spec, (MICRO,), core) for core in ("cortex-m7", "cortex-m55")]
    assert 2.8 * runs[1].instructions < runs[0].instructions


VECTOR_MUTANTS = [
    ("qgemm-s8-micro", "s3 = vmladavaq_s8(s3, codes, vldrbq_s8(w3))", "s3 = vmladavaq_s8(s3, codes, vldrbq_s8(w2))"),
    ("qgemm-s8-micro", "vmladavq_s8(codes, w2)", "vmladavq_s8(w2, w2)"),
    ("qgemm-s8-micro", "vctp8q((uint32_t)total % 16)", "vctp8q(16)"),
    ("qgemm-s8-micro", "vctp8q(left)", "vctp8q(16)"),
    ("qgemm-s8-micro", "vcvtnq_s32_f32", "vcvtq_s32_f32"),
    ("qgemm-s8-micro", "vdupq_n_s32(low)", "vdupq_n_s32(low - 100)"),
    ("qdw3x3-s8-micro", "vmulltq_int_s16(xs, ws)", "vmullbq_int_s16(xs, ws)"),
    ("qdw3x3-s8-micro", "odd = {1, 3, 5, 7}", "odd = {0, 2, 4, 6}"),
    ("qdw3x3-s8-micro", "LM_MVE_ROW(x2)", "LM_MVE_ROW((x2 - step))"),
    ("qdw3x3-s8-micro", "vmaxq_s16(codes, low)", "vmaxq_s16(codes, vsubq_n_s16(low, 100))"),
    ("qdw3x3-s8-micro", "vstrbq_p_s16(y, codes, some)", "vstrbq_s16(y, codes)"),
]


MUTANTS = [
    ("qgemm-s8-micro", "LM_MUL_PAIRS(s10, z1, u1)", "LM_MUL_PAIRS(s10, x1, u1)"),
    ("qgemm-s8-micro", "ror #8", "ror #16"),
    ("qgemm-s8-micro", "two ? x + a->x_step : x", "x"),
    ("qgemm-s8-micro", "value < 0.0f ? 0.0f : value", "value < 0.0f ? value : 0.0f"),
    ("qdw3x3-s8-micro", "LM_MUL_HIGH(s3, x1, w1)", "LM_MUL_LOW(s3, x1, w1)"),
    ("qdw3x3-s8-micro", "left < 0 ? 1 : 0", "0"),
    ("qdw3x3-s8-micro", "left + 3 > a->in_width ? a->in_width - left : 3", "3"),
    ("qpool-s8-micro", "if (!first)", "if (first)"),
    ("kernel-s8.h", "vcvtr.s32.f32", "vcvt.s32.f32"),
    ("kernel-s8.h", "return code < low ? low :", "return code < low ? -128 :"),
]


@pytest.mark.parametrize(
    ("core", "mutant"),
    [*(("cortex-m7", mutant) for mutant in MUTANTS), *(("cortex-m55", mutant) for mutant in VECTOR_MUTANTS)],
    ids=lambda value: value if isinstance(value, str) else value[1][:24],
)
def test_a_broken_kernel_is_noticed(core: str, mutant: tuple[str, str, str], tmp_path: Path) -> None:
    need(cross.ARM_GCC, cross.QEMU_ARM)
    name, old, new = mutant
    assert old in (HERE / "kernels" / (name if name.endswith(".h") else f"{name}.c")).read_text(encoding="utf-8")
    spec, model = golden.SPEC, golden.int8_model()
    export_c(model, spec, tmp_path, precision="int8", options=COptions(isas=(MICRO,)))
    source = tmp_path / "landmarks.c"
    text = source.read_text(encoding="utf-8")
    assert old in text
    source.write_text(text.replace(old, new), encoding="utf-8")
    run = cross.run_on_board(cross.firmware(tmp_path, tmp_path / "firmware.elf", core).path, spec.points, core)
    assert run.landmarks.tobytes() != wanted(model, spec, cross.board_faces(spec.input_size)) and run.selftest != 0


def test_a_largest_code_is_written_to_its_own_lanes_only(tmp_path: Path) -> None:
    """Pixels of 12 bytes: a kernel that works on 16 lanes would write into the next pixel, and behind the last one."""
    net = spec_of(*OTHER[1])
    exported(model_of(OTHER[1])[1], net, tmp_path, True, isas=(MICRO,))
    source = (tmp_path / "landmarks.c").read_text(encoding="utf-8")
    (tmp_path / "pool.c").write_text(
        f"""{source}
void largest(const uint8_t *x, uint8_t *y) {{
    const uint8_t *rows[2] = {{x, x}};
    lm_qmaxpool_row(rows, 2, 12, 4, 2, 0, y, 12, 2, 12);
}}
""",
        encoding="utf-8",
    )
    library = ctypes.CDLL(str(compile_c([tmp_path / "pool.c"], tmp_path / "pool.so", "-O1", "-w", "-fPIC", "-shared")))
    x = np.random.default_rng(0).integers(0, 256, (4, 12), dtype=np.uint8)
    y = np.full(40, 77, np.uint8)
    library.largest(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data))
    assert (y[:24].view(np.int8).reshape(2, 12) == x.view(np.int8).reshape(2, 2, 12).max(axis=1)).all()
    assert (y[24:] == 77).all()


def test_it_goes_with_no_other_instruction_set() -> None:
    for request in (CRequest(("int8",), isas=(MICRO, "avx2")), CRequest(("int8",), isas=(MICRO,), dispatch=True)):
        with pytest.raises(UsageError, match=MICRO) as error:
            refuse_c_request(request)
        assert "\n" not in str(error.value)
    refuse_c_request(CRequest(("fp32", "int8"), isas=(MICRO,)))
    kept = CRequest.of_settings(CRequest(("int8",), isas=(MICRO,)).settings(), "a manifest")
    assert kept.isas == (MICRO,)


def test_float_is_plain_c_then(tmp_path: Path) -> None:
    export_c(golden.fp32_model(), golden.SPEC, tmp_path, options=COptions(isas=(MICRO,)))
    net = Net(compile_c([tmp_path / "landmarks.c"], tmp_path / "net.so", "-O1", "-fPIC", "-shared"), golden.SPEC)
    assert net.selftest() == (0, -1)
