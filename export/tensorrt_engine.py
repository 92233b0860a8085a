"""One engine, built, inspected, measured against ONNX Runtime and described; or nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle import own_version
from export.onnx_file import parse_onnx
from export.shift import landmark_shift
from export.tensorrt import Progress, build_plan
from export.tensorrt_cache import BuildCache, CalibrationTable, slug
from export.tensorrt_calibrator import FaceFeeder, make_calibrator
from export.tensorrt_inspect import Inspected, inspect_engine, require_honest
from export.tensorrt_rules import Abilities, BuildOptions, abilities_of
from runtime.backends.cuda import Cuda
from runtime.backends.ort import OrtModel
from runtime.backends.tensorrt import KIND, TensorRtModel
from runtime.bundle import Artefact, Check
from runtime.engine import (
    SUFFIX,
    Built,
    Calibration,
    EngineCard,
    EngineOptions,
    Port,
    Precision,
)
from runtime.errors import CheckFailedError
from runtime.files import sha256_bytes
from runtime.gpu import Gpu, platform_name
from runtime.spec import ModelSpec

CARD_KIND = "tensorrt-card"
SHIFT_LIMITS: dict[Precision, float] = {"fp32": 0.01, "fp16": 0.1, "int8": 0.5}
"""How far an engine may move the landmarks from ONNX Runtime on the same file, mean in percent of the eye distance.

float32 without TF32 differs by the order of its sums; float16 rounds other intermediate values than ONNX Runtime on a
CPU does, which computes some of them in float32; int8 may round a tie the other way.
"""
LEGACY_SHIFT_LIMIT = 5.0
"""From the float32 file: TensorRT's calibrators choose their own scales, and this is the price of a usable result."""


@dataclass(frozen=True)
class Source:
    """The ONNX file that an engine is made of."""

    precision: Precision
    file: str
    data: bytes
    calibration: Calibration | None = None
    faces: NDArray[np.uint8] | None = None
    """Crops for a legacy calibrator."""


@dataclass(frozen=True)
class Place:
    """Where the engine is built: the module, the GPU, the CUDA runtime."""

    trt: Any
    gpu: Gpu
    cuda: Cuda

    @property
    def able(self) -> Abilities:
        return abilities_of(self.trt)


@dataclass(frozen=True)
class Engine:
    """A proven engine."""

    name: str
    file: str
    plan: bytes
    card: EngineCard
    warnings: tuple[str, ...]

    def artefacts(self, parent: str) -> tuple[tuple[Artefact, bytes], tuple[Artefact, bytes]]:
        """The plan and its sidecar as a bundle lists them; `parent` is the hash of the ONNX file."""
        card = self.card.to_bytes()
        settings = {
            "gpu": f"{self.card.gpu_name} (SM {self.card.gpu_sm})",
            "tensorrt": self.card.built.version,
            "layers": dict(self.card.layers),
        }
        plan = Artefact(
            self.name, self.file, KIND, sha256_bytes(self.plan), len(self.plan), parent, settings, self.card.checks
        )
        return (plan, self.plan), (
            Artefact(
                f"{self.name}.card", self.file + SUFFIX, CARD_KIND, sha256_bytes(card), len(card), plan.sha256, {}
            ),
            card,
        )


def engine_name(precision: Precision, place: Place, options: BuildOptions) -> tuple[str, str]:
    """Name and file in the bundle: one for each precision, GPU and version, so that several boards share a bundle."""
    kind = f"{precision}-{options.legacy}" if options.legacy else precision
    where = f"{slug(place.gpu.name)[:20].strip('-')}-sm{place.gpu.sm}-{slug(place.able.version)}"
    return f"trt-{kind}-{where}"[:58], f"trt/{kind}-{where}.plan"


def estimate(place: Place, options: BuildOptions, precision: Precision) -> str:
    """What to expect before the build begins."""
    cache = BuildCache.of(place.gpu, place.able)
    before = cache.last_seconds(_cost_key(precision, options))
    if before is not None:
        return f"the last such build here took {before:.0f} s"
    known = " (tactics measured here before will be used)" if options.timing_cache and cache.timings.exists() else ""
    return f"first such build here: expect one to five minutes at level {options.level}, longest on small boards{known}"


