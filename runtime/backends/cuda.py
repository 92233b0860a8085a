"""The few calls of the CUDA runtime that running an engine needs, through ctypes: no torch, no pycuda."""

from __future__ import annotations

import ctypes
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import MissingBackendError, ToolkitError
from runtime.gpu import cuda_text, first_library

RUNTIME_NAMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
RUNTIME_FOLDERS = ("/usr/local/cuda/lib64", "/usr/local/cuda/targets/aarch64-linux/lib")
_WHEEL_FOLDERS = ("nvidia/cu13/lib", "nvidia/cuda_runtime/lib")
"""Where NVIDIA's wheels of the CUDA runtime put it, below site-packages."""
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_NON_BLOCKING = 1
_CAPTURE_THREAD_LOCAL = 1
_SIZE, _POINTER, _INT, _ULONG = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int, ctypes.c_ulonglong
_OUT = ctypes.POINTER(ctypes.c_void_p)
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cudaRuntimeGetVersion": (ctypes.POINTER(_INT),),
    "cudaMalloc": (_OUT, _SIZE),
    "cudaFree": (_POINTER,),
    "cudaHostAlloc": (_OUT, _SIZE, ctypes.c_uint),
    "cudaFreeHost": (_POINTER,),
    "cudaStreamCreateWithFlags": (_OUT, ctypes.c_uint),
    "cudaStreamDestroy": (_POINTER,),
    "cudaStreamSynchronize": (_POINTER,),
    "cudaMemcpyAsync": (_POINTER, _POINTER, _SIZE, _INT, _POINTER),
    "cudaEventCreate": (_OUT,),
    "cudaEventDestroy": (_POINTER,),
    "cudaEventRecord": (_POINTER, _POINTER),
    "cudaEventElapsedTime": (ctypes.POINTER(ctypes.c_float), _POINTER, _POINTER),
    "cudaStreamBeginCapture": (_POINTER, _INT),
    "cudaStreamEndCapture": (_POINTER, _OUT),
    "cudaGraphInstantiateWithFlags": (_OUT, _POINTER, _ULONG),
    "cudaGraphLaunch": (_POINTER, _POINTER),
    "cudaGraphDestroy": (_POINTER,),
    "cudaGraphExecDestroy": (_POINTER,),
    "cudaGetLastError": (),
}


class CudaError(ToolkitError):
    """The CUDA runtime refused a call."""


class Cuda:
    """Handles and addresses are plain integers; every failed call is a CudaError that names it."""

    def __init__(self, library: ctypes.CDLL | None = None) -> None:
        self._library = library if library is not None else load_runtime()
        for name, arguments in _SIGNATURES.items():
            try:
                function = getattr(self._library, name)
            except AttributeError as error:
                raise MissingBackendError(f"libcudart has no {name}; CUDA 11.4 or newer is needed") from error
            function.argtypes, function.restype = arguments, _INT
        self._library.cudaGetErrorString.argtypes = (_INT,)
        self._library.cudaGetErrorString.restype = ctypes.c_char_p

    @property
    def version(self) -> str:
        number = _INT(0)
        self._call("cudaRuntimeGetVersion", ctypes.byref(number))
        return cuda_text(number.value)

    def malloc(self, size: int) -> int:
        """Device memory."""
        return self._made("cudaMalloc", size)

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def pinned(self, size: int) -> int:
        """Host memory that the GPU reads and writes without a detour."""
        return self._made("cudaHostAlloc", size, 0)

    def free_pinned(self, address: int) -> None:
        self._call("cudaFreeHost", address)

    def stream(self) -> int:
        return self._made("cudaStreamCreateWithFlags", _NON_BLOCKING)

    def destroy_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", stream)

    def wait(self, stream: int) -> None:
        """Until everything put on the stream is done."""
        self._call("cudaStreamSynchronize", stream)

    def to_device(self, device: int, host: int, size: int, stream: int) -> None:
        self._call("cudaMemcpyAsync", device, host, size, _HOST_TO_DEVICE, stream)

    def to_host(self, host: int, device: int, size: int, stream: int) -> None:
        self._call("cudaMemcpyAsync", host, device, size, _DEVICE_TO_HOST, stream)

    def event(self) -> int:
        return self._made("cudaEventCreate")

    def destroy_event(self, event: int) -> None:
        self._call("cudaEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        self._call("cudaEventRecord", event, stream)

    def milliseconds(self, start: int, end: int) -> float:
        """Between two events that have happened."""
        value = ctypes.c_float(0)
        self._call("cudaEventElapsedTime", ctypes.byref(value), start, end)
        return float(value.value)

    def begin_capture(self, stream: int) -> None:
        """From here on the stream's work is written down instead of done."""
        self._call("cudaStreamBeginCapture", stream, _CAPTURE_THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """What was written down, ready to be launched as one piece."""
        graph = self._made("cudaStreamEndCapture", stream, first=False)
        try:
            return self._made("cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def abandon_capture(self, stream: int) -> None:
        """Leave capture mode after a failure; whatever was written down is thrown away."""
        graph = ctypes.c_void_p()
        self._library.cudaStreamEndCapture(stream, ctypes.byref(graph))
        if graph.value:
            self._library.cudaGraphDestroy(graph)
        self._library.cudaGetLastError()

    def launch(self, graph: int, stream: int) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._call("cudaGraphExecDestroy", graph)

    def _made(self, name: str, *arguments: object, first: bool = True) -> int:
        """Call something that gives back a handle or an address through a pointer."""
        made = ctypes.c_void_p()
        pointer = ctypes.byref(made)
        self._call(name, *((pointer, *arguments) if first else (*arguments, pointer)))
        if not made.value:
            raise CudaError(f"{name} gave nothing back")
        return int(made.value)

    def _call(self, name: str, *arguments: object) -> None:
        status = int(getattr(self._library, name)(*arguments))
        if status:
            text = self._library.cudaGetErrorString(status) or b"unknown error"
            raise CudaError(f"CUDA: {name} failed with error {status}: {text.decode('utf-8', 'replace')}")


def host_array(address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """float32 values at an address of host memory, not copied."""
    count = int(np.prod(shape))
    memory = (ctypes.c_float * count).from_address(address)
    return np.ctypeslib.as_array(memory).reshape(shape)


def load_runtime() -> ctypes.CDLL:
    """libcudart from the system, from CUDA's folder or from NVIDIA's wheels."""
    library = first_library(runtime_candidates())
    if library is not None:
        return library
    raise MissingBackendError(
        "libcudart, the CUDA runtime, is not here; on Jetson: sudo apt install nvidia-jetpack; elsewhere: install CUDA "
        "or pip install nvidia-cuda-runtime-cu12 (the major version that your TensorRT was made for)"
    )


def runtime_candidates() -> Iterator[str]:
    """Names and paths to try, in order."""
    yield from RUNTIME_NAMES
    site = Path(sysconfig.get_paths()["platlib"])
    for folder in (*map(Path, RUNTIME_FOLDERS), *(site / name for name in _WHEEL_FOLDERS)):
        yield from (str(path) for path in sorted(folder.glob("libcudart.so*"), reverse=True))
