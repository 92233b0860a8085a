"""Each missing piece of the way to a GPU is named, with one thing to do; ONNX Runtime never hides a fallback."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

import fake_tensorrt
from fake_cuda import FakeCuda, fake_cuda  # noqa: F401

from runtime.backends.choose import BACKENDS, factory_of
from runtime.backends.ort_gpu import open_onnx_cuda, open_onnx_tensorrt
from runtime.errors import MissingBackendError
from runtime.gpu_pieces import gpu_pieces


def states() -> dict[str, str]:
    return {piece.name: piece.state for piece in gpu_pieces()}


def test_nothing_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.gpu.DRIVER_NAMES", ("libnothing.so",))
    monkeypatch.setattr("runtime.backends.cuda.runtime_candidates", lambda: iter(()))
    monkeypatch.setattr("runtime.gpu_pieces.TRTEXEC_PLACES", ())
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert set(states().values()) == {"missing"}
    for piece in gpu_pieces():
        assert piece.found and piece.fix and piece.needed_for and "\n" not in piece.found + piece.fix


def test_everything_is_here(fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "trtexec").write_text("")
    monkeypatch.setattr("runtime.gpu_pieces.TRTEXEC_PLACES", (str(tmp_path / "trtexec"),))
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.make("10.3", fake_cuda))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt.make("11", fake_cuda))
    monkeypatch.setitem(sys.modules, "onnxruntime", ort("CUDAExecutionProvider", "TensorrtExecutionProvider"))
    assert set(states().values()) == {"ok"}
    assert "Fake GPU (SM 8.7), CUDA 12.6" in [p.found for p in gpu_pieces()]


def test_a_broken_tensorrt_is_not_a_missing_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    piece = next(p for p in gpu_pieces() if p.name == "tensorrt")
    assert piece.state == "broken" and "libnvinfer.so.10" in piece.found


def ort(*providers: str) -> Any:
    module: Any = types.ModuleType("onnxruntime")
    module.__version__ = "9.9"
    module.get_available_providers = lambda: [*providers, "CPUExecutionProvider"]
    return module


class FakeBundle:
    """Enough of a bundle for opening to begin."""

    directory = Path("bundle")

    def read(self, name: str) -> bytes:
        return name.encode()


@pytest.mark.parametrize("opener", [open_onnx_cuda, open_onnx_tensorrt])
def test_onnx_runtime_without_its_provider(
    opener: Any,
    fake_cuda: FakeCuda,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", ort())
    with pytest.raises(MissingBackendError, match=r"has no \w+ExecutionProvider; .*onnxruntime-gpu.*--backend onnx"):
        opener(FakeBundle())
    monkeypatch.setenv("FAKE_CUINIT", "100")
    with pytest.raises(MissingBackendError, match=r"finds no GPU.*--backend onnx"):
        opener(FakeBundle())


def test_a_silent_fallback_to_the_cpu_is_refused(
    fake_cuda: FakeCuda,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def session(model: bytes, providers: Any) -> Any:
        asked.extend(providers)
        return types.SimpleNamespace(providers=("CPUExecutionProvider",))

    monkeypatch.setitem(sys.modules, "onnxruntime", ort("CUDAExecutionProvider"))
    monkeypatch.setattr("runtime.backends.ort_gpu.OrtModel", session)
    with pytest.raises(MissingBackendError, match="fell back to CPUExecutionProvider"):
        open_onnx_cuda(FakeBundle())  # type: ignore[arg-type]
    assert asked == [("CUDAExecutionProvider", {"use_tf32": "0"})]


@pytest.mark.parametrize(
    "name", [n for n in BACKENDS if n.startswith("tensorrt") or n in ("onnx-cuda", "onnx-tensorrt")]
)
def test_the_table_of_back_ends_names_real_factories(name: str) -> None:
    assert callable(factory_of(name))
