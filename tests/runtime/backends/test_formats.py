"""The adapters to MNN, ncnn, LiteRT and OpenVINO: engines are stand-ins here, real ones have tests of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.backends import formats
from runtime.backends.choose import BACKENDS, open_backend
from runtime.backends.formats import FORMATS, FormatFaceModel, open_net
from runtime.bundle import Bundle
from runtime.errors import InputError, MissingBackendError, UsageError
from runtime.geometry import network_input
from tests.runtime.small import SIZE, small_spec, write_bundle

FACES = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)


def answer(face: np.ndarray) -> np.ndarray:
    """What every stand-in computes of one face (3, S, S): it tells channels and rows apart."""
    return np.asarray([face[0].sum(), face[1, 0].sum(), face[2, :, 0].sum(), face[0, 1, 2]], dtype=np.float32)


def wanted(faces: np.ndarray) -> np.ndarray:
    return np.stack([answer(face) for face in faces])


class FakeInterpreter:
    """LiteRT's, for a file whose first byte says in which order it wants its input."""

    def __init__(self, model_content: bytes, num_threads: int) -> None:
        if model_content[:1] not in b"FL":
            raise ValueError("The model is not a\n valid Flatbuffer buffer")
        self.last = model_content[:1] == b"L"
        self.outputs = 2 if model_content[1:2] == b"2" else 1

    def allocate_tensors(self) -> None: ...

    def get_input_details(self) -> list[dict[str, Any]]:
        shape = [1, 8, 8, 3] if self.last else [1, 3, 8, 8]
        return [{"shape": np.asarray(shape), "dtype": np.float32, "name": "in", "index": 7}]

    def get_output_details(self) -> list[dict[str, Any]]:
        return [{"name": "out", "index": 9}] * self.outputs

    def set_tensor(self, index: int, values: np.ndarray) -> None:
        assert index == 7 and values.dtype == np.float32 and values.flags.c_contiguous
        assert values.shape == tuple(self.get_input_details()[0]["shape"])
        self.face = values[0].transpose(2, 0, 1) if self.last else values[0]

    def invoke(self) -> None:
        self.found = answer(self.face)[None]

    def get_tensor(self, index: int) -> np.ndarray:
        assert index == 9
        return self.found


def put(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    module = types.ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def litert(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, "ai_edge_litert")
    put(monkeypatch, "ai_edge_litert.interpreter", Interpreter=FakeInterpreter)


@pytest.mark.parametrize(("model", "layout"), [(b"L", "NHWC"), (b"F", "NCHW")])
def test_tflite_takes_whichever_order_the_file_wants(litert: None, model: bytes, layout: str) -> None:
    net = open_net("tflite", model)
    assert (net.layout, net.input_name, net.output_name) == (layout, "in", "out")
    assert np.array_equal(net(FACES), wanted(FACES))


def test_tflite_says_what_it_refuses(litert: None) -> None:
    with pytest.raises(InputError, match="LiteRT refuses it: The model is not a valid Flatbuffer"):
        open_net("tflite", b"x")
    with pytest.raises(InputError, match="expected one input and one output, found 1 and 2"):
        open_net("tflite", b"L2")


class FakeMat:
    def __init__(self, values: np.ndarray) -> None:
        assert values.ndim == 3 and values.flags.c_contiguous
        self.values = values

    def clone(self) -> FakeMat:
        return FakeMat(self.values.copy())


class FakeNet:
    """ncnn's; it remembers whether half precision was switched off."""

    def __init__(self) -> None:
        self.opt = types.SimpleNamespace(
            use_fp16_packed=True, use_fp16_storage=True, use_fp16_arithmetic=True, use_bf16_storage=True
        )

    def load_param(self, path: str) -> int:
        assert not any(getattr(self.opt, n) for n in vars(self.opt) if "16" in n), "set before the file is read"
        return -1 if Path(path).read_bytes() != b"param" else 0

    def load_model(self, path: str) -> int:
        return 0 if Path(path).read_bytes() == b"weights" and path.endswith(".bin") else -1

    def input_names(self) -> list[str]:
        return ["in0"]

    def output_names(self) -> list[str]:
        return ["out0"]

    def create_extractor(self) -> FakeNet:
        return self

    def input(self, name: str, values: FakeMat) -> None:
        assert name == "in0"
        self.face = values.values

    def extract(self, name: str) -> tuple[int, np.ndarray]:
        return 0, answer(self.face)


def test_ncnn_runs_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, "ncnn", Net=FakeNet, Mat=FakeMat)
    net = open_net("ncnn", b"param", b"weights", 2)
    assert (net.layout, net.input_name, net.output_name) == ("NCHW", "in0", "out0")
    assert np.array_equal(net(FACES), wanted(FACES)) and net(FACES[:0]).size == 0
    for files in ((b"other", b"weights"), (b"param", b"other")):
        with pytest.raises(InputError, match="ncnn refuses it; convert it again"):
            open_net("ncnn", *files)


