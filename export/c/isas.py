"""Instruction sets: which kernels belong to which, and the block of the generated source that picks among them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from export.c.layout import WORD
from export.c.tiles import Calls, only_needed
from runtime.errors import UsageError

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Isa:
    """An instruction set: when the compiler has it, what a build calls itself, its kernels, the entry points' suffixes.

    `zero` is what int8 maps add to every code: 128 where the machine multiplies unsigned by signed bytes.
    Builds that choose at run time: `target` is what gcc and clang call the instructions ("": every x86-64 has them;
    None: not x86), `needs` are the bits of templates/cpu.c that a processor must show.
    """

    condition: str
    title: str
    kernels: tuple[str, ...]
    suffixes: tuple[str, ...]
    zero: int = 0
    target: str | None = None
    needs: tuple[str, ...] = ()
    ordered: str = "scalar"
    """The kernel for float layers in an int8 network; only models that have such layers hold it."""
    compilers: str = ""
    """Which compilers know `target`, when not all that know the others do."""


F32: dict[str, Isa] = {
    "avx512": Isa(
        "defined(__AVX512F__)",
        "AVX-512",
        ("gemm-f32-avx512", "dw3x3-f32-avx512", "input-f32-avx512"),
        ("avx512",) * 3,
        target="avx2,fma,avx512f",
        needs=("AVX2", "FMA", "AVX512F"),
    ),
    "avx2": Isa(
        "defined(__AVX2__) && defined(__FMA__)",
        "AVX2",
        ("vector-f32-avx2", "gemm-f32-tail", "gemm-f32-block", "dw3x3-f32-block", "input-f32-scalar"),
        ("block", "block", "scalar"),
        target="avx2,fma",
        needs=("AVX2", "FMA"),
    ),
    "neon": Isa(
        "defined(__ARM_NEON) && defined(__aarch64__)",
        "NEON",
        ("vector-f32-neon", "gemm-f32-tail", "gemm-f32-block", "dw3x3-f32-block", "input-f32-scalar"),
        ("block", "block", "scalar"),
    ),
    "sse2": Isa(
        "defined(__SSE2__)",
        "SSE2",
        ("vector-f32-sse2", "gemm-f32-tail", "gemm-f32-block", "dw3x3-f32-block", "input-f32-scalar"),
        ("block", "block", "scalar"),
        target="",
    ),
    "scalar": Isa(
        "1",
        "C99",
        ("gemm-f32-tail", "gemm-f32-scalar", "dw3x3-f32-scalar", "input-f32-scalar"),
        ("scalar",) * 3,
        target="",
    ),
}
"""Float kernels, best first."""

_AVX2_ROWS = ("qpool-s8-avx2", "qinput-s8-avx2", "qadd-s8-avx2", "product-f32-scalar")
_PLAIN_ROWS = ("qpool-s8-scalar", "qinput-s8-scalar", "qadd-s8-scalar", "product-f32-scalar")

S8: dict[str, Isa] = {
    "avx512": Isa(
        "defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)",
        "AVX-512 VNNI",
        (
            "qgemm-s8-avx512vnni",
            "qdw3x3-s8-avx512vnni",
            "qpool-s8-avx512vnni",
            "qinput-s8-avx512vnni",
            "qadd-s8-avx512vnni",
            "product-f32-avx512vnni",
        ),
        ("avx512vnni",) * 6,
        128,
        target="avx2,avx512f,avx512bw,avx512vl,avx512vnni",
        needs=("AVX2", "AVX512F", "AVX512BW", "AVX512VL", "AVX512VNNI"),
        ordered="avx512",
    ),
    "avx2vnni": Isa(
        "defined(__AVX2__) && defined(__AVXVNNI__)",
        "AVX2 VNNI",
        ("qput-s8-avx2", "qgemm-s8-avx2vnni", "qdw3x3-s8-avx2vnni", *_AVX2_ROWS),
        ("avx2vnni",) * 2 + ("avx2",) * 3 + ("scalar",),
        128,
        target="avx2,avxvnni",
        needs=("AVX2", "AVXVNNI"),
        ordered="avx2",
        compilers="(__GNUC__ >= 11 || __clang_major__ >= 12)",
    ),
    "avx2": Isa(
        "defined(__AVX2__)",
        "AVX2",
        ("qput-s8-avx2", "qgemm-s8-avx2", "qdw3x3-s8-avx2", *_AVX2_ROWS),
        ("avx2",) * 5 + ("scalar",),
        target="avx2",
        needs=("AVX2",),
        ordered="avx2",
    ),
    "neon": Isa(
        "defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)",
        "NEON dot product",
        ("qgemm-s8-neondot", "qdw3x3-s8-neondot", *_PLAIN_ROWS),
        ("neondot",) * 2 + ("scalar",) * 4,
    ),
    "micro": Isa(
        "1",
        "C99",
        ("qgemm-s8-micro", "qdw3x3-s8-micro", "qpool-s8-micro", *_PLAIN_ROWS[1:]),
        ("micro",) * 3 + ("scalar",) * 3,
    ),
    "scalar": Isa("1", "C99", ("qgemm-s8-scalar", "qdw3x3-s8-scalar", *_PLAIN_ROWS), ("scalar",) * 6, target=""),
}
"""Int8 kernels, best first."""

NAMES = ("avx512", "avx2vnni", "avx2", "neon", "sse2", "scalar")
"""All instruction sets, best first."""
MICRO = "micro"
"""Not one of them: int8 maps as small as they can be, plain C, DSP and vector instructions of Arm's small cores."""

