"""From a float network and faces to an int8 plan: try, compare on faces held back, keep the best, say why."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from calib.augment import Strength, augmented, centre
from calib.bias import correct_biases
from calib.cache import CacheKey, load_result, save_result
from calib.distill import Distillation, distill
from calib.equalize import apply_factors, equal_factors
from calib.graph import Graph, read_graph
from calib.landmarks import divisors, landmark_shift
from calib.learn import one_thread
from calib.mixed import fewest_float, rank_layers
from calib.noise import Noise, NoiseModel
from calib.observe import Observation, observe, observe_peaks
from calib.plan import (
    Plan,
    check_input,
    float_predictor,
    plain_weight_scales,
    plan_predictor,
    predict_float,
    predict_plan,
    snap_biases,
)
from calib.ranges import METHODS, group_scales, search_scales
from calib.result import Candidate, Int8Result, Labelled, LayerError, gate, relative_drop
from calib.rounding import Rounding, learn_rounding
from calib.select import refuse_no_faces
from calib.sensitivity import Sensitivity, measure
from calib.sites import find_sites
from runtime.errors import UsageError
from runtime.spec import ModelSpec

Mode = Literal["fast", "best"]
MODES: tuple[Mode, ...] = ("fast", "best")
FEWEST_FACES = 16
HELD_BACK = 0.15
"""Share of the faces that no step learns from; candidates are compared on them."""
HISTOGRAM_FACES = 384
"""A maximum needs all crops there are; the shape of a distribution shows in these."""
SHIFT_LIMIT = 0.015
"""Largest mean landmark shift without labels, as a fraction of the normalising distance."""
MAX_DROP = 0.01
"""Largest relative loss of NME with labels."""


@dataclass(frozen=True)
class Settings:
    """What is tried and how long; `preset` fills it for a mode, `algorithms` of `quantize` overrides single fields."""

    equalise: bool = True
    noise_steps: int = 80
    range_methods: tuple[str, ...] = ("minmax", "percentile", "mse")
    widen: tuple[float, ...] = (1.0,)
    search: int = 0
    """Rounds of the range search on the landmark error."""
    bias: bool = True
    rounding_steps: int = 0
    distill_steps: int = 60
    distill_rate: float = 0.006
    scale_rate: float = 0.0
    mixed_most: int = 4
    """How many layers may stay float."""
    mixed_limit: float = SHIFT_LIMIT
    """The landmark shift that layers are left in float for; with labelled faces the gate on them decides instead."""
    augmented_faces: int = 512
    sensitivity_faces: int = 32
    judged_faces: int = 128


PRESETS: Mapping[str, Settings] = {
    "fast": Settings(),
    "best": Settings(
        noise_steps=240,
        range_methods=METHODS,
        widen=(0.9, 1.0, 1.1),
        search=1,
        rounding_steps=60,
        distill_steps=300,
        distill_rate=0.008,
        augmented_faces=1024,
        sensitivity_faces=64,
        judged_faces=192,
    ),
}


class Faces(Protocol):
    """What calibration needs of a set of faces: (N, S, S, 3) BGR uint8, S at least the network's input size."""

    @property
    def images(self) -> NDArray[np.uint8]: ...


Progress = Callable[[float, str], object]
"""(share of the whole that is done, what is being done)."""


def preset(mode: str, algorithms: Mapping[str, Any] | None = None) -> Settings:
    """The settings of a mode with single fields replaced; an unknown field is an error."""
    if mode not in PRESETS:
        raise UsageError(f"int8 mode {mode!r}: expected {' or '.join(MODES)}")
    known = {f.name for f in fields(Settings)}
    unknown = sorted(set(algorithms or {}) - known)
    if unknown:
        raise UsageError(f"int8 settings: unknown {unknown[0]!r}; known: {', '.join(sorted(known))}")
    chosen = replace(PRESETS[mode], **dict(algorithms or {}))
    wrong = [name for name in chosen.range_methods if name not in METHODS]
    if wrong or not chosen.range_methods or not chosen.widen:
        raise UsageError(f"int8 settings: range methods {list(chosen.range_methods)}; known: {', '.join(METHODS)}")
    return chosen


