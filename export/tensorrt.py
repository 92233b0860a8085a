"""From an ONNX file to a plan: one adapter for TensorRT 8.6, 10 and 11 that asks the module what it can do.

Precision comes from the ONNX file alone. Only where strong typing does not exist (8.6) are precision flags set, and
only those that the file itself shows.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from export.contract import check_contract, refusals
from export.onnx_file import parse_onnx
from export.tensorrt_rules import (
    HARDWARE_LEVELS,
    WEAK_FLAGS,
    Abilities,
    BuildOptions,
    abilities_of,
    network_flags,
    refuse_options,
)
from runtime.backends.tensorrt_log import last_error, make_logger
from runtime.engine import Precision, Profile, Typing, install_hint
from runtime.errors import InputError, MissingBackendError

_MIB = 1 << 20
_POLL_SECONDS = 0.05
Progress = Callable[[str, float], object]
"""Told which phase runs, and the share of it that is done."""


@dataclass(frozen=True)
class Plan:
    """A built engine, still unproven."""

    data: bytes
    typing: Typing
    timings: bytes
    """Contents of the timing cache after the build; empty where none was used."""
    seconds: float
    warnings: tuple[str, ...]


def find_tensorrt(module: str = "tensorrt") -> Any:
    """Import TensorRT, or say where it comes from."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        hint = install_hint() if module == "tensorrt" else "pip install tensorrt-rtx"
        raise MissingBackendError(f"{module} cannot be imported ({error}); {hint}") from error


def check_graph(model: bytes, able: Abilities, where: str) -> None:
    """Refuse, in words, what this TensorRT's parser would refuse."""
    found = refusals(check_contract(parse_onnx(model, where), able.line))
    if found:
        more = f"; {len(found) - 1} more" if len(found) > 1 else ""
        raise InputError(f"{where}: {able.title} would not take it: {found[0].node}: {found[0].message}{more}")


def build_plan(
    trt: Any,
    model: bytes,
    precision: Precision,
    options: BuildOptions,
    *,
    where: str = "model.onnx",
    calibrator: Any = None,
    calibration_batch: int = 1,
    timings: bytes | None = None,
    progress: Progress = lambda _phase, _share: None,
) -> Plan:
    """Parse and build; Ctrl-C ends it at the next step, and nothing was written.

    `timings` is the timing cache to start from; None builds without one.
    """
    able = abilities_of(trt)
    refuse_options(options, able)
    check_graph(model, able, where)
    log = make_logger(trt)
    builder = trt.Builder(log)
    typing = able.typing(options.legacy)
    network = builder.create_network(network_flags(trt, able, typing))
    parser = _parse(trt, network, log, model, able, where)
    config = _configure(trt, builder, network, able, precision, typing, options)
    if calibrator is not None:
        _attach_calibrator(builder, network, config, calibrator, calibration_batch)
    cache = None if timings is None else _attach_timings(config, timings)
    began = time.monotonic()
    made = _build(trt, able, builder, network, config, progress, (parser, calibrator, log))
    if made is None:
        reason = last_error(log, "no reason given")
        raise InputError(f"{where}: {able.title} built no engine: {reason}")
    kept = bytes(cache.serialize()) if cache is not None else b""
    return Plan(bytes(made), typing, kept, time.monotonic() - began, tuple(log.warnings))


def _parse(trt: Any, network: Any, log: Any, model: bytes, able: Abilities, where: str) -> Any:
    """Gives the parser, which owns the weights: without it the network points into freed memory."""
    parser = trt.OnnxParser(network, log)
    if parser.parse(model):
        return parser
    told = [" ".join(str(parser.get_error(i).desc()).split())[:300] for i in range(parser.num_errors)]
    reason = told[0] if told else last_error(log, "refused without a word")
    raise InputError(f"{where}: {able.title} refuses the graph: {reason}")


def _configure(
    trt: Any, builder: Any, network: Any, able: Abilities, precision: Precision, typing: Typing, options: BuildOptions
) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * _MIB)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)  # float32 means float32: TF32 keeps ten bits of the mantissa
    if typing == "weak":
        for name in WEAK_FLAGS["int8" if options.legacy else precision]:
            config.set_flag(getattr(trt.BuilderFlag, name))
    if able.level:
        config.builder_optimization_level = options.level
    if able.sharing:
        config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware != "none":
        level = HARDWARE_LEVELS[options.hardware]
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if config.add_optimization_profile(_profile(builder, network, options.profile)) < 0:
        sizes = options.profile
        raise InputError(f"{able.title} refuses the batches {sizes.min}, {sizes.opt}, {sizes.max} for this graph")
    return config


def _profile(builder: Any, network: Any, sizes: Profile) -> Any:
    profile = builder.create_optimization_profile()
    port = network.get_input(0)
    rest = tuple(port.shape)[1:]
    profile.set_shape(port.name, (sizes.min, *rest), (sizes.opt, *rest), (sizes.max, *rest))
    return profile


def _attach_calibrator(builder: Any, network: Any, config: Any, calibrator: Any, batch: int) -> None:
    config.int8_calibrator = calibrator
    config.set_calibration_profile(_profile(builder, network, Profile(batch, batch, batch)))


def _attach_timings(config: Any, timings: bytes) -> Any:
    """Start from stored timings; those of another device or version are left aside for empty ones."""
    cache = config.create_timing_cache(timings)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        if cache is None or not config.set_timing_cache(cache, False):
            return None
    return config.get_timing_cache()


def _build(
    trt: Any, able: Abilities, builder: Any, network: Any, config: Any, progress: Progress, keep: tuple[Any, ...]
) -> Any:
    """Build in a thread, so that this one stays free to hear Ctrl-C; `keep` must live as long as the build.

    Ctrl-C may come at any moment: before the thread runs it cancels the build, later it waits until TensorRT has
    stopped, for taking its objects away under it would crash.
    """
    go, stop, finished = threading.Event(), threading.Event(), threading.Event()
    results: list[Any] = []
    failures: list[Exception] = []
    if able.monitor:
        config.progress_monitor = _monitor(trt, stop, progress)

    def work(_keep: tuple[Any, ...] = keep) -> None:
        go.wait()
        try:
            if not stop.is_set():
                results.append(builder.build_serialized_network(network, config))
        except Exception as error:
            failures.append(error)
        finally:
            finished.set()

    try:
        threading.Thread(target=work, name="tensorrt-build", daemon=True).start()
        go.set()
        while not finished.wait(_POLL_SECONDS):
            pass
    except KeyboardInterrupt:
        stop.set()
        if go.is_set():
            how = "stopping at the next step" if able.monitor else "this TensorRT cannot stop; Ctrl-C again quits"
            progress(how, 0.0)
            finished.wait()
        go.set()
        raise
    if failures:
        raise failures[0]
    return results[0]


def _monitor(trt: Any, stop: threading.Event, progress: Progress) -> Any:
    """TensorRT calls this from its own threads; it answers whether to go on."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # a class of the module that is here
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._lock = threading.Lock()
            self._phases: dict[str, int] = {}

        def phase_start(self, phase_name: str, _parent: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases[phase_name] = max(1, num_steps)
            progress(phase_name, 0.0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                steps = self._phases.get(phase_name, 1)
            progress(phase_name, min(1.0, (step + 1) / steps))
            return not stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._phases.pop(phase_name, None)
            progress(phase_name, 1.0)

    return Monitor()
