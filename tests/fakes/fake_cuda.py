"""Builds fake_cuda.c once and hands it out as libcuda and libcudart."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
DEVICE, PINNED, STREAMS, EVENTS, GRAPHS = range(5)


@cache
def library_path() -> Path:
    """The compiled library; where there is no C compiler, the test skips."""
    compiler = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for the fake CUDA library")
    target = Path(tempfile.mkdtemp(prefix="fake-cuda-")) / "libfakecuda.so"
    source = Path(__file__).with_name("fake_cuda.c")
    subprocess.run([compiler, "-std=gnu99", "-shared", "-fPIC", "-O1", "-o", str(target), str(source)], check=True)
    return target


class FakeCuda:
    """What tests do with the library besides running it."""

    def __init__(self) -> None:
        self.path = library_path()
        self.library = ctypes.CDLL(str(self.path))
        self.library.fake_live.restype = self.library.fake_launches.restype = ctypes.c_long
        self.library.fake_copies.restype = ctypes.c_long
        self.library.fake_enqueue.argtypes = (ctypes.c_void_p, _CALLBACK, ctypes.c_void_p)
        self.library.fake_capturing.argtypes = (ctypes.c_void_p,)
        self._kept: list[object] = []

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        """Put Python work on a stream, as TensorRT puts kernels on it."""
        callback = _CALLBACK(lambda _: work())
        self._kept.append(callback)
        self.library.fake_enqueue(stream, callback, None)

    def capturing(self, stream: int) -> bool:
        return bool(self.library.fake_capturing(stream))

    def live(self) -> list[int]:
        """Device and pinned memory, streams, events and graphs that nobody has given back."""
        return [int(self.library.fake_live(kind)) for kind in range(5)]

    @property
    def launches(self) -> int:
        return int(self.library.fake_launches())


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """This machine has a GPU now: `Fake GPU`, SM 8.7."""
    fake = FakeCuda()
    monkeypatch.setattr("runtime.gpu.DRIVER_NAMES", (str(fake.path),))
    monkeypatch.setattr("runtime.backends.cuda.RUNTIME_NAMES", (str(fake.path),))
    return fake