def make_engine(
    place: Place,
    source: Source,
    spec: ModelSpec,
    probes: NDArray[np.float32],
    probe_sha256: str,
    options: BuildOptions,
    *,
    say: Callable[[str], object] = lambda _: None,
    progress: Progress = lambda _phase, _share: None,
) -> Engine:
    """Build, inspect and measure; a failed check is an error, and nothing is kept."""
    name, file = engine_name(source.precision, place, options)
    cache = BuildCache.of(place.gpu, place.able)
    say(f"{file}: {estimate(place, options, source.precision)}")
    feeder = None if source.faces is None else FaceFeeder(source.faces, spec, place.cuda)
    try:
        built = build_plan(
            place.trt,
            source.data,
            source.precision,
            options,
            where=source.file,
            calibrator=None if feeder is None else _calibrator(place, source, feeder, options),
            calibration_batch=1 if feeder is None else feeder.batch,
            timings=cache.load() if options.timing_cache else None,
            progress=progress,
        )
    finally:
        if feeder is not None:
            feeder.close()
    if built.timings:
        cache.store(built.timings)
    cache.took(_cost_key(source.precision, options), built.seconds)
    card = _card(place, source, spec, options, built.data, built.typing)
    with TensorRtModel(built.data, card, where=file, cuda=place.cuda) as model:
        found = inspect_engine(place.trt, model.engine, options.profile)
        require_honest(found, source.precision, (card.input.name, card.output.name), file)
        checks = engine_checks(model, source, spec, probes, legacy=options.legacy is not None)
    for check in checks:
        if not check.passed:
            raise CheckFailedError(
                f"{file}: {check.name} is {check.value:.4g} ({check.metric}), the limit is {check.limit:.4g}; "
                "nothing was written"
            )
    proven = tuple(replace(check, data=probe_sha256) for check in checks)
    return Engine(name, file, built.data, _described(card, found, proven), built.warnings)


def engine_checks(
    model: TensorRtModel, source: Source, spec: ModelSpec, probes: NDArray[np.float32], *, legacy: bool = False
) -> list[Check]:
    """An engine against ONNX Runtime on the same file: all faces at once, one by one, and replayed."""
    reference = OrtModel(source.data, optimise=source.precision != "int8")(probes)
    runs = [model.outputs(probes), model.outputs(probes), model.outputs(probes)]
    runs.append(np.concatenate([model.outputs(probes[i : i + 1]) for i in range(len(probes))]))
    shifts = [landmark_shift(run, reference, spec) for run in runs]
    worst = max(shift.mean_percent for shift in shifts)
    limit = LEGACY_SHIFT_LIMIT if legacy else SHIFT_LIMITS[source.precision]
    against = "the float32 file" if legacy else "the same file"
    metric = f"mean landmark shift from ONNX Runtime on {against}, % of {shifts[0].normaliser}"
    return [Check("engine-shift", metric, worst, limit)]


def _calibrator(place: Place, source: Source, feeder: FaceFeeder, options: BuildOptions) -> Any:
    if options.legacy is None or source.calibration is None:
        raise ValueError("faces without a legacy calibrator")
    table = CalibrationTable.of(sha256_bytes(source.data), source.calibration.sha256, options.legacy, place.able)
    return make_calibrator(place.trt, options.legacy, feeder, table)


def _card(place: Place, source: Source, spec: ModelSpec, options: BuildOptions, plan: bytes, typing: Any) -> EngineCard:
    graph = parse_onnx(source.data, source.file).graph
    constants = {tensor.name for tensor in graph.initializer}
    given = next(info.name for info in graph.input if info.name not in constants)
    size = spec.input_size
    ports = (
        Port(given, "input", "float32", (-1, 3, size, size)),
        Port(graph.output[0].name, "output", "float32", (-1, 2 * spec.points)),
    )
    able = place.able
    return EngineCard(
        sha256_bytes(plan),
        len(plan),
        Built(able.module, able.version, place.cuda.version, place.gpu.driver, platform_name()),
        place.gpu.name,
        place.gpu.sm,
        source.file,
        sha256_bytes(source.data),
        source.precision,
        options.profile,
        ports,
        {},
        EngineOptions(typing, options.level, options.workspace_mib, options.version_compatible, options.hardware),
        spec,
        own_version(),
        source.calibration,
    )


def _described(card: EngineCard, found: Inspected, checks: tuple[Check, ...]) -> EngineCard:
    return replace(card, ports=found.ports, layers=found.layers, checks=checks)


def _cost_key(precision: Precision, options: BuildOptions) -> str:
    return f"{precision}-{options.legacy or 'graph'}-level{options.level}"
