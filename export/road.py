"""The road from a checkpoint to a bundle: every link made, measured, and stopped at when its limit breaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from torch import nn

from calib.quantize import Mode
from calib.select import DEFAULT_COUNT
from export.bundle import BundleWriter, new_bundle, refuse_target
from export.formats.convert import require_homes
from export.formats.links import Truth as FormatTruth
from export.formats.road import add_formats
from export.fp16 import audit, half_outputs, to_half
from export.fuse import fuse
from export.links import (
    MIN_PROBES,
    fuse_checks,
    half_checks,
    onnx_checks,
    require_passed,
    simplify_check,
    truth,
)
from export.links_c import CRequest, Truth, int8_truth, refuse_c_request, refuse_int8_c
from export.onnx_export import DEFAULT_OPSET, Exporter, check_export_options, export_graph
from export.onnx_file import parse_onnx, to_bytes
from export.probes import DEFAULT_SOURCE, open_probes
from export.ranges import Range, measure_ranges
from export.road_c import add_c
from export.road_int8 import Int8Request, add_int8, public_name, refuse_request
from export.road_qat import TRAINED, LabelledGate, add_trained_int8, refuse_untrained
from export.simplify import simplify
from export.tensorrt_build import PRECISIONS, add_engines, find_place
from export.tensorrt_rules import BuildOptions, refuse_options
from export.tidy import refuse_host_traces
from runtime.backends.ort import OrtModel
from runtime.bundle import Manifest, Source, arrays_to_bytes
from runtime.engine import Precision
from runtime.errors import InputError, UsageError
from runtime.files import read_bytes, require_file, sha256_bytes, sha256_file
from runtime.geometry import crop_region, network_input, warp
from runtime.spec import ModelSpec
from train.archive import MAX_FILE_BYTES
from train.checkpoint import Checkpoint, load_checkpoint, model_of, save_checkpoint
from train.data.boxes import open_unlabelled
from train.data.open import splits_in
from train.data.sample import FaceSource
from train.evaluate import face_box

AUDIT_FACES = 64
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What `toolkit export` was asked for."""

    opset: int = DEFAULT_OPSET
    exporter: Exporter = "dynamo"
    fp16: bool = False
    probes: str = DEFAULT_SOURCE
    """Source of the faces that travel in the bundle."""
    audit: str | None = None
    """Source of the faces that ranges are measured on; the probes' source when None."""
    int8: Mode | Literal["qat"] | None = None
    """How int8 comes about: calibrated, or with the steps that the checkpoint was trained with."""
    calib_count: int = DEFAULT_COUNT
    max_drop: float = 0.01
    """Limit of the NME increase on `labelled`, as a fraction."""
    labelled: str | None = None
    """Labelled faces for the int8 gate; without them the landmark shift on held-back faces is limited."""
    c: CRequest | None = None
    engines: BuildOptions | None = None
    """TensorRT engines of every ONNX file, for the GPU that is here."""
    formats: tuple[str, ...] = ()
    """Files for engines of others, names of `runtime.backends.formats.FORMATS`."""
    seed: int = 0
    cache: Path | None = None
    """File that keeps what calibration found, for a later export of the same model, faces and settings."""
    force: bool = False


