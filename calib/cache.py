"""Calibration results on disk, found again only by the very same model, faces, crop, settings and code."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.graph import Graph
from calib.plan import Plan
from calib.result import Candidate, Int8Result, LayerError
from calib.sites import find_sites
from runtime.errors import InputError
from runtime.files import read_bytes, write_atomic
from runtime.spec import ModelSpec

_MAX_BYTES = 256 << 20
_FIXED_DATE = (1980, 1, 1, 0, 0, 0)


@cache
def code_version() -> str:
    """sha256 of calibration's own source text: whatever changes there, an old result is not taken for a new one."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


@dataclass(frozen=True)
class CacheKey:
    """Everything that a calibration result depends on."""

    model: str
    """sha256 of the fp32 ONNX file."""
    faces: str
    """sha256 of the calibration crops' pixels, in order."""
    spec: str
    settings: str
    code: str = field(default_factory=code_version)

    @staticmethod
    def of(model: bytes, images: NDArray[np.uint8], spec: ModelSpec, settings: Mapping[str, Any]) -> CacheKey:
        """The key of a run."""
        pixels = hashlib.sha256(np.ascontiguousarray(images).data)
        pixels.update(repr(images.shape).encode())
        return CacheKey(
            hashlib.sha256(model).hexdigest(),
            pixels.hexdigest(),
            hashlib.sha256(spec.to_json().encode()).hexdigest(),
            json.dumps(dict(settings), sort_keys=True),
        )


def save_result(path: Path | str, result: Int8Result, key: CacheKey) -> None:
    """Write a result with its key; equal content gives equal bytes."""
    plan = result.plan
    report = {
        "settings": result.settings,
        "candidates": [asdict(candidate) for candidate in result.candidates],
        "layers": [asdict(layer) for layer in result.layers],
        "float_layers": result.float_layers,
        "shift": result.shift,
    }
    header: dict[str, Any] = {"key": asdict(key), "report": report}
    header["float_nodes"] = sorted(
        n.name for n in plan.graph.weighted if n.op == "Conv" and n.name not in plan.sites.quantised
    )
    header["scales"] = {group: float(step) for group, step in plan.scales.items()}
    arrays: dict[str, NDArray[np.float32]] = {}
    names: list[str] = []
    for kind, table in (("parameter", plan.graph.parameters), ("step", plan.weight_scales)):
        for name, value in table.items():
            arrays[f"{len(names):05d}.npy"] = np.asarray(value, dtype=np.float32)
            names.append(f"{kind}:{name}")
    header["names"] = names

    def write(stream: Any) -> None:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(zipfile.ZipInfo("plan.json", _FIXED_DATE), json.dumps(header, sort_keys=True))
            for name, value in arrays.items():
                buffer = io.BytesIO()
                np.save(buffer, value, allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(name, _FIXED_DATE), buffer.getvalue())

    write_atomic(path, write)


def load_result(path: Path | str, graph: Graph, key: CacheKey, limit: float) -> Int8Result:
    """Read a result back for `graph`; a key that differs in anything is an error that names what changed."""
    where = str(path)
    try:
        with zipfile.ZipFile(io.BytesIO(read_bytes(path, _MAX_BYTES))) as archive:
            if sum(item.file_size for item in archive.infolist()) > _MAX_BYTES:
                raise InputError(f"{where}: unpacks to more than {_MAX_BYTES} bytes; delete it and calibrate again")
            header = json.loads(archive.read("plan.json"))
            _check_key(where, header["key"], key)
            arrays = [
                np.load(io.BytesIO(archive.read(f"{index:05d}.npy")), allow_pickle=False)
                for index in range(len(header["names"]))
            ]
        return _result(_rebuilt(graph, header, arrays), header["report"], limit)
    except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{where}: not a calibration cache ({error}); delete it and calibrate again") from error


def _check_key(where: str, found: Mapping[str, Any], wanted: CacheKey) -> None:
    names = {
        "model": "the model",
        "faces": "the calibration faces",
        "spec": "the model spec (crop, size, normalisation)",
        "settings": "the int8 settings",
        "code": "the calibration code",
    }
    changed = [text for field, text in names.items() if found.get(field) != asdict(wanted)[field]]
    if changed:
        raise InputError(
            f"{where}: stale calibration cache, {' and '.join(changed)} changed since; delete it or name another file"
        )


def _result(plan: Plan, report: Mapping[str, Any], limit: float) -> Int8Result:
    return Int8Result(
        plan,
        dict(report["settings"]),
        tuple(Candidate(**row) for row in report["candidates"]),
        tuple(LayerError(**row) for row in report["layers"]),
        tuple(report["float_layers"]),
        float(report["shift"]),
        limit,
    )


def _rebuilt(graph: Graph, header: Mapping[str, Any], arrays: list[NDArray[np.float32]]) -> Plan:
    parameters: dict[str, NDArray[np.float32]] = {}
    steps: dict[str, NDArray[np.float32]] = {}
    for name, value in zip(header["names"], arrays, strict=True):
        kind, _, plain = name.partition(":")
        (parameters if kind == "parameter" else steps)[plain] = value
    for name, value in graph.parameters.items():
        if name not in parameters or parameters[name].shape != value.shape:
            raise ValueError(f"parameter {name} does not fit the model")
    sites = find_sites(graph, header["float_nodes"])
    scales = {group: np.float32(header["scales"][group]) for group in sites.groups}
    return Plan(replace(graph, parameters=parameters), sites, scales, steps)
