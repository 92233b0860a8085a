"""A `tensorrt` module without TensorRT: what 8.6, 10.3 and 11 offer and lack, on the fake CUDA.

Its engines compute for real: a plan holds the ONNX file, and running it puts ONNX Runtime's answer into the device
memory that it was told about. Precisions follow the rules of each version: weak flags, or what the graph says.
"""

from __future__ import annotations

import ctypes
import json
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = b"ptrt-fake"
Compute = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass
class Behaviour:
    """How this TensorRT misbehaves."""

    lies: bool = False
    """Builds float32 whatever was asked."""
    says_nothing: bool = False
    """The inspector tells no types."""
    refuses_capture: bool = False
    half_output: bool = False
    skew: float = 0.0
    """Added to every output."""
    on_step: Callable[[], None] | None = None
    builds: list[dict[str, Any]] = field(default_factory=list)
    """What each build was configured with."""


@dataclass(frozen=True)
class Surface:
    """What a version has."""

    version: str
    strong: bool
    weak: bool
    calibrators: bool
    monitor: bool
    sharing: bool
    same_sm: bool


SURFACES = {
    "8.6": Surface("8.6.2", strong=False, weak=True, calibrators=True, monitor=False, sharing=True, same_sm=False),
    "10.3": Surface("10.3.0", strong=True, weak=True, calibrators=True, monitor=True, sharing=True, same_sm=False),
    "11": Surface("11.4.0.106", strong=True, weak=False, calibrators=False, monitor=True, sharing=False, same_sm=True),
}


def make(version: str, cuda: Any, behaviour: Behaviour | None = None, compute: Compute | None = None) -> Any:
    """The module of one version; `compute` replaces ONNX Runtime."""
    surface, how = SURFACES[version], behaviour or Behaviour()
    trt: Any = types.ModuleType("tensorrt")
    trt.__version__ = surface.version
    trt.behaviour = how

    flags = ["TF32", "VERSION_COMPATIBLE", "REFIT", "GPU_FALLBACK"]
    flags += ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"] if surface.weak else []
    trt.BuilderFlag = Enum("BuilderFlag", flags)
    creation = {"EXPLICIT_BATCH": 0} if not surface.strong else {"STRONGLY_TYPED": 1}
    trt.NetworkDefinitionCreationFlag = _integers("NetworkDefinitionCreationFlag", creation)
    trt.DataType = Enum(
        "DataType", ["FLOAT", "HALF", "INT8", "INT32", "BOOL", *(["INT64", "BF16"] if surface.strong else [])]
    )
    trt.TensorIOMode = Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
    trt.MemoryPoolType = Enum("MemoryPoolType", ["WORKSPACE", "DLA_MANAGED_SRAM"])
    trt.ProfilingVerbosity = Enum("ProfilingVerbosity", ["LAYER_NAMES_ONLY", "NONE", "DETAILED"])
    trt.LayerInformationFormat = Enum("LayerInformationFormat", ["ONELINE", "JSON"])
    levels = ["NONE", "AMPERE_PLUS", *(["SAME_COMPUTE_CAPABILITY"] if surface.same_sm else [])]
    trt.HardwareCompatibilityLevel = Enum("HardwareCompatibilityLevel", levels)
    if surface.sharing:
        trt.PreviewFeature = Enum("PreviewFeature", ["PROFILE_SHARING_0806"])

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

        def __init__(self) -> None:
            pass

    trt.ILogger = ILogger

    class Logger(ILogger):
        def log(self, severity: Any, text: str) -> None:
            pass

    trt.Logger = Logger
    if surface.monitor:
        trt.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda self: None})
    if surface.calibrators:
        for name in ("IInt8EntropyCalibrator2", "IInt8MinMaxCalibrator"):
            setattr(trt, name, type(name, (), {"__init__": lambda self: None}))

    trt.OnnxParser = lambda network, log: _Parser(network, log)
    trt.Builder = lambda log: _Builder(trt, surface, log)
    trt.Runtime = lambda log: _Runtime(trt, surface, log, cuda, compute)
    return trt


def _integers(name: str, values: dict[str, int]) -> Any:
    from enum import IntEnum

    return IntEnum(name, values)


