"""Engines of a bundle, for the GPU that is here: `toolkit build-engine` and `toolkit export --tensorrt`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.bundle import BundleWriter
from export.bundle_extend import addition, extend_bundle, refuse_addition
from export.tensorrt import Progress, check_graph, find_tensorrt
from export.tensorrt_engine import Engine, Place, Source, engine_name, make_engine
from export.tensorrt_rules import BuildOptions, refuse_options
from runtime.backends.cuda import Cuda
from runtime.bundle import Artefact, Bundle, read_arrays
from runtime.engine import Calibration, Precision
from runtime.errors import InputError, MissingBackendError, UsageError
from runtime.geometry import network_input
from runtime.gpu import probe_gpu
from runtime.spec import ModelSpec

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
Say = Callable[[str], object]


@dataclass(frozen=True)
class Request:
    """Which engines, and how."""

    precisions: tuple[Precision, ...] = ()
    """Empty: every precision that the bundle has."""
    options: BuildOptions = field(default_factory=BuildOptions)
    module: str = "tensorrt"
    calib: str | None = None
    """Faces for a legacy calibrator."""
    calib_count: int = 512
    seed: int = 0


def find_place(module: str = "tensorrt") -> Place:
    """The GPU first, for TensorRT crashes without one; then TensorRT; then the CUDA runtime."""
    try:
        gpu = probe_gpu()
        return Place(find_tensorrt(module), gpu, Cuda())
    except MissingBackendError as error:
        raise MissingBackendError(
            f"engines are built on the device that runs them: {error}. Without it, export the bundle here and run "
            "'toolkit build-engine BUNDLE' there"
        ) from error


def build_engines(
    directory: Path | str,
    request: Request,
    *,
    force: bool = False,
    say: Say = lambda _: None,
    progress: Progress = lambda _phase, _share: None,
) -> list[Engine]:
    """Add engines to a bundle; on any failure, or Ctrl-C, the bundle is what it was."""
    bundle = Bundle.open(directory)
    wanted = _precisions(bundle, request)
    place = find_place(request.module)
    refuse_options(request.options, place.able)
    refuse_addition(bundle, [engine_name(p, place, request.options)[0] for p in wanted], force)
    sources = [_source(bundle, precision, request) for precision in wanted]
    for source in sources:
        check_graph(source.data, place.able, source.file)
    probe = bundle.manifest.artefact("probe")
    probes = _probes(bundle)
    sources = [_with_faces(source, bundle.spec, request, say) for source in sources]
    engines = [
        make_engine(place, s, bundle.spec, probes, probe.sha256, request.options, say=say, progress=progress)
        for s in sources
    ]
    additions = [
        addition(artefact, data)
        for source, engine in zip(sources, engines, strict=True)
        for artefact, data in engine.artefacts(_parent(bundle, source).sha256)
    ]
    extend_bundle(bundle, additions, force)
    return engines


def add_engines(
    writer: BundleWriter,
    spec: ModelSpec,
    precisions: Sequence[Precision],
    probes: NDArray[np.float32],
    place: Place,
    options: BuildOptions,
    say: Say = lambda _: None,
    progress: Progress = lambda _phase, _share: None,
) -> list[Engine]:
    """Engines for a bundle that is being made; its ONNX files and probes are in it already."""
    engines = []
    for precision in precisions:
        artefact = writer[precision]
        data = (writer.directory / artefact.file).read_bytes()
        source = Source(precision, artefact.file, data, _calibrated(artefact))
        check_graph(data, place.able, artefact.file)
        engine = make_engine(place, source, spec, probes, writer["probe"].sha256, options, say=say, progress=progress)
        (plan, plan_data), (card, card_data) = engine.artefacts(artefact.sha256)
        writer.add(plan.name, plan.kind, plan.file, plan_data, precision, plan.settings, plan.checks)
        writer.add(card.name, card.kind, card.file, card_data, plan.name)
        engines.append(engine)
    return engines


def _precisions(bundle: Bundle, request: Request) -> tuple[Precision, ...]:
    if request.options.legacy is not None:
        if request.precisions not in ((), ("int8",)):
            raise UsageError("--legacy-calibrator makes an int8 engine; leave --fp32 and --fp16 out")
        if request.calib is None:
            raise UsageError("--legacy-calibrator needs faces to calibrate on: give --calib")
        return ("int8",)
    if request.calib is not None:
        raise UsageError("--calib is for --legacy-calibrator; the bundle's int8 model carries its scales already")
    have = tuple(p for p in PRECISIONS if bundle.manifest.has(p))
    for precision in request.precisions:
        if precision not in have:
            raise UsageError(
                f"{bundle.directory}: has no {precision} model, it has: {', '.join(have)}; export the bundle with "
                f"--{precision} first"
            )
    return request.precisions or have


def _parent(bundle: Bundle, source: Source) -> Artefact:
    return next(a for a in bundle.manifest.artefacts if a.file == source.file)


def _source(bundle: Bundle, precision: Precision, request: Request) -> Source:
    name = "fp32" if request.options.legacy else precision
    artefact = bundle.manifest.artefact(name)
    return Source(precision, artefact.file, bundle.read(name), _calibrated(artefact))


def _calibrated(artefact: Artefact) -> Calibration | None:
    facts = artefact.settings.get("calibration")
    return Calibration("toolkit", str(facts["sha256"])) if isinstance(facts, dict) and "sha256" in facts else None


def _with_faces(source: Source, spec: ModelSpec, request: Request, say: Say) -> Source:
    """Our choice of calibration faces for TensorRT's calibrator."""
    if request.options.legacy is None or request.calib is None:
        return source
    from calib.augment import centre
    from calib.select import select_faces
    from runtime.backends.ort import OrtModel
    from train.data.open import open_source, splits_in

    say(f"choosing {request.calib_count} calibration faces")
    session = OrtModel(source.data)
    split = "train" if splits_in(request.calib) else None
    faces = select_faces(
        open_source(request.calib, split=split),  # type: ignore[arg-type]
        spec,
        request.calib_count,
        lambda crops: np.asarray(session(network_input(crops, spec)), dtype=np.float32),
        seed=request.seed,
    )
    crops = np.ascontiguousarray(centre(faces.images, spec.input_size))
    return replace(source, faces=crops, calibration=Calibration(request.options.legacy, faces.digest))


def _probes(bundle: Bundle) -> NDArray[np.float32]:
    arrays = read_arrays(bundle.read("probe"), "probe.npz")
    if "crops" not in arrays or not len(arrays["crops"]):
        raise InputError(f"{bundle.directory}: its probe.npz holds no faces to measure engines on")
    return network_input(arrays["crops"], bundle.spec)