def export_bundle(checkpoint: Path | str, target: Path | str, options: Options, say: Say = lambda _: None) -> Manifest:
    """Make, measure and write everything; on any failure nothing is left at the target."""
    source_path, place = Path(checkpoint), Path(target)
    check_export_options(options.opset, options.exporter)
    refuse_target(place, options.force)
    if options.int8 == TRAINED:
        LabelledGate(options.labelled, options.max_drop, options.seed).refuse_empty()
    elif options.int8 is not None:
        refuse_request(int8_request(options))
    if options.c is not None:
        refuse_c_request(options.c)
        if "int8" in options.c.precisions and options.int8 is None:
            raise UsageError("int8 C is made from the int8 model: add --int8 fast, best or qat")
    place_of_engines = None if options.engines is None else find_place()
    if options.engines is not None and place_of_engines is not None:
        refuse_options(options.engines, place_of_engines.able)
    homes = require_homes(options.formats)
    _refuse_onnx(source_path)
    loaded = load_checkpoint(source_path)
    if options.int8 == TRAINED:
        refuse_untrained(loaded, str(source_path))
    model_of(loaded, str(source_path))
    source = Source(sha256_file(source_path), loaded.kind, loaded.parent)
    faces = crop_uint8(options.probes, loaded.spec)
    audited = faces if options.audit is None else _audit_crops(options.audit, loaded.spec)
    if len(faces) < MIN_PROBES:
        raise UsageError(f"{options.probes}: {len(faces)} faces, the proofs need at least {MIN_PROBES}")
    with new_bundle(place, options.force) as writer:
        say("fused checkpoint")
        spec, probes = loaded.spec, network_input(faces, loaded.spec)
        fused = _add_checkpoints(writer, source_path, loaded, source, probes)
        model = model_of(fused, "fused checkpoint")
        say(f"ONNX opset {options.opset}, {options.exporter} exporter")
        graph = _add_onnx(writer, model, spec, probes, options)
        if options.c is not None and "int8" in options.c.precisions:
            refuse_int8_c(graph, spec)
        arrays: dict[str, NDArray[np.generic]] = {"crops": faces, "fp32": OrtModel(to_bytes(graph))(probes)}
        if options.c is not None and "fp32" in options.c.precisions:
            exact = Truth(*truth(model, probes), arrays["fp32"].astype(np.float32))
            add_c(writer, graph, spec, faces, "fp32", options.c, exact, say)
        if options.fp16:
            say("float16")
            half = _add_half(writer, graph, spec, probes, audited, options.audit or options.probes)
            arrays["fp16"] = half_outputs(half, probes)
        if options.int8 is not None:
            say(f"int8, {options.int8}")
            if options.int8 == TRAINED:
                gate = LabelledGate(options.labelled, options.max_drop, options.seed)
                arrays |= add_trained_int8(writer, graph, loaded, probes, gate, say)
            else:
                if loaded.int8 is not None:
                    say("the checkpoint carries int8 steps of its training; calibrated anew, --int8 qat would use them")
                arrays |= add_int8(writer, graph, spec, probes, int8_request(options), say)
        if options.c is not None and "int8" in options.c.precisions:
            quantised = parse_onnx((writer.directory / writer["int8"].file).read_bytes(), "model.int8.onnx")
            integers = int8_truth(quantised, spec, arrays["int8"].astype(np.float32))
            add_c(writer, quantised, spec, faces, "int8", options.c, integers, say)
        others: list[str] = []
        if homes:
            expected = FormatTruth(
                *truth(model, probes),
                arrays["fp32"].astype(np.float32),
                arrays["int8"].astype(np.float32) if "int8" in arrays else None,
                float(writer["int8"].settings["shift limit on the probes, %"]) if "int8" in arrays else 0.0,
            )
            others = add_formats(writer, spec, probes, homes, list(arrays), expected, say)
        say("manifest")
        probe = writer.add(
            "probe", "probe", "probe.npz", arrays_to_bytes(arrays), settings={"faces": public_name(options.probes)}
        )
        for name in ("fused", "fp32", "fp16", "int8", "c", "c-int8", *others):
            if name in writer:
                writer.measured_on(name, probe)
        if options.engines is not None and place_of_engines is not None:
            made: list[Precision] = [p for p in PRECISIONS if p in arrays]
            add_engines(writer, spec, made, probes, place_of_engines, options.engines, say)
        return writer.finish(spec, source)


def _refuse_onnx(path: Path) -> None:
    with require_file(path).open("rb") as stream:
        head = stream.read(2)
    if path.suffix.lower() == ".onnx" or head[:1] == b"\x08":
        raise InputError(
            f"{path}: an ONNX model, not a checkpoint; bring it in with 'toolkit import {path.name}' first"
        )


def int8_request(options: Options) -> Int8Request:
    """The part of the options that calibration needs."""
    if options.int8 is None or options.int8 == "qat" or options.audit is None:
        raise UsageError("int8 needs faces to calibrate on: give --calib")
    return Int8Request(
        options.int8,
        options.audit,
        options.calib_count,
        options.max_drop,
        options.labelled,
        options.seed,
        options.cache,
    )


def crop_uint8(text: str, spec: ModelSpec) -> NDArray[np.uint8]:
    """The probes of a source, evenly spread, as the runtime crops them."""
    faces = open_probes(text, None, "train" if splits_in(text) else None)
    return _cut(faces.source, faces.indices, spec)