_BY_VECTOR = {"avx512": "vector-f32-avx512", "avx2": "", "neon": "", "sse2": "", "scalar": None}
"""What kernels in terms of lm_vec need first ("": the others bring it); None: plain C instead."""


@dataclass(frozen=True)
class Needs:
    """What a model asks of an instruction set: calls of the matrix kernel, kernels of its own, 3x3 depthwise or not.

    `extra` are kernels in terms of lm_vec that only some models need: "dwk" is dwk-f32-block or dwk-f32-scalar.
    """

    calls: Calls
    extra: tuple[str, ...] = ()
    depthwise: bool = True
    ordered: bool = False
    """Float layers in an int8 network."""
    near: tuple[int, ...] = ()
    """Pixel steps for which float products of one vector get tiles of their own."""

    def leaves_out(self, name: str) -> bool:
        """Whether a kernel, or an entry point, is never called."""
        return not self.depthwise and name.startswith(("dw", "qdw"))


ENTRIES_F32 = ("gemm", "dw", "input_row")
ENTRIES_S8 = ("qgemm", "qdw", "qpool_row", "qinput_row", "qadd_row", "ordered_product")
"""What layers call; each instruction set says by which suffix."""


def check_isas(isas: tuple[str, ...]) -> None:
    """Only known ones, and `micro` by itself."""
    if unknown := [isa for isa in isas if isa not in (*NAMES, MICRO)]:
        raise UsageError(f"unknown instruction set {unknown[0]!r}; known: {', '.join(NAMES)}, or {MICRO} alone")
    if MICRO in isas and len(isas) > 1:
        raise UsageError(f"instruction set {MICRO!r} lays int8 maps out its own way and goes with no other")


def source_text(path: str) -> str:
    """A hand-written source without its includes of local headers."""
    text = (HERE / path).read_text(encoding="utf-8")
    return re.sub(r'#include "[^"]*"\n', "", text)


def header_text(path: str) -> str:
    """A kernel header without guard and includes."""
    text = source_text(path)
    return re.sub(r"#ifndef LM_KERNEL\w*_H\n#define LM_KERNEL\w*_H\n|#include <[^>]*>[^\n]*\n|\n#endif\s*\Z", "", text)


def chosen(wanted: tuple[str, ...], int8: bool) -> list[str]:
    """The wanted instruction sets that this precision has kernels for, best first; plain C is always the last."""
    if MICRO in wanted and int8:
        return [MICRO]
    return [name for name in (S8 if int8 else F32) if name in wanted or name == "scalar"]


def target_words(name: str) -> tuple[str, ...]:
    """What kernels of an instruction set call their functions' target by; some share kernels of a lesser one."""
    return () if name in ("scalar", MICRO) else ("AVX2",) if name == "avx2vnni" else (name.upper(),)


def kernels_of(name: str, int8: bool, needs: Needs) -> str:
    """The kernels of one instruction set, as far as a model needs them, under the names that layers call them by."""
    isa = (S8 if int8 else F32)[name]
    entries = ENTRIES_S8 if int8 else ENTRIES_F32
    text = "".join(f"#define LM_TARGET_{word}\n" for word in target_words(name))
    text += f"#define LM_ZERO {isa.zero}\n{header_text('kernels/kernel-s8.h')}" if int8 else ""
    text += f"#define LM_RUN {WORD}\n" if name == MICRO else ""
    kept = [kernel for kernel in isa.kernels if not needs.leaves_out(kernel)]
    near = needs.near if name == "avx512" and not int8 else ()
    text += f"#define LM_NEAR_STEPS(X) {' '.join(f'X({step})' for step in near)}\n" if near else ""
    sources = (source_text(f"kernels/{kernel}.c") for kernel in kept)
    text += "".join(only_needed(source, needs.calls, bool(near)) for source in sources)
    if needs.ordered:
        text += source_text(f"kernels/ordered-f32-{isa.ordered}.c")
        text += f"#define lm_ordered lm_ordered_{isa.ordered}\n"
    before = _BY_VECTOR.get(name)
    kind = "scalar" if before is None else "block"
    text += source_text(f"kernels/{before}.c") if before and needs.extra else ""
    text += "".join(source_text(f"kernels/{kernel}-f32-{kind}.c") for kernel in needs.extra)
    text += "".join(f"#define lm_{kernel}_row lm_{kernel}_row_{kind}\n" for kernel in needs.extra)
    return text + "".join(
        f"#define lm_{entry} lm_{entry}_{suffix}\n"
        for entry, suffix in zip(entries, isa.suffixes, strict=True)
        if not needs.leaves_out(entry)
    )


def guard(name: str, int8: bool) -> str:
    """When a compiler may use an instruction set."""
    condition = (S8 if int8 else F32)[name].condition
    return condition if name in ("scalar", MICRO) else f"{condition} && !defined(LM_FORCE_SCALAR)"


def kernel_block(wanted: tuple[str, ...], int8: bool, needs: Needs) -> str:
    """The kernels of every wanted instruction set, one of which the compiler picks; plain C comes last."""
    text, word = "", "#if"
    for name in chosen(wanted, int8):
        title = (S8 if int8 else F32)[name].title
        text += f'{word} {guard(name, int8)}\n#define LM_ISA "{title}"\n{kernels_of(name, int8, needs)}'
        word = "#elif"
    return text + "#endif\n"
