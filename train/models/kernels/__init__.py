"""The kernels in C that training uses on CPUs, compiled by the machine's own C compiler when first needed."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

SOURCE = Path(__file__).with_name("block.c")
GRID = Path(__file__).with_name("grid.c")
FLAGS = ("-O3", "-std=c99", "-fPIC", "-shared", "-ffp-contract=fast")
FOR_THIS_CPU = ("-march=native", "-mcpu=native")
"""Tried in turn; the kernels also work without either, slower."""
SWITCH = "LANDMARK_KERNELS"
"""Environment variable: "0" trains without the kernels."""


class Norm(ctypes.Structure):
    """One BN, as the kernels see it."""

    _fields_ = [
        ("gamma", ctypes.c_void_p),
        ("beta", ctypes.c_void_p),
        ("running_mean", ctypes.c_void_p),
        ("running_var", ctypes.c_void_p),
        ("seen", ctypes.c_void_p),
        ("momentum", ctypes.c_double),
        ("eps", ctypes.c_double),
    ]


Shape = ctypes.c_int64 * 5
"""Images, height, width, channels of the output; stride."""

_POINTER, _NUMBER, _FLAG = ctypes.c_void_p, ctypes.c_double, ctypes.c_int
_NORMS = [ctypes.POINTER(Norm)] * 2
_LENGTH = ctypes.c_int64
_SIGNATURES: dict[str, list[object]] = {
    "grid_forward": [_LENGTH, _POINTER, _POINTER, _NUMBER, _NUMBER, _POINTER],
    "grid_backward": [_LENGTH, *[_POINTER] * 3, _NUMBER, _NUMBER, *[_POINTER] * 2],
    "grid_rows_forward": [_LENGTH, _LENGTH, *[_POINTER] * 3, _NUMBER, _POINTER],
    "grid_rows_backward": [_LENGTH, _LENGTH, *[_POINTER] * 4, _NUMBER, *[_POINTER] * 2],
    "block_moments": [Shape, _POINTER, _POINTER, _FLAG, _POINTER, _POINTER],
    "block_affine": [ctypes.c_int64, _NUMBER, _POINTER, *_NORMS, _POINTER, ctypes.POINTER(Norm), _POINTER],
    "block_apply": [Shape, *[_POINTER] * 3, _FLAG, _POINTER],
    "block_gradient_sums": [Shape, *[_POINTER] * 4, _FLAG, _POINTER],
    "block_slopes": [
        ctypes.c_int64, _NUMBER, _POINTER, _POINTER, _NUMBER, *_NORMS, _POINTER, ctypes.POINTER(Norm), *[_POINTER] * 2,
    ],
    "block_gradients": [Shape, *[_POINTER] * 4, _FLAG, *[_POINTER] * 3],
    "depthwise_backward": [Shape, *[_POINTER] * 4, _FLAG, _FLAG, *[_POINTER] * 4],
}  # fmt: skip

_NEVER_FAIL = ("block_affine", "block_slopes")


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where no C compiler is found, or they are switched off."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or os.environ.get(SWITCH) == "0":
        return None
    with tempfile.TemporaryDirectory(prefix="landmark-kernels-", ignore_cleanup_errors=True) as folder:
        target = Path(folder) / "block.so"
        for extra in (*FOR_THIS_CPU, ""):
            command = [
                *compiler.split(),
                *FLAGS,
                *filter(None, [extra]),
                str(SOURCE),
                str(GRID),
                "-o",
                str(target),
                "-lm",
            ]
            try:
                done = subprocess.run(command, capture_output=True, check=False, timeout=120)
            except (OSError, subprocess.TimeoutExpired):
                return None
            if done.returncode == 0:
                return _declared(ctypes.CDLL(str(target)))
    return None


def call(name: str, *values: Any) -> None:
    """Run a kernel on tensors (None stands for no memory) and numbers; it gives 0 only when memory is out."""
    loaded = library()
    if loaded is None:
        raise RuntimeError(f"{name}: the kernels are not compiled")
    plain = [value.data_ptr() if isinstance(value, Tensor) else value for value in values]
    if getattr(loaded, name)(*plain) == 0:
        raise MemoryError(f"{name}: no memory for its rows")


def _declared(loaded: ctypes.CDLL) -> ctypes.CDLL:
    for name, kinds in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes = kinds
        function.restype = None if name in _NEVER_FAIL else ctypes.c_int
    return loaded