class _Parser:
    def __init__(self, network: Any, log: Any) -> None:
        self._network, self._errors = network, []
        self.num_errors = 0

    def parse(self, data: bytes) -> bool:
        import onnx

        try:
            model = onnx.load_model_from_string(data)
        except Exception:
            model = onnx.ModelProto()
        if not model.graph.node:
            self._errors = ["failed to parse the model"]
            self.num_errors = 1
            return False
        self._network.take(data, model)
        self._network.parser = weakref.ref(self)
        return True

    def get_error(self, index: int) -> Any:
        return types.SimpleNamespace(desc=lambda: self._errors[index], node_name=lambda: "", node_operator=lambda: "")


class _Network:
    def __init__(self, trt: Any, flags: int) -> None:
        self._trt, self.flags = trt, flags
        self.data = b""
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def take(self, data: bytes, model: Any) -> None:
        constants = {t.name for t in model.graph.initializer}
        self.data, self.model = data, model
        self.inputs = [self._tensor(i) for i in model.graph.input if i.name not in constants]
        self.outputs = [self._tensor(o) for o in model.graph.output]

    def _tensor(self, info: Any) -> Any:
        shape = tuple(d.dim_value or -1 for d in info.type.tensor_type.shape.dim)
        return types.SimpleNamespace(name=info.name, shape=shape, dtype=self._trt.DataType.FLOAT)

    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))
    num_layers = property(lambda self: len(self.model.graph.node))

    def get_input(self, index: int) -> Any:
        return self.inputs[index]

    def get_output(self, index: int) -> Any:
        return self.outputs[index]


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Any, ...]] = {}

    def set_shape(self, name: str, low: Any, usual: Any, high: Any) -> None:
        self.shapes[name] = (tuple(low), tuple(usual), tuple(high))


class _Cache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data + b"+"


class _Config:
    def __init__(self, trt: Any, surface: Surface) -> None:
        self._trt = trt
        self.set_flags = {trt.BuilderFlag.TF32}
        self.profiles: list[_Profile] = []
        self.pools: dict[Any, int] = {}
        self.previews: dict[Any, bool] = {}
        self.builder_optimization_level = 3
        self.profiling_verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY
        self.hardware_compatibility_level = trt.HardwareCompatibilityLevel.NONE
        self.timing: _Cache | None = None
        if surface.monitor:
            self.progress_monitor: Any = None
        if surface.calibrators:
            self.int8_calibrator: Any = None

    def set_flag(self, flag: Any) -> None:
        self.set_flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.set_flags.discard(flag)

    def get_flag(self, flag: Any) -> bool:
        return flag in self.set_flags

    def set_preview_feature(self, feature: Any, on: bool) -> None:
        self.previews[feature] = on

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.pools[pool] = size

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_calibration_profile(self, profile: _Profile) -> bool:
        self.calibration_profile = profile
        return True

    def create_timing_cache(self, data: bytes) -> _Cache:
        return _Cache(bytes(data))

    def set_timing_cache(self, cache: _Cache, ignore_mismatch: bool) -> bool:
        if cache.data and not cache.data.startswith(b"timing"):
            return False
        self.timing = cache if cache.data else _Cache(b"timing")
        return True

    def get_timing_cache(self) -> _Cache | None:
        return self.timing


