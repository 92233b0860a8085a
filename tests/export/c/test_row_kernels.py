"""The row kernels and the large depthwise kernel alone, on odd extents, against numpy in float64."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from export.c import reference_more
from export.c.ir import After, MaxPool, Shape, Tensor
from export.c.isas import F32, HERE, source_text
from export.c.reference import windows

ROWS = ("ramp", "gate", "exp", "sigmoid", "scale", "maxpool", "pick", "nearest", "bilinear", "mass")
FLAGS = {"scalar": (), "sse2": (), "avx2": ("-mavx2", "-mfma"), "avx512": ("-mavx512f",)}
NEEDS = {"avx2": ("avx2", "fma"), "avx512": ("avx512f",)}
VECTORS = {"scalar": None, "sse2": "vector-f32-sse2", "avx2": "vector-f32-avx2", "avx512": "vector-f32-avx512"}
Floats = NDArray[np.float32]


def library(folder: Path, isa: str = "scalar", change: tuple[str, str] = ("", "")) -> ctypes.CDLL:
    """All row kernels and one form of the depthwise kernel, visible from outside."""
    sys.path.insert(0, str(Path(__file__).parent))
    from c_nets import compile_c, cpu_has  # here: it brings PyTorch, which the checks elsewhere do without

    if not cpu_has(*NEEDS.get(isa, ())):
        pytest.skip(f"this processor has no {isa}")
    vector = VECTORS[isa]
    names = [*(f"{name}-f32" for name in ROWS), *((vector,) if vector else ())]
    names.append("dwk-f32-block" if vector else "dwk-f32-scalar")
    text = "".join(source_text(f"kernels/{name}.c") for name in names)
    assert change[0] in text
    head = "#include <stddef.h>\n" + ("#include <immintrin.h>\n" if vector else "")
    head += f'#include "kernel.h"\n#define LM_TARGET_{isa.upper()}\n#define static\n'
    (folder / "rows.c").write_text(head + text.replace(*change, 1) if change[0] else head + text)
    flags = ("-O1", "-w", "-fPIC", "-shared", f"-I{HERE / 'kernels'}", *FLAGS[isa])
    return ctypes.CDLL(str(compile_c([folder / "rows.c"], folder / f"rows-{isa}.so", *flags)))


def pointer(array: Floats | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def size(value: int) -> ctypes.c_size_t:
    return ctypes.c_size_t(value)


def rows_of(x: Floats, first: int, count: int) -> ctypes.Array[ctypes.c_void_p]:
    """Pointers to rows; NULL outside the map."""
    found = [x[y].ctypes.data if 0 <= y < len(x) else None for y in range(first, first + count)]
    return (ctypes.c_void_p * count)(*found)


def draw(*shape: int, seed: int = 0, scale: float = 3.0) -> Floats:
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


def near(found: NDArray[np.float32], wanted: NDArray[np.float64], ulps: float = 8) -> None:
    assert np.isfinite(found).all()
    magnitude = np.maximum(np.abs(wanted), np.abs(wanted).mean())
    assert (np.abs(found - wanted) <= ulps * np.finfo(np.float32).eps * magnitude).all()


def check_activations(lib: ctypes.CDLL) -> None:
    for kind in ("ramp", "gate", "sigmoid"):
        x = draw(5, 48, scale=6)
        x[0, :4] = (-100, 100, 0, -0.0)
        y = x.copy()
        numbers = () if kind == "sigmoid" else tuple(ctypes.c_float(v) for v in (1 / 6, 0.5, 1.0))
        getattr(lib, f"lm_{kind}_row")(pointer(y), size(48), 5, 32, *numbers)
        after = After(kind, 1 / 6, 0.5, 1.0)
        near(y[:, :32], reference_more.activation(after, x[:, :32].astype(np.float64)))
        assert (y[:, 32:] == x[:, 32:]).all()


def check_scale(lib: ctypes.CDLL) -> None:
    x, factor, y = draw(7, 48), draw(32, seed=1), np.zeros((7, 32), np.float32)
    lib.lm_scale_row(pointer(x), size(48), pointer(factor), pointer(y), size(32), 7, 32)
    near(y, x[:, :32].astype(np.float64) * factor)


def check_max_pool(lib: ctypes.CDLL) -> None:
    for side, kernel, stride, pad in ((7, 3, 2, 1), (8, 2, 2, 0), (5, 3, 1, 1), (9, 5, 3, 2)):
        x = draw(side, side, 32) - 9
        out = (side + 2 * pad - kernel) // stride + 1
        layer = MaxPool([], Tensor("", Shape(out, out, 32)), kernel=kernel, stride=stride, pad=pad)
        wanted = reference_more.max_pool(x, layer)
        for row in range(out):
            y = np.zeros((out, 48), np.float32)
            rows = rows_of(x, row * stride - pad, kernel)
            lib.lm_maxpool_row(rows, kernel, size(32), side, stride, pad, pointer(y), size(48), out, 32)
            assert (y[:, :32] == wanted[row]).all() and (y[:, 32:] == 0).all()


def check_pick(lib: ctypes.CDLL) -> None:
    x, y = draw(3, 32), np.zeros((3, 16), np.float32)
    runs = np.asarray([(4, 0, 3), (20, 3, 9), (1, 12, 1)], np.int32)
    lib.lm_pick_row(pointer(x), size(32), runs.ctypes.data_as(ctypes.c_void_p), 3, pointer(y), size(16), 3)
    assert (y[:, :13] == x[:, [4, 5, 6, *range(20, 29), 1]]).all() and (y[:, 13:] == 0).all()


def check_resize(lib: ctypes.CDLL) -> None:
    for height, width, *sides in ((4, 3, 8, 6), (3, 5, 12, 20), (1, 1, 8, 8), (4, 2, 14, 5), (5, 7, 5, 9)):
        room = np.full((height + 1, width, 16), np.nan, np.float32)  # what lies behind the map must not be read
        x = room[:height]
        x[:] = draw(height, width, 16)
        near_map, linear = (reference_more.resize(x.astype(np.float64), (sides[0], sides[1]), b) for b in (False, True))
        for row in range(sides[0]):
            y = np.zeros((sides[1], 16), np.float32)
            lib.lm_nearest_row(
                pointer(x[row * height // sides[0]]), size(16), width, pointer(y), size(16), sides[1], 16
            )
            assert (y == near_map[row]).all()
            low, high, _ = reference_more.line(height, sides[0])
            ends = (pointer(x[low[row]]), pointer(x[high[row]]))
            lib.lm_bilinear_row(*ends, size(16), row, height, sides[0], pointer(y), size(16), width, sides[1], 16)
            near(y, linear[row])


def check_mass(lib: ctypes.CDLL) -> None:
    x, cells = draw(30, 32, scale=20), np.random.default_rng(1).uniform(0, 1, (30, 2)).astype(np.float32)
    y = np.zeros(48, np.float32)
    lib.lm_mass(pointer(x), size(32), 30, 21, pointer(cells), pointer(y))
    share = np.exp(x[:, :21].astype(np.float64) - x[:, :21].max(0))
    near(y[:42], ((share / share.sum(0)).T @ cells.astype(np.float64)).reshape(-1), 64)
    assert (y[42:] == 0).all()


def check_exp(lib: ctypes.CDLL) -> None:
    x = np.concatenate([np.linspace(-86.9, 0, 4000), -np.logspace(-9, 0, 80)]).astype(np.float32).reshape(-1, 16)
    wanted = np.exp(x.astype(np.float64))
    for line in x:
        lib.lm_exp(pointer(line))
    assert np.abs(x / wanted - 1).max() <= 4 * np.finfo(np.float32).eps


ROW_CHECKS: dict[str, Callable[[ctypes.CDLL], None]] = {
    "activations": check_activations,
    "scale": check_scale,
    "max pool": check_max_pool,
    "pick": check_pick,
    "resize": check_resize,
    "mass": check_mass,
    "exp": check_exp,
}


def check_depthwise(lib: ctypes.CDLL, form: str) -> None:
    kernel_row = getattr(lib, f"lm_dwk_row_{form}")
    cases = ((7, 5, 1, 5), (20, 5, 1, 1), (21, 5, 2, 2), (23, 7, 1, 1), (3, 5, 2, 3), (17, 3, 1, 1))
    for index, (side, k, stride, vectors) in enumerate(cases):
        lanes = 16 * vectors
        x, w, bias = draw(side, side, lanes, seed=index), draw(lanes, k, k, seed=1), draw(lanes, seed=2)
        packed = np.ascontiguousarray(w.reshape(vectors, 16, k * k).transpose(0, 2, 1))
        out = (side + stride - 1) // stride
        terms = np.einsum("rcoyx,oyx->rco", windows(x.astype(np.float64), k, stride, k // 2), w.astype(np.float64))
        for relu in (0, 1):
            wanted = np.maximum(terms + bias, 0) if relu else terms + bias
            for row in range(out):
                y = np.full((out, lanes + 16), 77, np.float32)
                rows = rows_of(x, row * stride - k // 2, k)
                numbers = (pointer(packed), pointer(bias), pointer(y), size(lanes + 16), out, vectors, relu)
                kernel_row(rows, k, size(lanes), side, stride, *numbers)
                assert np.abs(y[:, :lanes] - wanted[row]).max() <= 64 * np.finfo(np.float32).eps * np.abs(terms).max()
                assert (y[:, lanes:] == 77).all()


@pytest.mark.parametrize("name", ROW_CHECKS)
def test_row_kernels_equal_numpy(name: str, tmp_path: Path) -> None:
    ROW_CHECKS[name](library(tmp_path))


@pytest.mark.parametrize("isa", VECTORS)
def test_the_large_depthwise_kernel_equals_numpy(isa: str, tmp_path: Path) -> None:
    assert isa in F32
    check_depthwise(library(tmp_path, isa), "block" if VECTORS[isa] else "scalar")


MUTANTS = [
    (
        "activations",
        "value[i] > high ? high : value[i];\n            }\n        }",
        "value[i];\n            }\n        }",
    ),
    ("activations", "(y[v + i] > 0.0f ? 1.0f : power[i])", "power[i]"),
    ("scale", "factor[v + i]", "factor[i]"),
    ("max pool", "most[i] = -INFINITY", "most[i] = 0.0f"),
    ("max pool", "left + k > in_width ? in_width : left + k", "left + k > in_width ? in_width - 1 : left + k"),
    ("pick", "runs[r][1], x", "runs[r][0], x"),
    ("resize", "p * in_width / out_width", "p / 2"),
    ("resize", "ix + 1 < in_width ? x_step : 0", "x_step"),
    ("mass", "share[i] * cells[2 * p + 1]", "share[i] * cells[2 * p]"),
    ("exp", "whole[i] * 2.12194440e-4f", "whole[i] * 2.1e-4f"),
]


ELSEWHERE = {**ROW_CHECKS, "depthwise": lambda lib: check_depthwise(lib, "block")}


def passes_elsewhere(lib: ctypes.CDLL, *checks: str) -> bool:
    """Whether checks pass, run in a process of its own: broken kernels may write over memory that is not theirs."""
    ended = subprocess.run([sys.executable, __file__, lib._name, *checks], capture_output=True, text=True, timeout=120)
    assert ended.returncode <= 0 or "AssertionError" in ended.stderr, ended.stderr
    return ended.returncode == 0


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m[0]}-{m[1][:20]}")
def test_a_broken_row_kernel_is_noticed(mutant: tuple[str, str, str], tmp_path: Path) -> None:
    broken = library(tmp_path, "scalar", mutant[1:])
    assert not passes_elsewhere(broken, mutant[0])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("left + 7 * stride + k <= in_width", "left + 7 * stride + k <= in_width + 1"),
        ("next != 0 ? four : LM_SIMD", "four"),
        ("left < 0 ? -left : 0", "left < 0 ? 1 - left : 0"),
        ("w += (size_t)k * 16;", "w += 16;"),
    ],
)
def test_a_broken_depthwise_kernel_is_noticed(old: str, new: str, tmp_path: Path) -> None:
    broken = library(tmp_path, "avx2", (old, new))
    assert not passes_elsewhere(broken, "depthwise")


def test_a_right_kernel_passes_elsewhere(tmp_path: Path) -> None:
    right = library(tmp_path)
    assert passes_elsewhere(right, *ROW_CHECKS)


if __name__ == "__main__":  # passes_elsewhere
    for name in sys.argv[2:]:
        ELSEWHERE[name](ctypes.CDLL(sys.argv[1]))
