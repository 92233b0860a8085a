"""A model repository for Triton Inference Server: one directory per model, with plan or ONNX, and a warm-up."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from export.onnx_file import parse_onnx
from export.onnx_info import Port, describe
from runtime.backends.tensorrt import engines_of
from runtime.bundle import Artefact, Bundle
from runtime.errors import InputError, UsageError
from runtime.files import DiskError, write_atomic, write_text
from runtime.spec import ModelSpec

PREFIX = "landmarks"
DEFAULT_MAX_BATCH = 32
QUEUE_MICROSECONDS = 500
"""How long a request may wait for company."""
_ONNX = ("fp32", "fp16", "int8")
_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16"}


@dataclass(frozen=True)
class Model:
    """One model of the repository."""

    name: str
    backend: str
    file: str
    data: bytes
    input: Port
    output: Port
    max_batch: int
    batches: tuple[int, ...]
    """Sizes that requests are gathered to."""
    facts: tuple[tuple[str, str], ...]


def refuse_repository(target: Path) -> None:
    """Say before the first slow step that the place is taken."""
    if target.is_symlink() or target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise UsageError(f"--triton {target}: is there already; give a directory that does not exist yet")


def write_repository(
    bundle: Bundle, target: Path, *, engines: Sequence[str] = (), max_batch: int = DEFAULT_MAX_BATCH
) -> list[str]:
    """Write the engines that are named, else every ONNX file of the bundle; the directory appears whole or not at all.

    Gives the names of the models.
    """
    refuse_repository(target)
    models = _plans(bundle, engines) if engines else _onnx_models(bundle, max_batch)
    try:
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.absolute().parent))
    except OSError as error:
        raise DiskError(f"{target}: cannot write: {error.strerror or error}") from error
    try:
        for model in models:
            _write_model(place / model.name, model, bundle.spec)
        if target.is_dir():
            target.rmdir()
        place.chmod(0o755)
        place.replace(target)
    except OSError as error:
        raise DiskError(f"{target}: cannot write: {error.strerror or error}") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return [model.name for model in models]


def config_text(model: Model, spec: ModelSpec) -> str:
    """Triton's `config.pbtxt` for one model."""
    size = spec.input_size
    facts = [(key, _quoted(value)) for key, value in (*model.facts, ("spec", spec.to_json()))]
    preferred = ", ".join(str(size) for size in model.batches)
    queue = f"max_queue_delay_microseconds: {QUEUE_MICROSECONDS}"
    lines = [
        f"name: {_quoted(model.name)}",
        f"backend: {_quoted(model.backend)}",
        f"default_model_filename: {_quoted(model.file)}",
        f"max_batch_size: {model.max_batch}",
        *_port("input", model.input, f"3, {size}, {size}"),
        *_port("output", model.output, str(2 * spec.points)),
        f"instance_group [ {{ count: 1, kind: {'KIND_GPU' if model.backend == 'tensorrt' else 'KIND_AUTO'} }} ]",
        f"dynamic_batching {{ preferred_batch_size: [ {preferred} ], {queue} }}",
        "version_policy { latest { num_versions: 1 } }",
    ]
    if model.backend == "tensorrt":
        lines.append("optimization { cuda { graphs: true } }")
    lines += [_warmup(model.input, size, batch) for batch in sorted({1, *model.batches})]
    lines += [f"parameters {{ key: {_quoted(key)}, value {{ string_value: {value} }} }}" for key, value in facts]
    return "\n".join(lines) + "\n"


def _warmup(port: Port, size: int, batch: int) -> str:
    """Random pixels; the first real request then meets a model that has run."""
    value = f"value {{ data_type: {_type(port)}, dims: [ 3, {size}, {size} ], random_data: true }}"
    inputs = f"inputs {{ key: {_quoted(port.name)}, {value} }}"
    return f"model_warmup {{ name: {_quoted(f'batch of {batch}')}, batch_size: {batch}, {inputs} }}"


def _port(kind: str, port: Port, dims: str) -> list[str]:
    return [f"{kind} [ {{ name: {_quoted(port.name)}, data_type: {_type(port)}, dims: [ {dims} ] }} ]"]


def _type(port: Port) -> str:
    if port.type not in _TYPES:
        raise InputError(f"{port.name}: type {port.type}; Triton models of this toolkit take and give float32")
    return _TYPES[port.type]


def _quoted(text: str) -> str:
    """A string of protobuf's text format; JSON's escapes are a part of its own."""
    return json.dumps(text, ensure_ascii=True)


def _write_model(folder: Path, model: Model, spec: ModelSpec) -> None:
    write_atomic(folder / "1" / model.file, lambda stream: stream.write(model.data))
    write_text(folder / "config.pbtxt", config_text(model, spec))


def _onnx_models(bundle: Bundle, max_batch: int) -> list[Model]:
    if not 1 <= max_batch <= 1024:
        raise UsageError(f"a largest batch of {max_batch}: expected 1 to 1024")
    names = [name for name in _ONNX if bundle.manifest.has(name)]
    return [_onnx_model(bundle, bundle.manifest.artefact(name), max_batch) for name in names]


def _onnx_model(bundle: Bundle, artefact: Artefact, max_batch: int) -> Model:
    data = bundle.read(artefact.name)
    info = describe(parse_onnx(data, artefact.file), artefact.file)
    facts = (("precision", artefact.name), ("sha256", artefact.sha256))
    batches = tuple(sorted({min(8, max_batch), max_batch}))
    given, got = info.inputs[0], info.outputs[0]
    name = f"{PREFIX}-{artefact.name}"
    return Model(name, "onnxruntime", "model.onnx", data, given, got, max_batch, batches, facts)


def _plans(bundle: Bundle, names: Sequence[str]) -> list[Model]:
    models = []
    for artefact, card in engines_of(bundle):
        if artefact.name not in names:
            continue
        facts = (
            ("precision", card.precision),
            ("sha256", card.plan_sha256),
            ("tensorrt", card.built.version),
            ("gpu", f"{card.gpu_name} (SM {card.gpu_sm})"),
        )
        ports = [Port(port.name, port.dtype, tuple(port.shape)) for port in (card.input, card.output)]
        batches = tuple(sorted({card.profile.opt, card.profile.max}))
        models.append(
            Model(
                f"{PREFIX}-{artefact.name}", "tensorrt", "model.plan", bundle.read(artefact.name),
                ports[0], ports[1], card.profile.max, batches, facts,
            )
        )  # fmt: skip
    return models
