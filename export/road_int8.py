"""The int8 stretch of the road: faces chosen, scales learned, graph written, gate and exact integers measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calib.quantize import FEWEST_FACES, Mode, few_faces, quantize
from calib.result import Int8Result, Labelled
from calib.select import CalibrationFaces, select_faces
from export.bundle import BundleWriter
from export.int8 import write_int8
from export.links import int8_checks, require_passed
from export.onnx_file import to_bytes
from export.tidy import finish, refuse_host_traces
from runtime.backends.ort import OrtModel
from runtime.bundle import Check
from runtime.errors import UsageError
from runtime.files import sha256_bytes
from runtime.geometry import network_input
from runtime.spec import ModelSpec
from train.data.boxes import open_unlabelled
from train.data.open import open_source, splits_in
from train.data.problems import problems_of
from train.data.sample import FaceSource
from train.evaluate import Crops, crop_faces, evaluate

PROBE_SLACK = 3.0
"""The probes are other faces than those calibrated on, and often synthetic: their limit is this much wider."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Int8Request:
    """What int8 was asked for."""

    mode: Mode
    calib: str
    count: int
    max_drop: float
    labelled: str | None
    seed: int
    cache: Path | None = None
    """Where the result of an equal run lies, or will."""


def refuse_request(request: Int8Request) -> None:
    """Open every source of faces before any slow step."""
    if request.count < 1:
        raise UsageError(f"--calib-count {request.count}: expected a positive number of faces")
    faces = min(len(open_unlabelled(request.calib, split="train")), request.count)
    if faces < FEWEST_FACES:
        raise UsageError(f"{request.calib}: {few_faces(faces)}")
    if request.labelled is not None and not len(labelled_source(request.labelled)):
        raise UsageError(f"{request.labelled}: no faces in it")
    if request.cache is not None and not request.cache.parent.is_dir():
        raise UsageError(f"--calib-cache {request.cache}: there is no folder {request.cache.parent}")


def add_int8(
    writer: BundleWriter,
    graph: ModelProto,
    spec: ModelSpec,
    probes: NDArray[np.float32],
    request: Int8Request,
    say: Say,
) -> dict[str, NDArray[Any]]:
    """Calibrate, write and measure the int8 model; returns what the probes file stores of it."""
    session = OrtModel(to_bytes(graph))
    source = open_unlabelled(request.calib, split="train")
    broken = problems_of(source)
    if len(broken):
        say(f"calibration faces: {broken.summary()}")
    faces = select_faces(
        source,
        spec,
        request.count,
        lambda crops: np.asarray(session(network_input(crops, spec)), dtype=np.float32),
        seed=request.seed,
    )
    crops = None if request.labelled is None else crop_faces(labelled_source(request.labelled), spec)
    result = quantize(
        graph,
        spec,
        faces,
        mode=request.mode,
        labelled=None if crops is None else labelled_by(crops, spec, public_name(str(request.labelled))),
        max_drop=request.max_drop,
        seed=request.seed,
        progress=lambda share, what: say(f"int8 {100 * share:.0f} %: {what}"),
        where="model.onnx",
        cache=request.cache,
    )
    quantised = finish(write_int8(graph, result.plan, "model.onnx"), spec)
    data = to_bytes(quantised)
    refuse_host_traces(data, "model.int8.onnx")
    limit = 100 * PROBE_SLACK * result.limit
    checks, stored = int8_checks(graph, quantised, spec, probes, limit)
    checks += _gate_checks(result, faces, crops, request)
    require_passed(checks, "int8")
    settings = {"shift limit on the probes, %": limit, **_settings(result, faces, request)}
    writer.add("int8", "onnx", "model.int8.onnx", data, "fp32", settings, checks)
    return stored


def labelled_source(text: str) -> FaceSource:
    """The test half of a data set, where it has halves."""
    return open_source(text, split="test" if splits_in(text) else None)


def labelled_by(crops: Crops, spec: ModelSpec, name: str) -> Labelled:
    def nme(predict: Callable[[NDArray[np.float32]], NDArray[Any]]) -> Mapping[str, float]:
        return {subset: s.nme for subset, s in evaluate(predict, crops, spec).scores.items()}

    return Labelled(nme, name)


def _gate_checks(result: Int8Result, faces: CalibrationFaces, crops: Crops | None, request: Int8Request) -> list[Check]:
    """Numbers that cannot be measured again from the bundle alone: written down with the hash of their faces."""
    held = "mean landmark shift on held-back calibration faces, % of the normaliser"
    limit = 100 * result.limit if request.labelled is None else 100 * max(result.limit, result.shift)
    checks = [Check("held-back-shift", held, 100 * result.shift, limit, faces.digest, request.seed)]
    if crops is not None:
        exact, rough = result.nme["all"]
        drop = 100 * (rough / exact - 1)
        metric = f"% NME increase on {public_name(str(request.labelled))}"
        data = sha256_bytes(crops.images.tobytes())
        checks.append(Check("nme-drop", metric, drop, 100 * request.max_drop, data, request.seed))
    return checks


def _settings(result: Int8Result, faces: CalibrationFaces, request: Int8Request) -> dict[str, Any]:
    """What was done and why; seconds are left out, so that equal inputs give equal bytes."""
    return {
        "mode": request.mode,
        "seed": request.seed,
        "calibration": {"source": public_name(request.calib), "faces": len(faces), "sha256": faces.digest},
        "algorithms": result.settings,
        "candidates": [{k: v for k, v in asdict(c).items() if k != "seconds"} for c in result.candidates],
        "float layers": list(result.float_layers),
        "layers": [asdict(layer) for layer in result.layers],
        "nme": {name: {"float32": exact, "int8": rough} for name, (exact, rough) in result.nme.items()},
    }


def public_name(source: str) -> str:
    """A source's name without where it lies on this machine."""
    return source if source.startswith("synth:") else Path(source).name