class _Builder:
    def __init__(self, trt: Any, surface: Surface, log: Any) -> None:
        self._trt, self._surface, self._log = trt, surface, log
        self.num_DLA_cores = 0

    def create_network(self, flags: int = 0) -> _Network:
        return _Network(self._trt, flags)

    def create_builder_config(self) -> _Config:
        return _Config(self._trt, self._surface)

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        trt, how = self._trt, self._trt.behaviour
        assert network.parser() is not None, "the parser owns the weights of the network"
        if not self._steps(config):
            return None
        strong = self._surface.strong and (not self._surface.weak or bool(network.flags & 2))
        names = {flag.name for flag in config.set_flags}
        calibrated = self._calibrate(network, config) if "INT8" in names else False
        precisions = _precisions(network.model, strong, names, calibrated)
        if how.lies:
            precisions = ["Float"] * len(precisions)
        how.builds.append({
            "strong": strong,
            "flags": sorted(names),
            "network flags": network.flags,
            "level": config.builder_optimization_level,
            "workspace": config.pools.get(trt.MemoryPoolType.WORKSPACE),
            "hardware": config.hardware_compatibility_level.name,
            "previews": sorted(f.name for f, on in config.previews.items() if on),
            "timing": config.timing.data if config.timing else None,
            "profiles": [p.shapes for p in config.profiles],
            "verbosity": config.profiling_verbosity.name,
        })  # fmt: skip
        head = {
            "version": self._surface.version,
            "ports": [[t.name, "INPUT", list(t.shape)] for t in network.inputs]
            + [[t.name, "OUTPUT", list(t.shape)] for t in network.outputs],
            "profile": [list(s) for s in config.profiles[0].shapes[network.inputs[0].name]],
            "layers": precisions,
            "detailed": config.profiling_verbosity.name == "DETAILED",
        }
        text = json.dumps(head).encode()
        return MAGIC + len(text).to_bytes(4, "little") + text + network.data

    def _steps(self, config: _Config) -> bool:
        monitor = getattr(config, "progress_monitor", None)
        if monitor is not None:
            monitor.phase_start("Building engine", None, 3)
        for step in range(3):
            if self._trt.behaviour.on_step is not None:
                self._trt.behaviour.on_step()
            if monitor is not None and not monitor.step_complete("Building engine", step):
                return False
        if monitor is not None:
            monitor.phase_finish("Building engine")
        return True

    def _calibrate(self, network: _Network, config: _Config) -> bool:
        calibrator = getattr(config, "int8_calibrator", None)
        if calibrator is None:
            return False
        stored = calibrator.read_calibration_cache()
        if stored is None:
            size, batches = calibrator.get_batch_size(), []
            shape = config.calibration_profile.shapes[network.inputs[0].name][1]
            assert shape[0] == size
            while (addresses := calibrator.get_batch([network.inputs[0].name])) is not None:
                batches.append(_read(addresses[0], shape).copy())
            self._trt.behaviour.builds.append({"calibrated on": np.concatenate(batches)})
            calibrator.write_calibration_cache(b"scales of " + str(len(batches)).encode())
        else:
            self._trt.behaviour.builds.append({"calibrated from": bytes(stored)})
        return True


def _precisions(model: Any, strong: bool, flags: set[str], calibrated: bool) -> list[str]:
    """What each weighted layer computes in."""
    made_by = {o: n for n in model.graph.node for o in n.output}
    types_of = {t.name: t.data_type for t in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        maker = made_by.get(node.input[1])
        quantised = maker is not None and maker.op_type == "DequantizeLinear"
        half = types_of.get(node.input[1]) == 10
        if strong:
            found.append("Int8" if quantised else "Half" if half else "Float")
        elif "INT8" in flags and (quantised or calibrated):
            found.append("Int8")
        else:
            found.append("Half" if "FP16" in flags and half else "Float")
    return found


class _Runtime:
    def __init__(self, trt: Any, surface: Surface, log: Any, cuda: Any, compute: Compute | None) -> None:
        self._trt, self._surface, self._log, self._cuda, self._compute = trt, surface, log, cuda, compute
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, plan: Any) -> Any:
        data = bytes(plan)
        if not data.startswith(MAGIC):
            self._log.log(self._trt.ILogger.ERROR, "Serialization assertion failed: magic tag does not match")
            return None
        size = int.from_bytes(data[len(MAGIC) : len(MAGIC) + 4], "little")
        start = len(MAGIC) + 4
        head = json.loads(data[start : start + size])
        if head["version"] != self._surface.version and not self.engine_host_code_allowed:
            self._log.log(self._trt.ILogger.ERROR, "The engine plan file is not compatible with this version")
            return None
        return _Engine(self._trt, self._surface, head, data[start + size :], self._cuda, self._compute)