def quantize(
    model: onnx.ModelProto,
    spec: ModelSpec,
    faces: Faces,
    *,
    mode: Mode = "fast",
    algorithms: Mapping[str, Any] | None = None,
    labelled: Labelled | None = None,
    max_drop: float = MAX_DROP,
    shift_limit: float = SHIFT_LIMIT,
    seed: int = 0,
    progress: Progress | None = None,
    where: str = "model",
    cache: Path | None = None,
) -> Int8Result:
    """Calibrate `model` on faces (no labels needed); a result that breaks the gate raises CheckFailedError.

    `cache` is a file that holds the result of an equal run, or will.
    """
    settings = preset(mode, algorithms)
    graph = read_graph(model, where)
    check_input(graph, spec, where)
    images = np.asarray(faces.images)
    _check_faces(images, spec)
    asked = {"mode": mode, "seed": seed, **_plain(asdict(settings))}
    judge: Judge | None = None
    if labelled is not None:
        asked |= {"judged by": labelled.name, "max drop": max_drop}
        with one_thread():
            judge = Judge(labelled, labelled.nme(float_predictor(graph)), max_drop)
    key = None if cache is None else CacheKey.of(model.SerializeToString(), images, spec, asked)
    with one_thread():
        if cache is not None and key is not None and cache.exists():
            result = load_result(cache, graph, key, shift_limit)
        else:
            result = _Session(graph, spec, images, settings, seed, progress, judge).result(mode, shift_limit)
            if cache is not None and key is not None:
                save_result(cache, result, key)
        if judge is not None:
            result = replace(result, nme=judge.errors(result.plan))
    gate(result, labelled, max_drop)
    return result


def starting_plan(
    graph: Graph, spec: ModelSpec, images: NDArray[np.uint8], seed: int = 0, progress: Progress | None = None
) -> Int8Result:
    """What `fast` finds before it fine-tunes, on faces that are augmented already: where int8 training starts."""
    check_input(graph, spec, spec.architecture)
    _check_faces(images, spec)
    settings = replace(PRESETS["fast"], distill_steps=0, mixed_most=0, augmented_faces=0)
    with one_thread():
        return _Session(graph, spec, images, settings, seed, progress).result("fast", SHIFT_LIMIT)


def _check_faces(images: NDArray[np.uint8], spec: ModelSpec) -> None:
    size = spec.input_size
    square = (
        images.ndim == 4 and images.shape[1] == images.shape[2] and images.shape[3] == 3 and images.dtype == np.uint8
    )
    if not square or images.shape[1] < size or (images.shape[1] - size) % 2:
        wanted = f"(N, {size}, {size}, 3) uint8, or larger squares with an even margin"
        raise UsageError(f"calibration faces: expected {wanted}, found {images.shape} {images.dtype}")
    if len(images) < FEWEST_FACES:
        raise UsageError(f"calibration faces: {few_faces(len(images))}")
    refuse_no_faces(centre(images, size))


def few_faces(count: int) -> str:
    """What to say about too few faces."""
    return (
        f"{count}, at least {FEWEST_FACES} are needed and 300 or more are wise; give a folder or list with more faces"
    )


@dataclass(frozen=True)
class Judge:
    """The gate on labelled faces; layers are left in float only where it refuses, never chosen by it."""

    labelled: Labelled
    exact: Mapping[str, float]
    """NME of the float network, overall and per subset."""
    max_drop: float

    def errors(self, plan: Plan) -> dict[str, tuple[float, float]]:
        """Per subset: float and int8 NME."""
        rough = self.labelled.nme(plan_predictor(snap_biases(plan)))
        return {name: (float(self.exact[name]), float(rough[name])) for name in self.exact}

    def passes(self, plan: Plan) -> bool:
        return relative_drop(self.errors(plan)) <= self.max_drop


