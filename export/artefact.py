"""One face for all that predicts landmarks: checkpoints, ONNX, C and engines, opened and run the same way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from torch import Tensor, nn

from export.artefact_c import CArtefact
from export.artefact_engine import EngineArtefact
from export.artefact_format import FormatArtefact
from export.importer import SpecFlags, decide_spec, identify_onnx, looks_like_archive
from export.onnx_file import MAX_ONNX_BYTES, parse_onnx, spec_of, to_bytes
from export.onnx_layers import weighted_layers
from export.presets import RECOGNISED
from export.torch_layers import block_names, weighted_blocks
from runtime.backends.c import is_c_folder
from runtime.backends.formats import FORMATS, located
from runtime.backends.ort import OrtModel
from runtime.errors import InputError, UsageError
from runtime.files import read_bytes, read_json, require_file, sha256_bytes, sha256_file
from runtime.spec import ModelSpec
from train.checkpoint import load_model

Precision = Literal["float32", "float16", "int8"]
Run = Callable[[NDArray[np.float32]], NDArray[Any]]

_QUANTISED = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger"})
_SPEC_FILE_BYTES = 1 << 20
PLAN_SUFFIX = ".plan"
FORMAT_SUFFIXES = frozenset(form.suffix for form in FORMATS.values())


class Artefact(Protocol):
    """A model in a file."""

    path: str
    sha256: str
    kind: str
    """multi-branch, fused, onnx, c, engine, or the name of a converted format."""
    precision: Precision
    spec: ModelSpec | None
    """None for an ONNX file that says nothing about its input."""
    own_spec: bool
    """Whether the spec was read from the file."""
    layers: tuple[str, ...]
    """Weighted layers in running order; artefacts of one architecture share the names."""

    def predict(self, batch: NDArray[np.float32]) -> NDArray[Any]:
        """Normalised float32 (B, 3, S, S) -> (B, 2N)."""
        ...

    def layer(self, name: str) -> Run:
        """A function from a batch to what leaves one layer; nothing behind it is computed, nothing is kept."""
        ...


def open_artefacts(paths: Sequence[Path | str], spec: str | None = None) -> list[Artefact]:
    """Open files; `spec` (a preset or a .json file) is for the ONNX files among them that carry none."""
    artefacts = [open_artefact(path, spec) for path in paths]
    if spec is not None and all(artefact.own_spec for artefact in artefacts):
        raise UsageError(f"--spec {spec}: every file here carries its own spec; drop the flag")
    return artefacts


def open_artefact(path: Path | str, spec: str | None = None) -> Artefact:
    """Open one file, or the C folder of a bundle; `spec` is used when it is an ONNX file that carries none."""
    if is_c_folder(path):
        return CArtefact(Path(path))
    source = require_file(path)
    if source.suffix == PLAN_SUFFIX:
        return EngineArtefact(source)
    if located(source) is not None or source.suffix in FORMAT_SUFFIXES:
        return FormatArtefact(source)
    if looks_like_archive(source):
        return TorchArtefact(source)
    data = read_bytes(source, MAX_ONNX_BYTES)
    model = parse_onnx(data, str(source))
    return OnnxArtefact(source, data, model, spec)


def require_spec(artefact: Artefact) -> ModelSpec:
    """The artefact's spec, or the error that says how to give it one."""
    if artefact.spec is None:
        raise InputError(
            f"{artefact.path}: nothing says what its input means; name a preset or a spec file with --spec, "
            "or bring it in with 'toolkit import'"
        )
    return artefact.spec


def _spec_by(text: str | None, model: ModelProto, digest: str, where: str) -> ModelSpec | None:
    """The spec of an ONNX file without metadata: from what the user says, or because its bytes are known."""
    if text is not None and text.endswith(".json"):
        return ModelSpec.from_dict(read_json(text, _SPEC_FILE_BYTES), text)
    if text is None and digest not in RECOGNISED:
        return None
    identity = identify_onnx(model, where)[1]
    return decide_spec(identity, SpecFlags(preset=text), digest, None, where)[0]


class _ReachedError(Exception):
    """Carries a layer's output out of a forward pass that need not go on."""

    def __init__(self, output: Tensor) -> None:
        self.output = output