def test_the_line_that_installs_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, form in FORMATS.items():
        monkeypatch.setitem(sys.modules, form.module, None)
        with pytest.raises(MissingBackendError) as error:
            open_net(name, b"")
        assert f"pip install 'landmark-toolkit[{name}]'" in str(error.value)
        assert form.install in str(error.value) and "\n" not in str(error.value)


def bundle_with_tflite(place: Path, model: bytes) -> Bundle:
    return Bundle.open(write_bundle(place, {"tflite": ("tflite/landmarks.tflite", model)}, small_spec()))


def test_a_bundle_runs_on_its_converted_file(tmp_path: Path, litert: None, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.arange(196, dtype=np.float32)
    monkeypatch.setattr(
        FakeInterpreter, "invoke", lambda self: setattr(self, "found", whole[None] * self.face[0, 0, 0])
    )
    monkeypatch.setattr(
        FakeInterpreter,
        "get_input_details",
        lambda self: [{"shape": np.asarray([1, SIZE, SIZE, 3]), "dtype": np.float32, "name": "in", "index": 7}],
    )
    choice = open_backend(bundle_with_tflite(tmp_path, b"L"), "tflite", threads=2)
    assert choice.model.name == "LiteRT fp32"
    crops = np.random.default_rng(1).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    first = network_input(crops, small_spec())[:, 0, 0, 0]
    found = choice.model.landmarks(crops)
    assert np.allclose(found, (whole * first[:, None]).reshape(2, 98, 2))
    assert choice.model.landmarks(crops[:0]).shape == (0, 98, 2)
    with pytest.raises(UsageError, match=r"expected \(N, 64, 64, 3\)"):
        choice.model.landmarks(crops[:, :8])
    with pytest.raises(UsageError, match=r"'mnn-fp16' \(export with --mnn and --fp16\); it has files for: tflite"):
        open_backend(Bundle.open(tmp_path), "mnn-fp16")
    (tmp_path / "tflite/landmarks.tflite").write_bytes(b"F")
    with pytest.raises(InputError, match="changed or damaged"):
        open_backend(Bundle.open(tmp_path), "tflite")


def test_a_file_of_another_network_is_refused() -> None:
    class Wrong:
        input_name = output_name = "x"
        layout = "NCHW"

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            return np.zeros((len(batch), 10), np.float32)

    with pytest.raises(InputError, match="expected 1 x 98 x 2"):
        FormatFaceModel(Wrong(), small_spec(), "wrong").landmarks(np.zeros((1, SIZE, SIZE, 3), np.uint8))


def test_the_table() -> None:
    assert {"mnn", "mnn-fp16", "ncnn", "ncnn-fp16", "tflite", "tflite-fp16"} <= set(BACKENDS)
    assert {"openvino", "openvino-fp16", "openvino-int8"} <= set(BACKENDS) and "mnn-int8" not in BACKENDS
    assert {form.name for form in FORMATS.values()} == set(formats.FORMATS)


def test_words_of_c_do_not_reach_stdout() -> None:
    code = (
        "import ctypes, os, sys; from runtime.silence import quiet\n"
        "c = ctypes.CDLL(None); print('before')\n"
        "with quiet():\n    c.puts(b'chatter'); print('chatter'); os.write(1, b'chatter')\n"
        "print('after')\n"
    )
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=buffered)
    assert done.stdout.split() == ["before", "after"] and not done.stderr
