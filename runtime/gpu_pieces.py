"""Everything between a face and a GPU, piece by piece: what is here, what is not, and the one line that mends it."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runtime.backends.cuda import Cuda
from runtime.engine import install_hint, module_version
from runtime.errors import MissingBackendError
from runtime.gpu import l4t_release, probe_gpu

State = Literal["ok", "missing", "broken"]
TRTEXEC_PLACES = ("/usr/src/tensorrt/bin/trtexec",)
PROVIDERS = {"onnx-cuda": "CUDAExecutionProvider", "onnx-tensorrt": "TensorrtExecutionProvider"}
"""Our names of ONNX Runtime's GPU back ends."""


@dataclass(frozen=True)
class Piece:
    """One piece and its state."""

    name: str
    state: State
    found: str
    fix: str = ""
    needed_for: str = ""


def gpu_pieces() -> list[Piece]:
    """Ask for each piece by itself; TensorRT is imported, never run."""
    return [piece for ask in _QUESTIONS for piece in ask()]


def find_trtexec() -> str | None:
    """NVIDIA's own benchmark, on the path or where JetPack puts it."""
    return shutil.which("trtexec") or next((place for place in TRTEXEC_PLACES if Path(place).is_file()), None)


def _driver() -> Iterator[Piece]:
    try:
        gpu = probe_gpu()
    except MissingBackendError as error:
        yield Piece("GPU and driver", "missing", str(error), _driver_fix(), "every GPU back end")
        return
    driver = f", driver {gpu.driver}" if gpu.driver else ""
    yield Piece("GPU and driver", "ok", f"{gpu}, CUDA {gpu.cuda}{driver}", "", "every GPU back end")


def _driver_fix() -> str:
    if l4t_release():
        return "sudo apt install nvidia-jetpack, then restart; in a container: --runtime nvidia"
    return "install the NVIDIA driver of your distribution; in a container: --gpus all"


def _runtime() -> Iterator[Piece]:
    try:
        yield Piece("CUDA runtime", "ok", f"libcudart {Cuda().version}", "", "tensorrt")
    except MissingBackendError as error:
        fix = "sudo apt install nvidia-jetpack" if l4t_release() else "pip install nvidia-cuda-runtime-cu12"
        yield Piece("CUDA runtime", "missing", str(error), fix, "tensorrt")


def _tensorrt() -> Iterator[Piece]:
    for name, fix in (("tensorrt", install_hint()), ("tensorrt_rtx", "pip install tensorrt-rtx")):
        purpose = "toolkit build-engine, tensorrt" if name == "tensorrt" else "toolkit build-engine --rtx"
        version = module_version(name)
        if version:
            yield Piece(name, "ok", version, "", purpose)
            continue
        try:
            importlib.import_module(name)
            yield Piece(name, "broken", "has no version", fix, purpose)
        except ModuleNotFoundError:
            yield Piece(name, "missing", "not installed", fix, purpose)
        except (ImportError, OSError) as error:
            yield Piece(name, "broken", " ".join(str(error).split()), fix, purpose)


def _providers() -> Iterator[Piece]:
    try:
        ort = importlib.import_module("onnxruntime")
    except (ImportError, OSError) as error:
        yield Piece("onnxruntime", "missing", str(error), "pip install 'landmark-toolkit[runtime]'", "onnx")
        return
    have = set(ort.get_available_providers())
    for name, provider in PROVIDERS.items():
        if provider in have:
            yield Piece(name, "ok", f"onnxruntime {ort.__version__}", "", name)
        else:
            found = f"onnxruntime {ort.__version__} was built without {provider}"
            yield Piece(name, "missing", found, provider_fix(), name)


def provider_fix() -> str:
    """How to get an ONNX Runtime with GPU providers."""
    if l4t_release():
        return (
            "on Jetson use NVIDIA's wheel for your JetPack (pypi.jetson-ai-lab.io), not the one of the public registry"
        )
    return "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"


def _trtexec() -> Iterator[Piece]:
    place = find_trtexec()
    if place:
        yield Piece("trtexec", "ok", place, "", "toolkit bench, NVIDIA's own numbers beside ours")
    else:
        fix = "export PATH=$PATH:/usr/src/tensorrt/bin" if l4t_release() else "it comes with NVIDIA's TensorRT packages"
        yield Piece("trtexec", "missing", "not on the path", fix, "toolkit bench, NVIDIA's own numbers beside ours")


_QUESTIONS: tuple[Callable[[], Iterator[Piece]], ...] = (_driver, _runtime, _tensorrt, _providers, _trtexec)