class TorchArtefact:
    """A checkpoint, with averaged weights where it has them."""

    precision: Precision = "float32"
    own_spec = True

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.model, checkpoint = load_model(path)  # refuses a huge file, so it comes before hashing one
        self.sha256 = sha256_file(path)
        self.kind: str = checkpoint.kind
        self.spec: ModelSpec | None = checkpoint.spec
        self.trained_for_int8 = checkpoint.int8 is not None
        self._blocks = dict(weighted_blocks(self.model))
        self.layers = tuple(self._blocks)

    def predict(self, batch: NDArray[np.float32]) -> NDArray[Any]:
        with torch.inference_mode():
            return np.asarray(self.model(torch.from_numpy(batch)).numpy())

    def layer(self, name: str) -> Run:
        block = self._blocks[name]

        def run(batch: NDArray[np.float32]) -> NDArray[Any]:
            hook = block.register_forward_hook(_stop)
            try:
                self.predict(batch)
            except _ReachedError as reached:
                return np.asarray(reached.output.numpy())
            finally:
                hook.remove()
            raise InputError(f"{self.path}: layer {name} is never run")

        return run


def _stop(_: nn.Module, __: object, output: Tensor) -> None:
    raise _ReachedError(output)


class OnnxArtefact:
    """An ONNX file in ONNX Runtime; quantised graphs run as they are written, without fused integer kernels."""

    kind = "onnx"

    def __init__(self, path: Path, data: bytes, model: ModelProto, spec_text: str | None = None) -> None:
        self.path, self.sha256, self._model = str(path), sha256_bytes(data), model
        embedded = spec_of(model, self.path)
        self.own_spec = embedded is not None
        self.spec: ModelSpec | None = embedded or _spec_by(spec_text, model, self.sha256, self.path)
        self.precision: Precision = _precision(model.graph)
        self._session = OrtModel(data, optimise=self.precision != "int8")
        found = weighted_layers(model.graph, self.path)
        names = block_names(self.spec.architecture) if self.spec is not None else ()
        if len(names) != len(found):
            names = tuple(layer.node.name or layer.output for layer in found)
        if len(set(names)) != len(names):
            names = tuple(layer.output for layer in found)
        self._tensors = {name: layer.output for name, layer in zip(names, found, strict=True)}
        self.layers = tuple(self._tensors)
        self._check_interface()

    def _check_interface(self) -> None:
        """Shape of the input against the spec, before anything runs."""
        shape, spec = self._session.input_shape, self.spec
        if len(shape) != 4 or self._session.input_type not in ("tensor(float)", "tensor(float16)"):
            raise InputError(
                f"{self.path}: takes {self._session.input_type} {list(shape)}, expected images (B, 3, S, S)"
            )
        if spec is None:
            return
        wanted = (3, spec.input_size, spec.input_size)
        if any(isinstance(n, int) and n != w for n, w in zip(shape[1:], wanted, strict=True)):
            raise InputError(f"{self.path}: takes {list(shape)}, its spec says (B, {', '.join(map(str, wanted))})")
        sizes = [d.dim_value for d in self._model.graph.output[0].type.tensor_type.shape.dim[1:]]
        if sizes and all(sizes) and math.prod(sizes) != 2 * spec.points:
            raise InputError(f"{self.path}: puts out {math.prod(sizes)} values, its spec says {spec.points} points")

    def predict(self, batch: NDArray[np.float32]) -> NDArray[Any]:
        output = _run_padded(self._session, batch)
        return output.reshape(len(batch), -1)

    def layer(self, name: str) -> Run:
        part = ModelProto()
        part.CopyFrom(self._model)
        del part.graph.output[:]
        part.graph.output.append(ValueInfoProto(name=self._tensors[name]))
        session = OrtModel(
            to_bytes(part), optimise=False
        )  # opened for every layer: optimising costs more than it saves
        return lambda batch: _run_padded(session, batch)


def _run_padded(session: OrtModel, batch: NDArray[np.float32]) -> NDArray[Any]:
    """Run any number of faces through a model that may want another number at a time."""
    values: NDArray[Any] = batch.astype(np.float16) if session.input_type == "tensor(float16)" else batch
    fixed = session.input_shape[0]
    if isinstance(fixed, int) and len(values) % fixed:
        filler = np.repeat(values[-1:], fixed - len(values) % fixed, axis=0)
        values = np.concatenate([values, filler])
    return session(values)[: len(batch)]


def _precision(graph: GraphProto) -> Precision:
    if any(node.op_type in _QUANTISED for node in graph.node):
        return "int8"
    half = any(t.data_type == TensorProto.FLOAT16 for t in graph.initializer) or any(map(_casts_to_half, graph.node))
    return "float16" if half else "float32"


def _casts_to_half(node: NodeProto) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == TensorProto.FLOAT16 for a in node.attribute)