def _audit_crops(text: str, spec: ModelSpec) -> NDArray[np.uint8]:
    """Up to `AUDIT_FACES` calibration faces, evenly spread, as the runtime crops them."""
    source = open_unlabelled(text, split="train")
    wanted = min(AUDIT_FACES, len(source))
    return _cut(source, [i * len(source) // wanted for i in range(wanted)], spec)


def _cut(source: FaceSource, indices: Sequence[int], spec: ModelSpec) -> NDArray[np.uint8]:
    size = spec.input_size
    crops = np.empty((len(indices), size, size, 3), dtype=np.uint8)
    for row, index in enumerate(indices):
        region = crop_region(face_box(source.sample(index), spec), spec.crop)
        crops[row] = warp(source.photo(index), region.to_crop(size), size, spec.crop.padding)
    return crops


def _add_checkpoints(
    writer: BundleWriter, path: Path, loaded: Checkpoint, source: Source, probes: NDArray[np.float32]
) -> Checkpoint:
    """The fused checkpoint, and before it the multi-branch one if that was given, without what proofs do not need."""
    if loaded.kind == "fused":
        data = read_bytes(path, MAX_FILE_BYTES)
        if sha256_bytes(data) != source.sha256:
            raise InputError(f"{path}: changed while it was read")
        if loaded.state:  # a run's own file: neither its progress nor the paths of its faces travel
            loaded = Checkpoint("fused", loaded.spec, loaded.weights, parent=source.sha256, int8=loaded.int8)
            data = checkpoint_bytes(loaded)
        writer.add("fused", "checkpoint", "fused.ckpt", data)
        return loaded
    bare = Checkpoint("multi-branch", loaded.spec, loaded.weights, parent=source.sha256)
    branched = model_of(bare)
    model = writer.add("model", "checkpoint", "model.ckpt", checkpoint_bytes(bare))
    try:
        network = fuse(branched, loaded.spec)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    fused = Checkpoint("fused", loaded.spec, network.state_dict(), parent=model.sha256)
    checks = fuse_checks(branched, network, fused.spec, probes)
    require_passed(checks, "fuse")
    writer.add("fused", "checkpoint", "fused.ckpt", checkpoint_bytes(fused), "model", checks=checks)
    return fused


def checkpoint_bytes(checkpoint: Checkpoint) -> bytes:
    """A checkpoint as the bytes of its file."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        save_checkpoint(path, checkpoint)
        return path.read_bytes()


def _add_onnx(
    writer: BundleWriter, model: nn.Module, spec: ModelSpec, probes: NDArray[np.float32], options: Options
) -> ModelProto:
    exact, limit = truth(model, probes)
    raw = export_graph(model, spec, opset=options.opset, exporter=options.exporter)
    simplified = simplify(raw, spec, probes, limit)
    data = to_bytes(simplified.model)
    refuse_host_traces(data, "model.onnx")
    checks = [
        *onnx_checks(model, simplified.model, spec, probes, exact, limit),
        simplify_check(simplified.ulps, limit),
    ]
    require_passed(checks, "ONNX")
    settings = {
        "opset": options.opset,
        "exporter": options.exporter,
        "simplifier": simplified.simplifier,
        "nodes as exported": simplified.nodes_before,
        "nodes": len(simplified.model.graph.node),
    }
    writer.add("fp32", "onnx", "model.onnx", data, "fused", settings, checks)
    return simplified.model


def _add_half(
    writer: BundleWriter,
    graph: ModelProto,
    spec: ModelSpec,
    probes: NDArray[np.float32],
    faces: NDArray[np.uint8],
    name: str,
) -> ModelProto:
    ranges = measure_ranges(graph, network_input(faces, spec))
    kept = audit(graph, ranges)
    half = to_half(graph, spec, [k.node for k in kept])
    data = to_bytes(half)
    refuse_host_traces(data, "model.fp16.onnx")
    checks = half_checks(graph, half, [k.node for k in kept], spec, probes)
    require_passed(checks, "float16")
    settings = {
        "kept in float32": {k.node: k.reason for k in kept},
        "audit": {
            "faces": len(faces),
            "source": public_name(name),
            "sha256": sha256_bytes(faces.tobytes()),
            **_extremes(ranges),
        },
    }
    writer.add("fp16", "onnx", "model.fp16.onnx", data, "fp32", settings, checks)
    return half


def _extremes(ranges: dict[str, Range]) -> dict[str, object]:
    largest = max(ranges.values(), key=lambda r: r.largest)
    smallest = min((r for r in ranges.values() if r.largest > 0), key=lambda r: r.rms)
    return {
        "largest": {"tensor": largest.name, "magnitude": largest.largest},
        "smallest": {"tensor": smallest.name, "rms": smallest.rms, "least magnitude": smallest.smallest},
    }
