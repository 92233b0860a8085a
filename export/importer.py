"""Weights of another project become a checkpoint of ours: identified, given a spec, proven against their source."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn

from export.foreign import read_state_dict
from export.identify import Identity, foreign_project, identify, layout_for, outline, with_width
from export.onnx_file import MAX_ONNX_BYTES, parse_onnx, spec_of
from export.onnx_weights import named_as, read_weights
from export.presets import PRESETS, RECOGNISED, preset_named
from export.probes import ProbeFaces, open_probes
from runtime.backends.ort import OrtModel
from runtime.errors import CheckFailedError, InputError, UsageError
from runtime.files import atomic_path, read_bytes, read_json, require_file, sha256_bytes, sha256_file
from runtime.spec import ChannelOrder, Coordinates, CropRule, ModelSpec, Rounding
from train.checkpoint import Checkpoint, Kind, load_model, save_checkpoint
from train.models.zoo import FAMILY, ZOO

PROOF_LIMIT = 1e-5
"""Largest difference of an output (in crop sides) between the imported model and its ONNX source."""
_ARCHIVE_HEADS = (b"PK\x03\x04", b"\x80")
_ARCHIVE_SUFFIXES = frozenset({".pth", ".pt", ".tar", ".ckpt", ".bin", ".pkl"})
_INPUT_FLAGS = ("channels", "mean", "std", "crop_scale", "coordinates")
_PLAIN = ("channels", "mean", "std", "coordinates", "layout", "normaliser")
"""Flags that are fields of the spec by the same name."""
_SPEC_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class SpecFlags:
    """What the user says about the model; None is left to the weights, the preset or the file."""

    preset: str | None = None
    architecture: str | None = None
    width: float | None = None
    points: int | None = None
    input_size: int | None = None
    channels: ChannelOrder | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    crop_scale: float | None = None
    crop_rounding: Rounding | None = None
    coordinates: Coordinates | None = None
    layout: str | None = None
    normaliser: str | None = None


@dataclass(frozen=True)
class Proof:
    """What was run before the checkpoint got its name."""

    what: str
    faces: str
    difference: float | None
    """Largest output difference against the source; None where the source cannot run by itself."""
    limit: float


@dataclass(frozen=True)
class Imported:
    """A finished import."""

    path: Path
    source: str
    source_sha256: str
    sha256: str
    kind: Kind
    spec: ModelSpec
    weights: int
    notes: tuple[str, ...]
    proof: Proof


@dataclass(frozen=True)
class _Source:
    """Weights with the names of one of our models."""

    sha256: str
    state: dict[str, Tensor]
    identity: Identity
    notes: tuple[str, ...]
    onnx: bytes | None = None
    embedded: ModelSpec | None = None


def import_file(
    path: Path | str,
    out: Path | str,
    flags: SpecFlags | None = None,
    *,
    key: str | None = None,
    faces: str | None = None,
    count: int | None = None,
    force: bool = False,
) -> Imported:
    """Read, identify, prove and save; on any failure nothing is written."""
    flags = flags or SpecFlags()
    source_path, target = require_file(path), Path(out)
    _refuse_target(source_path, target, force)
    if flags.preset is not None and not flags.preset.endswith(".json"):
        preset_named(flags.preset)
    source = _read(source_path, flags, key)
    spec, notes = decide_spec(source.identity, flags, source.sha256, source.embedded, str(path))
    probes = open_probes(faces, count)
    checkpoint = Checkpoint(source.identity.kind, spec, source.state, parent=source.sha256)
    with atomic_path(target) as temporary:
        save_checkpoint(temporary, checkpoint)
        proof = _prove(temporary, source, probes, spec)
        digest = sha256_file(temporary)
    return Imported(
        target,
        str(path),
        source.sha256,
        digest,
        checkpoint.kind,
        spec,
        len(source.state),
        (*source.notes, *notes),
        proof,
    )


def _refuse_target(source: Path, target: Path, force: bool) -> None:
    if target.is_dir():
        raise UsageError(f"{target}: is a directory; give -o a file name, such as {target / (source.stem + '.ckpt')}")
    if target.exists() and target.samefile(source):
        raise UsageError(f"{target}: is the file to import; choose another name with -o")
    if target.exists() and not force:
        raise UsageError(f"{target}: is there already; choose another name with -o, or say --force")


def looks_like_archive(path: Path) -> bool:
    """Whether a file is to be read as a PyTorch file; anything else is taken for ONNX."""
    try:
        with path.open("rb") as stream:
            head = stream.read(4)
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror or error}") from error
    suffix = path.suffix.lower()
    return any(head.startswith(magic) for magic in _ARCHIVE_HEADS) or suffix in _ARCHIVE_SUFFIXES


def _read(path: Path, flags: SpecFlags, key: str | None) -> _Source:
    if looks_like_archive(path):
        found = read_state_dict(path, key)
        identity = identify(found.tensors, str(path), flags.architecture)
        return _Source(sha256_file(path), found.tensors, identity, found.notes)
    if key is not None:
        raise UsageError(f"{path}: --key is for PyTorch files; an ONNX file has no keys")
    data = read_bytes(path, MAX_ONNX_BYTES)
    model = parse_onnx(data, str(path))
    embedded = spec_of(model, str(path))
    state, identity = identify_onnx(model, str(path), flags.architecture)
    return _Source(sha256_bytes(data), state, identity, (), data, embedded)


def identify_onnx(model: ModelProto, where: str, architecture: str | None = None) -> tuple[dict[str, Tensor], Identity]:
    """Names and identity for the weights of an ONNX graph of the family."""
    names = [tensor.name for tensor in model.graph.initializer]
    if project := foreign_project(names):
        raise InputError(f"{where}: this looks like {project}; it is not of the family ({', '.join(FAMILY)})")
    weights = read_weights(model, where)
    counts: dict[str, int] = {}
    for name in [architecture] if architecture else FAMILY:
        model_outline = outline(name)
        counts[name] = sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in model_outline.modules())
        if counts[name] == len(weights):
            state = named_as(weights, model_outline, where)
            return state, identify(state, where, architecture)
    known = ", ".join(f"{name} has {count}" for name, count in counts.items())
    raise InputError(f"{where}: a graph with {len(weights)} weighted layers fits none of: {known}")


def decide_spec(
    identity: Identity, flags: SpecFlags, sha256: str, embedded: ModelSpec | None, where: str
) -> tuple[ModelSpec, tuple[str, ...]]:
    """The spec of an imported model: shapes from its weights, the meaning of its input from what it is known by."""
    if flags.width is not None:
        identity = with_width(identity, flags.width)
    given = [name for name in _INPUT_FLAGS if getattr(flags, name) is not None]
    known = RECOGNISED.get(sha256)
    if flags.preset is not None:
        spec = _preset_spec(flags.preset, identity)
        if embedded is not None and embedded != spec:
            raise UsageError(f"{where}: --spec {flags.preset} contradicts the spec in the file's metadata; drop --spec")
        return _checked(spec, identity, flags, where), ()
    if embedded is not None:
        return _checked(embedded, identity, flags, where), ("spec read from the file's metadata",)
    if known is not None and len(given) < len(_INPUT_FLAGS):
        what, name = known
        spec = _checked(_preset_spec(name, identity), identity, flags, where)
        return spec, (f"recognised by its hash: {what}; using --spec {name}",)
    missing = ["--" + name.replace("_", "-") for name in _INPUT_FLAGS if name not in given]
    if missing:
        fitting = [p.name for p in PRESETS.values() if p.architecture == identity.architecture]
        raise UsageError(
            f"{where}: a {identity.architecture} of width {identity.width:g} with {identity.points} points, but "
            f"nothing says what its input means; name a preset (--spec {' or '.join(fitting)}; "
            f"all: {', '.join(PRESETS)}) or give the missing flags {' '.join(missing)}"
        )
    plain = replace(identity.spec(), **{name: value for name in _PLAIN if (value := getattr(flags, name)) is not None})
    scale = plain.crop.scale if flags.crop_scale is None else flags.crop_scale
    crop = CropRule(scale=scale, rounding=flags.crop_rounding or "none")
    return _checked(replace(plain, crop=crop), identity, flags, where), ()


def _preset_spec(name: str, identity: Identity) -> ModelSpec:
    if name.endswith(".json"):
        return ModelSpec.from_dict(read_json(name, _SPEC_FILE_BYTES), name)
    preset = preset_named(name)
    return ModelSpec(
        preset.architecture,
        identity.width,
        identity.points,
        identity.input_size,
        identity.branches,
        layout_for(identity.points),
        preset.channels,
        preset.mean,
        preset.std,
        preset.crop,
        preset.coordinates,
    )


def _checked(spec: ModelSpec, identity: Identity, flags: SpecFlags, where: str) -> ModelSpec:
    """Every flag, and everything the weights tell, must agree with the spec."""
    told = ["architecture", "points", "input_size", "width"]
    if identity.kind == "multi-branch" and ZOO[identity.architecture].multi_branch:
        told.append("branches")
    for name in told:
        if name == "width":
            identity = with_width(identity, spec.width)
        said, found = getattr(spec, name), getattr(identity, name)
        if said != found:
            raise UsageError(f"{where}: the spec says {name.replace('_', ' ')} {said}, but the weights say {found}")
    actual: dict[str, object] = {f.name: getattr(spec, f.name, None) for f in fields(SpecFlags)}
    actual |= {"crop_scale": spec.crop.scale, "crop_rounding": spec.crop.rounding}
    for field in fields(SpecFlags):
        wanted = getattr(flags, field.name)
        if field.name != "preset" and wanted is not None and wanted != actual[field.name]:
            flag, words = "--" + field.name.replace("_", "-"), field.name.replace("_", " ")
            raise UsageError(f"{where}: {flag} {wanted} contradicts the model, whose {words} is {actual[field.name]}")
    return spec


def _prove(path: Path, source: _Source, probes: ProbeFaces, spec: ModelSpec) -> Proof:
    """Load the file that is about to ship and hold it against its source; any doubt is an error."""
    model, checkpoint = load_model(path)
    for name, tensor in checkpoint.model.items():
        if not torch.equal(tensor, source.state[name]):
            raise CheckFailedError(f"{path}: weight {name} came back changed from the disk; nothing was imported")
    inputs, _ = probes.crop(spec)
    with torch.inference_mode():
        output = np.asarray(model(torch.from_numpy(inputs)).numpy())
    if not np.isfinite(output).all():
        raise CheckFailedError(f"{probes.name}: the imported model gives NaN or infinity; nothing was imported")
    if source.onnx is None:
        what = "strict load, weights unchanged on disk, finite outputs"
        return Proof(what, probes.name, None, PROOF_LIMIT)
    wanted = _source_outputs(source.onnx, inputs)
    if wanted.shape != output.shape:
        raise CheckFailedError(f"the source gives outputs of shape {wanted.shape}, the imported model {output.shape}")
    difference = float(np.abs(output.astype(np.float64) - wanted).max())
    if not difference <= PROOF_LIMIT:
        raise CheckFailedError(
            f"{probes.name}: the imported model differs from its source by {difference:.3g} of the crop, the limit is "
            f"{PROOF_LIMIT:g}; the graph is wired otherwise than {spec.architecture}, nothing was imported"
        )
    return Proof("outputs equal to the source's in ONNX Runtime", probes.name, difference, PROOF_LIMIT)


def _source_outputs(data: bytes, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    source = OrtModel(data)
    if source.input_shape[1:] != inputs.shape[1:] and all(isinstance(n, int) for n in source.input_shape[1:]):
        raise CheckFailedError(f"the source takes inputs of shape {source.input_shape}, its weights {inputs.shape}")
    pieces = [np.asarray(source(inputs[i : i + 1]), dtype=np.float64) for i in range(len(inputs))]
    return np.concatenate(pieces).reshape(len(inputs), -1)
