"""Files for engines of others that a bundle can hold: what they are called, where they lie, who runs them."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.backends.protocol import Crops, check_crops
from runtime.bundle import Bundle
from runtime.errors import InputError
from runtime.geometry import network_input
from runtime.lazy import require
from runtime.silence import quiet
from runtime.spec import ModelSpec

Precision = Literal["fp32", "fp16", "int8"]
STEM = "landmarks"


@dataclass(frozen=True)
class Format:
    """One file format and its engine."""

    name: str
    """The flag, the folder and the back end."""
    title: str
    """The engine, in words for people."""
    module: str
    """What `import` calls the engine."""
    distributions: tuple[str, ...]
    """What pip calls it; any of them."""
    suffix: str
    weights: str = ""
    """Suffix of a second file; empty where one file holds everything."""
    precisions: tuple[Precision, ...] = ("fp32", "fp16")

    def artefact(self, precision: str) -> str:
        """`mnn` for float32, `mnn-fp16` for the others."""
        return self.name if precision == "fp32" else f"{self.name}-{precision}"

    def file(self, precision: str) -> str:
        """Its path in the bundle."""
        middle = "" if precision == "fp32" else f".{precision}"
        return f"{self.name}/{STEM}{middle}{self.suffix}"

    def engine_is_here(self) -> bool:
        """Whether the engine can be imported, without doing so."""
        return importlib.util.find_spec(self.module) is not None

    @property
    def install(self) -> str:
        """The line that brings the engine."""
        return f"pip install 'landmark-toolkit[{self.name}]'"


FORMATS: dict[str, Format] = {
    "mnn": Format("mnn", "MNN", "MNN", ("mnn",), ".mnn"),
    "ncnn": Format("ncnn", "ncnn", "ncnn", ("ncnn",), ".param", ".bin"),
    "tflite": Format("tflite", "LiteRT", "ai_edge_litert", ("ai-edge-litert",), ".tflite"),
    "openvino": Format(
        "openvino", "OpenVINO", "openvino", ("openvino",), ".xml", ".bin", ("fp32", "fp16", "int8")
    ),
}  # fmt: skip


class Net(Protocol):
    """A loaded file: float32 faces (B, 3, S, S) in, float32 (B, 2N) out, whatever order the file itself wants."""

    input_name: str
    output_name: str
    layout: str
    """Order of the file's own input: NCHW or NHWC."""

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]: ...


def open_net(name: str, model: bytes, weights: bytes = b"", threads: int = 1) -> Net:
    """Load a file of this format; `weights` is empty where it has no second file."""
    form = FORMATS[name]
    require_engine(form)
    factory: Callable[[Path, int], Net] = importlib.import_module(f"runtime.backends.{name}_net").load
    with tempfile.TemporaryDirectory(prefix="toolkit-") as folder:  # the bytes that were hashed, wherever they lie
        place = Path(folder) / f"{STEM}{form.suffix}"
        place.write_bytes(model)
        if form.weights:
            place.with_suffix(form.weights).write_bytes(weights)
        return factory(place, threads)


def require_engine(form: Format) -> ModuleType:
    """The engine's package, or the line that installs it."""
    with quiet():
        return require(form.module, f"running {form.suffix} files")


def located(path: Path | str) -> tuple[Format, Precision] | None:
    """Which format and precision a file in a bundle is, by its name alone: `BUNDLE/mnn/landmarks.fp16.mnn`."""
    place = Path(path)
    for form in FORMATS.values():
        for precision in form.precisions:
            if form.file(precision) == f"{place.parent.name}/{place.name}":
                return form, precision
    return None


class FormatFaceModel:
    """A converted file as a `FaceModel`."""

    def __init__(self, net: Net, spec: ModelSpec, name: str) -> None:
        self.name, self.spec, self._net = name, spec, net
        self._turn = threading.Lock()

    def landmarks(self, crops: Crops) -> NDArray[np.float32]:
        """Landmarks of every crop."""
        check_crops(crops, self.spec)
        if not len(crops):
            return np.zeros((0, self.spec.points, 2), dtype=np.float32)
        faces = network_input(crops, self.spec)
        with self._turn:  # these engines keep what they work on between two calls
            output = self._net(faces)
        if output.size != len(crops) * self.spec.points * 2:
            raise InputError(f"{self.name}: puts out {output.shape}, expected {len(crops)} x {self.spec.points} x 2")
        return np.ascontiguousarray(output, dtype=np.float32).reshape(len(crops), self.spec.points, 2)


def open_format(bundle: Bundle, form: str, precision: str = "fp32", threads: int = 1) -> FormatFaceModel:
    """Open a converted file of a bundle; the bytes are those that the manifest names."""
    entry = FORMATS[form]
    name = entry.artefact(precision)
    weights = bundle.read(f"{name}{entry.weights}") if entry.weights else b""
    return FormatFaceModel(
        open_net(form, bundle.read(name), weights, threads), bundle.spec, f"{entry.title} {precision}"
    )


def one_by_one(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]], batch: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Run faces one after the other, each (1, 3, S, S), for engines whose files take one at a time."""
    rows = [np.asarray(run(batch[i : i + 1]), dtype=np.float32).reshape(1, -1) for i in range(len(batch))]
    return np.concatenate(rows) if rows else np.zeros((0, 0), dtype=np.float32)