class _Session:
    """One calibration run: the data it works on, and the list of what it tried."""

    def __init__(
        self,
        graph: Graph,
        spec: ModelSpec,
        images: NDArray[np.uint8],
        settings: Settings,
        seed: int,
        progress: Progress | None,
        judge: Judge | None = None,
    ) -> None:
        self.judge = judge
        self.graph, self.spec, self.settings, self.seed = graph, spec, settings, seed
        order = np.random.default_rng((seed, 0x51)).permutation(len(images))
        held = max(4, round(len(images) * HELD_BACK))
        self.learned, held_back = images[np.sort(order[held:])], images[np.sort(order[:held])]
        size = spec.input_size
        half = settings.judged_faces // 2
        self.judged = np.concatenate(
            [centre(held_back, size)[:half], augmented(held_back, size, half, seed + 1, Strength())]
        )
        self.truth = predict_float(graph, self.judged, spec)
        self.size = divisors(self.truth, spec)
        self.candidates: list[Candidate] = []
        self.best: Plan | None = None
        self._progress, self._started, self._since = progress, time.monotonic(), time.monotonic()

    def say(self, done: float, what: str) -> None:
        if self._progress is not None:
            self._progress(done, what)

    def error(self, plan: Plan) -> float:
        """Mean landmark shift on the held-back faces."""
        return float(self.shifts(plan).mean())

    def shifts(self, plan: Plan) -> NDArray[np.float64]:
        return landmark_shift(predict_plan(plan, self.judged, self.spec), self.truth, self.spec, self.size)

    def offer(self, name: str, plan: Plan, note: str = "") -> bool:
        """Judge a candidate; it becomes the base of what follows when it is the best so far."""
        shifts = self.shifts(plan)
        shift = float(shifts.mean())
        lowest = min((c.shift for c in self.candidates), default=np.inf)
        kept = bool(shift < lowest)
        now = time.monotonic()
        self.candidates.append(
            Candidate(name, shift, float(np.percentile(shifts, 95)), round(now - self._since, 1), kept, note)
        )
        self._since = now
        if kept:
            self.best = plan
        return kept

    def result(self, mode: Mode, limit: float) -> Int8Result:
        settings, spec, graph = self.settings, self.spec, self.graph
        sites = find_sites(graph)
        self.say(0.0, "ranges")
        crops = np.concatenate(
            [
                centre(self.learned, spec.input_size),
                augmented(self.learned, spec.input_size, settings.augmented_faces, self.seed + 2, Strength()),
            ]
        )
        peaks = observe_peaks(graph, sites, crops, spec)
        self.offer("min-max", _plan(graph, Observation(peaks, {})))
        self.say(0.1, "sensitivity")
        sensitivity = measure(graph, sites, _spread(crops, settings.sensitivity_faces), spec, self.seed)
        even, factors, noise = self._equalise(peaks, sensitivity)
        peaks = {tensor: peak * factors[tensor] for tensor, peak in peaks.items()}
        self.say(0.2, "range methods")
        self._ranges(even, peaks, crops)
        if settings.search:
            self._search()
        assert self.best is not None  # noqa: S101  (the first candidate is always kept)
        if settings.bias:
            corrected = correct_biases(self.best, even, _spread(crops, 64), spec)
            self.offer("bias correction", corrected)
        if settings.rounding_steps:
            self.say(0.3, "learned rounding")
            rounding = Rounding(steps=settings.rounding_steps)
            own = _rescaled(sensitivity, factors)
            rounded = learn_rounding(self.best, even, _spread(crops, 128), spec, own, rounding, self.seed)
            self.offer("learned rounding", rounded)
        if settings.distill_steps:
            self._distill(even)
        if settings.mixed_most:
            self.say(0.97, "mixed precision")
            self._mixed(noise)
        final = snap_biases(self.best)
        layers = layer_errors(graph, even, final, noise, self.judged[:32], spec)
        named = [n.name for n in graph.weighted if n.op == "Conv" and n.name not in final.sites.quantised]
        record = {"mode": mode, "seed": self.seed, "faces": len(self.learned), **_plain(asdict(settings))}
        shift = min(c.shift for c in self.candidates)
        self.say(1.0, "done")
        return Int8Result(final, record, tuple(self.candidates), layers, tuple(named), shift, limit)

    def _equalise(
        self, peaks: dict[str, NDArray[np.float64]], sensitivity: Sensitivity
    ) -> tuple[Graph, dict[str, NDArray[np.float64]], Noise]:
        """The float network with even channels, the factors that did it, the predicted noise; offers what it tries."""
        graph, settings = self.graph, self.settings
        sites = find_sites(graph)
        model = NoiseModel(graph, sites, peaks, sensitivity)
        none = {tensor: np.ones(len(classes)) for tensor, classes in model.classes.items()}
        if not settings.equalise:
            return graph, none, model.predict()
        starts = {
            f"equalised {strength:g}": equal_factors(graph, sites, peaks, strength, 16.0)
            for strength in (0.5, 0.75, 1.0)
        }
        predicted = {name: model.predict(factors).total for name, factors in starts.items()}
        name = min(predicted, key=lambda key: (predicted[key], key))
        factors = starts[name]
        self._offer_factors(name, factors, peaks)
        if settings.noise_steps:
            descended = model.best_factors(factors, settings.noise_steps)
            before, after = (model.predict(f).total ** 0.5 for f in (factors, descended))
            note = f"predicted noise {before:.4f} -> {after:.4f}"
            if self._offer_factors("equalised by noise model", descended, peaks, note):
                factors = descended
        if not any(c.kept for c in self.candidates[1:]):
            return graph, none, model.predict()
        return apply_factors(graph, factors), factors, model.predict(factors)

    def _offer_factors(
        self,
        name: str,
        factors: dict[str, NDArray[np.float64]],
        peaks: dict[str, NDArray[np.float64]],
        note: str = "",
    ) -> bool:
        even = apply_factors(self.graph, factors)
        scaled = {tensor: peaks[tensor] * factors[tensor] for tensor in peaks}
        return self.offer(name, _plan(even, Observation(scaled, {})), note)

    def _ranges(self, even: Graph, peaks: dict[str, NDArray[np.float64]], crops: NDArray[np.uint8]) -> None:
        sites = find_sites(even)
        seen = Observation(peaks, {})
        clipping = [method for method in self.settings.range_methods if method != "minmax"]
        if clipping:
            seen = observe(even, sites, _spread(crops, HISTOGRAM_FACES), self.spec, peaks)
        for widen in self.settings.widen:
            if widen != 1.0:
                self.offer(f"range x {widen:g}", _plan(even, seen, widen=widen))
        for method in clipping:
            self.offer(f"range {method}", _plan(even, seen, method))

    def _search(self) -> None:
        assert self.best is not None  # noqa: S101
        few = slice(None, None, max(1, len(self.judged) // 64))
        truth, size = self.truth[few], self.size[few]

        def error(plan: Plan) -> float:
            outputs = predict_plan(plan, self.judged[few], self.spec)
            return float(landmark_shift(outputs, truth, self.spec, size).mean())

        for turn in range(self.settings.search):
            self.say(0.25, f"range search, round {turn + 1}")
            self.offer(f"range search {turn + 1}", search_scales(self.best, error))

    def _distill(self, even: Graph) -> None:
        assert self.best is not None  # noqa: S101
        settings = self.settings
        losses: list[float] = []
        began = time.monotonic()

        def step(loss: float) -> None:
            losses.append(loss)
            left = (time.monotonic() - began) / len(losses) * (settings.distill_steps - len(losses))
            text = f"fine-tuning, shift {100 * float(np.mean(losses[-10:])):.2f} %, about {left:.0f} s left"
            self.say(0.35 + 0.6 * len(losses) / settings.distill_steps, text)

        tuning = Distillation(settings.distill_steps, rate=settings.distill_rate, scale_rate=settings.scale_rate)
        tuned = distill(self.best, even, self.learned, self.spec, tuning, self.seed + 3, step)
        self.offer("fine-tuning", tuned, f"{settings.distill_steps} steps of {tuning.batch} faces")

    def _mixed(self, noise: Noise) -> None:
        assert self.best is not None  # noqa: S101
        settings, enough = self.settings, None if self.judge is None else self.judge.passes
        found = fewest_float(self.best, noise, self.error, settings.mixed_limit, settings.mixed_most, enough)
        if found.layers:
            self.offer(f"{len(found.layers)} layers in float", found.plan, ", ".join(found.layers))


def _plan(graph: Graph, seen: Observation, method: str = "minmax", widen: float = 1.0) -> Plan:
    sites = find_sites(graph)
    scales = group_scales(sites, seen, method, widen)  # type: ignore[arg-type]
    return Plan(graph, sites, scales, plain_weight_scales(graph, sites))


def _spread(crops: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """`count` crops at even distances."""
    chosen = np.linspace(0, len(crops) - 1, min(count, len(crops))).astype(np.intp)
    return crops[chosen]


def _rescaled(sensitivity: Sensitivity, factors: Mapping[str, NDArray[np.float64]]) -> Sensitivity:
    """Sensitivity of the equalised network: a channel that was multiplied by k answers k*k times less."""
    activation = {name: value / factors[name] ** 2 for name, value in sensitivity.activation.items()}
    return Sensitivity(activation, {})


def layer_errors(
    graph: Graph, even: Graph, plan: Plan, noise: Noise, crops: NDArray[np.uint8], spec: ModelSpec
) -> tuple[LayerError, ...]:
    """Predicted share and measured error of every weighted layer, in running order."""
    from calib.layerwise import relative_errors

    shares = dict(rank_layers(plan, noise))
    total = sum(shares.values()) or 1.0
    measured = relative_errors(even, plan, crops, spec)
    return tuple(
        LayerError(node.name, node.op, shares.get(node.name, 0.0) / total, measured[node.name])
        for node in graph.weighted
    )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