class _Engine:
    def __init__(self, trt: Any, surface: Surface, head: Any, onnx: bytes, cuda: Any, compute: Compute | None) -> None:
        self.trt, self.surface, self.head, self.cuda = trt, surface, head, cuda
        self.num_io_tensors, self.num_layers = len(head["ports"]), len(head["layers"])
        self.num_optimization_profiles = 1
        if compute is None:
            from runtime.backends.ort import OrtModel

            compute = OrtModel(onnx, optimise=False)
        self.compute = compute

    def get_tensor_name(self, index: int) -> str:
        return str(self.head["ports"][index][0])

    def get_tensor_mode(self, name: str) -> Any:
        return self.trt.TensorIOMode[next(p[1] for p in self.head["ports"] if p[0] == name)]

    def get_tensor_dtype(self, name: str) -> Any:
        half = self.trt.behaviour.half_output and self.get_tensor_mode(name) is self.trt.TensorIOMode.OUTPUT
        return self.trt.DataType.HALF if half else self.trt.DataType.FLOAT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(next(p[2] for p in self.head["ports"] if p[0] == name))

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self.head["profile"]]

    def create_execution_context(self) -> Any:
        return _Context(self)

    def create_engine_inspector(self) -> Any:
        return _Inspector(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self.active_optimization_profile = 0
        self.shape: tuple[int, ...] | None = None
        self._addresses: dict[str, int] = {}
        self._ran = False

    def set_input_shape(self, name: str, shape: Any) -> bool:
        low, _, high = self._engine.head["profile"]
        if not low[0] <= shape[0] <= high[0] or list(shape[1:]) != list(low[1:]):
            return False
        self.shape, self._ran = tuple(shape), False
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        if name not in {p[0] for p in self._engine.head["ports"]}:
            return False
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        engine, shape = self._engine, self.shape
        if shape is None or stream == 0 or len(self._addresses) != len(engine.head["ports"]):
            return False
        capturing = engine.cuda.capturing(stream)
        if capturing and (engine.trt.behaviour.refuses_capture or not self._ran):
            return False
        self._ran = True
        names = {mode: name for name, mode, _ in engine.head["ports"]}
        source, target = self._addresses[names["INPUT"]], self._addresses[names["OUTPUT"]]

        def work() -> None:
            result = np.asarray(engine.compute(_read(source, shape)), np.float32) + engine.trt.behaviour.skew
            _read(target, result.shape)[...] = result

        engine.cuda.enqueue(stream, work)
        return True


class _Inspector:
    """Its JSON is that of 10 and before, or that of 11."""

    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self.execution_context: Any = None

    def get_engine_information(self, form: Any) -> str:
        engine = self._engine
        if engine.trt.behaviour.says_nothing:
            return json.dumps({"Layers": [], "Bindings": []})
        if not engine.head["detailed"]:
            return json.dumps({"Layers": [f"conv {i}" for i in range(engine.num_layers)], "Bindings": []})
        layers: list[dict[str, Any]] = [{"Name": "reformat", "LayerType": "Reformat", **self._ends("Half", "Int8")}]
        for index, precision in enumerate(engine.head["layers"]):
            kind = {"LayerType": "CaskConvolution", "ParameterType": "Convolution"}
            weights = {"Weights": {"Type": precision, "Count": 8}} if self._old else {}
            layers.append({"Name": f"conv {index}", **kind, **self._ends(precision, precision), **weights})
        io = {"Bindings": []} if self._old else {"I/O Tensors": []}
        return json.dumps({"Layers": layers, **io})

    @property
    def _old(self) -> bool:
        return self._engine.surface.version < "11" or self._engine.surface.version.startswith("8")

    def _ends(self, before: str, after: str) -> dict[str, Any]:
        known = self.execution_context is not None and self.execution_context.shape is not None
        return {"Inputs": [self._end(before, known)], "Outputs": [self._end(after, known)]}

    def _end(self, precision: str, known: bool) -> dict[str, Any]:
        if not self._old:
            return {"Name": "t", "DataType": precision, "Format": "kLINEAR" if known else "N/A due to dynamic shapes"}
        text = f"Row major linear {precision} format" if known else "N/A due to dynamic shapes"
        return {"Name": "t", "Format/Datatype": text}


def _read(address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    memory = (ctypes.c_float * int(np.prod(shape))).from_address(address)
    return np.frombuffer(memory, dtype=np.float32).reshape(shape)
