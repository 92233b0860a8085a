"""What a file is: any of ours, or a foreign ONNX, as plain data that can be printed or written as JSON."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from export.artefact_format import find_format
from runtime.backends.c import is_c_folder
from runtime.backends.formats import Format, Precision
from runtime.bundle import MANIFEST, Artefact, Bundle, read_arrays
from runtime.engine import PLAN_SUFFIXES, read_card
from runtime.errors import InputError
from runtime.files import read_bytes, require_file, sha256_bytes, sha256_file
from runtime.spec import ModelSpec

Facts = dict[str, Any]
MAX_PROBE_BYTES = 1 << 30
_HEAD = 64


def inspect_path(path: Path | str) -> Facts:
    """Say what a file or bundle directory is; `what` names the kind."""
    place = Path(path)
    if is_c_folder(place):
        return _inspect_c(place)
    if place.is_dir():
        return inspect_bundle(place)
    require_file(place)
    converted = find_format(place)
    if converted is not None:
        return _inspect_converted(place, *converted)
    facts = _reader_for(place)(place)
    whole = {"what": facts.pop("what"), "path": str(place), "bytes": place.stat().st_size, **facts}
    return {**whole, "lineage": _lineage(place, str(whole["sha256"]))}


def _lineage(path: Path, digest: str) -> list[str] | None:
    """What the file was made from, nearest first, as the bundle it lies in says; None outside of a bundle."""
    if not (path.parent / MANIFEST).is_file():
        return None
    bundle = Bundle.open(path.parent)
    manifest = bundle.manifest
    own = next((a for a in manifest.artefacts if a.file == path.name), None)
    if own is None:
        return [f"not listed in {MANIFEST} of its directory"]
    if own.sha256 != digest:
        return [f"changed: {MANIFEST} of its directory knows it as {own.sha256[:16]}"]
    return _line_of(bundle, manifest.parent_of(own))


def _line_of(bundle: Bundle, parent: Artefact | None) -> list[str]:
    line: list[str] = []
    manifest = bundle.manifest
    while parent is not None:
        line.append(f"{parent.file} {parent.sha256[:16]}")
        parent = manifest.parent_of(parent)
    return [*line, f"{manifest.source.kind} checkpoint {manifest.source.sha256[:16]}"]


def _reader_for(path: Path) -> Callable[[Path], Facts]:
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    if head.startswith(b"PK\x03\x04"):
        return _inspect_probe if _is_arrays(path) else _inspect_checkpoint
    if path.suffix.lower() in PLAN_SUFFIXES:
        return _inspect_plan
    if path.name == MANIFEST:
        raise InputError(f"{path}: the manifest of a bundle; inspect its directory instead: {path.parent}")
    if all(32 <= byte < 127 or byte in b"\r\n\t" for byte in head):
        raise InputError(
            f"{path}: looks like text (starts with {head[:24].decode('ascii')!r}); "
            "expected a checkpoint, an ONNX model, a probe file or a bundle directory"
        )
    return _inspect_onnx


def _is_arrays(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def _inspect_probe(path: Path) -> Facts:
    data = read_bytes(path, MAX_PROBE_BYTES)
    arrays = read_arrays(data, str(path))
    shapes = {name: {"shape": list(a.shape), "type": str(a.dtype)} for name, a in sorted(arrays.items())}
    return {"what": "arrays (.npz)", "sha256": sha256_bytes(data), "arrays": shapes}


def _inspect_checkpoint(path: Path) -> Facts:
    from train.checkpoint import load_checkpoint, model_of
    from train.models.count import count

    checkpoint = load_checkpoint(path)
    cost = count(model_of(checkpoint, str(path)), checkpoint.spec.input_size)
    return {
        "what": f"{checkpoint.kind} checkpoint",
        "sha256": sha256_file(path),
        "parent": checkpoint.parent,
        "spec": checkpoint.spec.to_dict(),
        "params": cost.params,
        "macs": cost.macs,
        "tensors": len(checkpoint.model),
        "precision": sorted({str(t.dtype).removeprefix("torch.") for t in checkpoint.model.values()}),
        "averaged": checkpoint.ema is not None,
        "resumable": bool(checkpoint.state),
        "int8 steps": None if checkpoint.int8 is None else len(checkpoint.int8.activations),
        "progress": checkpoint.progress,
    }


def _inspect_plan(path: Path) -> Facts:
    """What its sidecar says; the plan itself is hashed and nothing more."""
    card = read_card(path)
    found = sha256_file(path)
    same = "the file that was built" if found == card.plan_sha256 else "NOT the file that its sidecar describes"
    ports = {mode: [p for p in card.ports if p.mode == mode] for mode in ("input", "output")}
    layers = ", ".join(f"{count} {kind}" for kind, count in card.layers.items())
    return {
        "what": f"TensorRT plan, {card.precision}, for {card.gpu_name} (SM {card.gpu_sm})",
        "sha256": found,
        "parent": card.model_sha256,
        "producer": f"{card.built.module} {card.built.version}, CUDA {card.built.cuda}; layers: {layers}",
        "checker": same,
        "spec": card.spec.to_dict(),
        "inputs": [{"name": p.name, "type": p.dtype, "shape": list(p.shape)} for p in ports["input"]],
        "outputs": [{"name": p.name, "type": p.dtype, "shape": list(p.shape)} for p in ports["output"]],
    }


def _inspect_onnx(path: Path) -> Facts:
    from export.onnx_file import MAX_ONNX_BYTES, check_onnx, parse_onnx

    data = read_bytes(path, MAX_ONNX_BYTES)
    model = parse_onnx(data, str(path))
    try:
        check_onnx(model, str(path))
        verdict = "valid"
    except InputError as error:
        verdict = str(error).removeprefix(f"{path}: ")
    return {**_onnx_facts(model, str(path)), "sha256": sha256_bytes(data), "checker": verdict}


def _onnx_facts(model: Any, where: str) -> Facts:
    from export.onnx_info import describe

    info = describe(model, where)
    return {
        "what": f"ONNX model, {info.precision}" + ("" if info.spec else " (foreign: no model spec inside)"),
        "spec": info.spec.to_dict() if info.spec else None,
        "producer": info.producer,
        "opset": info.opset,
        "ir_version": info.ir_version,
        "domains": list(info.domains),
        "inputs": [asdict(port) for port in info.inputs],
        "outputs": [asdict(port) for port in info.outputs],
        "params": info.params,
        "macs": info.macs,
        "precisions": info.precisions,
        "operators": info.operators,
        "layers": [asdict(layer) for layer in info.layers],
    }


def inspect_bundle(directory: Path) -> Facts:
    """A bundle's chain with every recorded number; every file's hash is checked on the way."""
    bundle = Bundle.open(directory)
    chain = []
    for artefact, data in bundle.read_all():
        parent = bundle.manifest.parent_of(artefact)
        entry: Facts = {
            **asdict(artefact),
            "from": parent.name if parent else None,
            "checks": [{**asdict(check), "passed": check.passed} for check in artefact.checks],
        }
        if artefact.kind == "onnx":
            entry["precisions"] = _bundled_precisions(data, artefact.file)
        chain.append(entry)
    return {
        "what": "bundle",
        "path": str(directory),
        "bytes": sum(a.bytes for a in bundle.manifest.artefacts),
        "spec": bundle.spec.to_dict(),
        "source": asdict(bundle.manifest.source),
        "toolkit": bundle.manifest.toolkit,
        "tools": bundle.manifest.tools,
        "strays": bundle.strays(),
        "chain": chain,
    }


def _inspect_c(folder: Path) -> Facts:
    """Generated C, from what its bundle's manifest says of it; every file's hash is checked on the way."""
    bundle = Bundle.open(folder.parent)
    files = [a for a in bundle.manifest.artefacts if a.file.startswith(f"{folder.name}/")]
    source = bundle.manifest.artefact(folder.name)
    for artefact in files:
        bundle.read(artefact.name)
    settings = {name: value for name, value in source.settings.items() if value is not None}
    return {
        "what": "generated C",
        "path": str(folder),
        "bytes": sum(a.bytes for a in files),
        "sha256": source.sha256,
        "parent": source.parent,
        "spec": bundle.spec.to_dict(),
        "macs": settings.pop("multiply-adds", None),
        "c": settings,
        "files": [a.file for a in files],
        "checks": [{**asdict(check), "passed": check.passed} for check in source.checks],
    }


def _inspect_converted(path: Path, bundle: Bundle, form: Format, precision: Precision) -> Facts:
    """A file for an engine of others, from what its bundle's manifest says of it; it is hashed and not loaded."""
    made = bundle.manifest.artefact(form.artefact(precision))
    bundle.read(made.name)
    size, points = bundle.spec.input_size, bundle.spec.points
    shape = [1, size, size, 3] if made.settings.get("layout") == "NHWC" else [1, 3, size, size]
    parent = bundle.manifest.parent_of(made)
    return {
        "what": f"{form.title} file, {precision}",
        "path": str(path),
        "bytes": made.bytes,
        "sha256": made.sha256,
        "parent": made.parent,
        "producer": f"{made.settings.get('converter')}; measured with {made.settings.get('engine')}",
        "spec": bundle.spec.to_dict(),
        "inputs": [{"name": made.settings.get("input"), "type": "float32", "shape": shape}],
        "outputs": [{"name": made.settings.get("output"), "type": "float32", "shape": [1, 2 * points]}],
        "checks": [{**asdict(check), "passed": check.passed} for check in made.checks],
        "lineage": None if parent is None else _line_of(bundle, parent),
    }


def _bundled_precisions(data: bytes, where: str) -> dict[str, int]:
    from export.onnx_file import parse_onnx
    from export.onnx_info import describe

    return describe(parse_onnx(data, where), where).precisions


def spec_line(data: dict[str, Any]) -> str:
    """A spec in one line.

    >>> spec_line(ModelSpec("ghostone").to_dict())
    'ghostone x 1, 98 points (wflw98), input 112 x 112 BGR, crop 1.2 x landmarks box, outputs centre'
    """
    spec = ModelSpec.from_dict(data)
    crop = f"crop {spec.crop.scale:g} x {spec.crop.box} box"
    size = f"input {spec.input_size} x {spec.input_size} {spec.channels.upper()}"
    points = f"{spec.points} points ({spec.layout})"
    return f"{spec.architecture} x {spec.width:g}, {points}, {size}, {crop}, outputs {spec.coordinates}"
