"""TensorRT engines as a back end: numpy, ctypes and the CUDA runtime; no torch, no pycuda.

A *lane* is one execution context with its own stream, device buffers and pinned host buffers for one batch size. It
runs plainly once, is then captured as a CUDA graph, and is replayed from there on. Several lanes work at the same time.
"""

from __future__ import annotations

import importlib
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.backends.cuda import Cuda, CudaError, host_array
from runtime.backends.protocol import Crops, check_crops
from runtime.backends.tensorrt_log import last_error, make_logger
from runtime.bundle import Artefact, Bundle
from runtime.engine import SUFFIX, EngineCard, Here, admit, load_plan, look_around
from runtime.errors import InputError, MissingBackendError, UsageError
from runtime.geometry import network_input
from runtime.gpu import probe_gpu
from runtime.spec import ModelSpec

KIND = "tensorrt-plan"
"""Kind of a bundle's artefacts that are plans."""
PREFERRED = ("fp16", "fp32")
"""What is taken when nobody says; int8 moves landmarks, so people ask for it."""
DEFAULT_LANES = 2
MAX_LANES = 16
_SIZES_KEPT = 4
_FLOAT_BYTES = 4
_NEXT = "the ONNX file of the same bundle runs without it: --backend onnx"


class Lane:
    """One execution context for one batch size, with everything that it reads and writes."""

    def __init__(self, engine: Any, cuda: Cuda, card: EngineCard, batch: int, graphs: bool = True) -> None:
        self.batch, self.runs = batch, 0
        self.graph: int | None = None
        self.no_graph = "" if graphs else "not asked for"
        self._cuda, self._names = cuda, (card.input.name, card.output.name)
        self._freed: list[Any] = []
        size = card.spec.input_size
        shapes = ((batch, 3, size, size), (batch, 2 * card.spec.points))
        self._bytes = [int(np.prod(shape)) * _FLOAT_BYTES for shape in shapes]
        try:
            self.stream = self._own(cuda.stream(), cuda.destroy_stream)
            self._device = [self._own(cuda.malloc(count), cuda.free) for count in self._bytes]
            self._host = [self._own(cuda.pinned(count), cuda.free_pinned) for count in self._bytes]
            self.input = host_array(self._host[0], shapes[0])
            self.output = host_array(self._host[1], shapes[1])
            self._context = _context(engine, self.stream)
            self._bind(shapes[0])
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Put the work for what `input` holds on the stream."""
        if self.graph is None and self.runs and not self.no_graph:
            self._capture()
        if self.graph is not None:
            self._cuda.launch(self.graph, self.stream)
        else:
            self._put_all()
        self.runs += 1

    def finish(self) -> NDArray[np.float32]:
        """Wait, and give what `output` holds."""
        self._cuda.wait(self.stream)
        return self.output

    def copy_in(self) -> None:
        self._cuda.to_device(self._device[0], self._host[0], self._bytes[0], self.stream)

    def compute(self) -> None:
        if not self._context.execute_async_v3(self.stream):
            raise InputError("TensorRT could not put the engine on the stream")

    def copy_out(self) -> None:
        self._cuda.to_host(self._host[1], self._device[1], self._bytes[1], self.stream)

    def close(self) -> None:
        """Free everything, the graph first; more than once does no harm."""
        if self.graph is not None:
            self._cuda.destroy_graph(self.graph)
            self.graph = None
        self._context = None
        while self._freed:
            free, handle = self._freed.pop()
            free(handle)

    def _own(self, handle: int, free: Any) -> int:
        self._freed.append((free, handle))
        return handle

    def _bind(self, shape: tuple[int, ...]) -> None:
        if not self._context.set_input_shape(self._names[0], shape):
            raise InputError(f"the engine refuses a batch of {self.batch}")
        for name, address in zip(self._names, self._device, strict=True):
            if not self._context.set_tensor_address(name, address):
                raise InputError(f"the engine has no tensor {name!r}, though its sidecar names it")

    def _put_all(self) -> None:
        self.copy_in()
        self.compute()
        self.copy_out()

    def _capture(self) -> None:
        """Write one run down as a graph; an engine that cannot be captured runs without."""
        self._cuda.wait(self.stream)
        self._cuda.begin_capture(self.stream)
        try:
            self._put_all()
            self.graph = self._cuda.end_capture(self.stream)
        except (CudaError, InputError) as error:
            self._cuda.abandon_capture(self.stream)
            self.no_graph = str(error)


class TensorRtModel:
    """An engine as a `FaceModel`; batches larger than its profile are cut, and the pieces run side by side."""

    def __init__(
        self,
        plan: bytes,
        card: EngineCard,
        *,
        lanes: int = DEFAULT_LANES,
        graphs: bool = True,
        where: str = "plan",
        cuda: Cuda | None = None,
    ) -> None:
        if not 1 <= lanes <= MAX_LANES:
            raise UsageError(f"{lanes} lanes: expected 1 to {MAX_LANES}")
        self.card, self.spec, self.where = card, card.spec, where
        self.name = f"TensorRT {card.built.version} {card.precision}"
        self.most_lanes, self._graphs = lanes, graphs
        self._lanes: OrderedDict[int, list[Lane]] = OrderedDict()
        self._lock = threading.Lock()
        self.cuda = cuda if cuda is not None else Cuda()
        self._trt = importlib.import_module(card.built.module)
        self._log = make_logger(self._trt)
        self._runtime = self._trt.Runtime(self._log)
        if card.options.version_compatible:
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            reason = last_error(self._log, "no reason given")
            raise MissingBackendError(f"{where}: TensorRT does not load it: {reason}; {_NEXT}")
        _refuse_other_ports(self._engine, card, where)

    def landmarks(self, crops: Crops) -> NDArray[np.float32]:
        """Landmarks of every crop; a whole batch of faces is one call."""
        check_crops(crops, self.spec)
        result = np.empty((len(crops), 2 * self.spec.points), dtype=np.float32)
        if len(crops):
            with self._lock:
                self._run(network_input(crops, self.spec), result)
        return result.reshape(len(crops), self.spec.points, 2)

    def outputs(self, batch: NDArray[np.float32], piece: int | None = None) -> NDArray[np.float32]:
        """The network's own outputs (N, 2 points) for inputs that are already normalised.

        `piece` is how many go into one run; the most that the engine takes, unless told.
        """
        result = np.empty((len(batch), 2 * self.spec.points), dtype=np.float32)
        with self._lock:
            self._run(batch, result, piece)
        return result

    @property
    def engine(self) -> Any:
        """TensorRT's own object, for inspection."""
        return self._engine

    def lanes(self, batch: int) -> list[Lane]:
        """The lanes for one batch size; those of sizes not used for long are given up."""
        profile = self.card.profile
        if not profile.min <= batch <= profile.max:
            raise UsageError(f"{self.where}: a batch of {batch}, the engine takes {profile.min} to {profile.max}")
        if batch not in self._lanes:
            while len(self._lanes) >= _SIZES_KEPT:
                _, old = self._lanes.popitem(last=False)
                _close_all(old)
            self._lanes[batch] = [self._new_lane(batch)]
        self._lanes.move_to_end(batch)
        return self._lanes[batch]

    def close(self) -> None:
        """Give all memory back; the model cannot be used afterwards."""
        with self._lock:
            for lanes in self._lanes.values():
                _close_all(lanes)
            self._lanes.clear()
            self._engine = None

    def __enter__(self) -> TensorRtModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, batch: NDArray[np.float32], result: NDArray[np.float32], piece: int | None = None) -> None:
        if self._engine is None:
            raise UsageError(f"{self.where}: was closed")
        running: list[tuple[Lane, slice]] = []
        busy: dict[int, int] = {}
        step = self.card.profile.max if piece is None else piece
        for start in range(0, len(batch), step):
            part = batch[start : start + step]
            size = max(len(part), self.card.profile.min)
            turn = busy.get(size, 0)
            busy[size] = turn + 1
            lane = self._lane(size, turn)
            for waiting in [entry for entry in running if entry[0] is lane]:
                running.remove(waiting)
                _collect(*waiting, result)
            lane.input[: len(part)] = part
            lane.input[len(part) :] = 0
            lane.start()
            running.append((lane, slice(start, start + len(part))))
        for lane, rows in running:
            _collect(lane, rows, result)

    def _lane(self, size: int, turn: int) -> Lane:
        """Lanes are made when they are first needed: one face at a time needs one."""
        lanes = self.lanes(size)
        if turn and len(lanes) < self.most_lanes and turn >= len(lanes):
            lanes.append(self._new_lane(size))
        return lanes[turn % len(lanes)]

    def _new_lane(self, batch: int) -> Lane:
        return Lane(self._engine, self.cuda, self.card, batch, self._graphs)


def open_plan(plan: Path | str, *, lanes: int = DEFAULT_LANES, graphs: bool = True) -> TensorRtModel:
    """Open a plan that lies beside its sidecar."""
    _require_gpu()
    data, card = load_plan(plan, look_around())
    return TensorRtModel(data, card, lanes=lanes, graphs=graphs, where=str(plan))


def open_tensorrt(
    bundle: Bundle, precision: str | None = None, lanes: int = DEFAULT_LANES, graphs: bool = True
) -> TensorRtModel:
    """Open the engine of a bundle that was built for this GPU and this TensorRT."""
    _require_gpu()
    here = look_around()
    artefact, card = _fitting(bundle, precision, here)
    place = bundle.directory / artefact.file
    data = bundle.read(artefact.name)
    admit(place, data, card, here)
    return TensorRtModel(data, card, lanes=lanes, graphs=graphs, where=str(place))


def engines_of(bundle: Bundle) -> list[tuple[Artefact, EngineCard]]:
    """All plans of a bundle with their cards."""
    manifest = bundle.manifest
    found = []
    for artefact in manifest.artefacts:
        if artefact.kind == KIND:
            beside = next((a for a in manifest.artefacts if a.file == artefact.file + SUFFIX), None)
            if beside is None:
                raise InputError(f"{bundle.directory / artefact.file}: the bundle holds no sidecar of it")
            where = str(bundle.directory / beside.file)
            found.append((artefact, EngineCard.from_bytes(bundle.read(beside.name), where)))
    return found


def _fitting(bundle: Bundle, precision: str | None, here: Here) -> tuple[Artefact, EngineCard]:
    wanted = PREFERRED if precision is None else (precision,)
    engines = [(a, c) for name in wanted for a, c in engines_of(bundle) if c.precision == name]
    if not engines:
        have = sorted({card.precision for _, card in engines_of(bundle)})
        told = f"it has engines in {', '.join(have)}" if have else "it has no engines"
        raise MissingBackendError(
            f"{bundle.directory}: no {' or '.join(wanted)} engine, {told}; toolkit build-engine makes one; {_NEXT}"
        )
    reasons = []
    for artefact, card in engines:
        place = bundle.directory / artefact.file
        try:
            admit(place, bundle.read(artefact.name), card, here)
            return artefact, card
        except MissingBackendError as error:
            reasons.append(str(error))
    raise MissingBackendError(f"{reasons[0]}; {_NEXT}")


def _require_gpu() -> None:
    try:
        probe_gpu()
    except MissingBackendError as error:
        raise MissingBackendError(f"TensorRT: {error}; {_NEXT}") from error


def _context(engine: Any, stream: int) -> Any:
    context = engine.create_execution_context()
    if context is None:
        raise CudaError("TensorRT made no execution context; the GPU's memory may be full")
    if getattr(context, "active_optimization_profile", 0) != 0:
        context.set_optimization_profile_async(0, stream)
    return context


def _refuse_other_ports(engine: Any, card: EngineCard, where: str) -> None:
    found = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
    wanted = {card.input.name, card.output.name}
    if found != wanted:
        raise InputError(f"{where}: the engine has the tensors {sorted(found)}, its sidecar says {sorted(wanted)}")
    for port in card.ports:
        if port.dtype != "float32":
            raise InputError(f"{where}: {port.mode} {port.name} is {port.dtype}; engines of this toolkit keep float32")


def _collect(lane: Lane, rows: slice, result: NDArray[np.float32]) -> None:
    result[rows] = lane.finish()[: rows.stop - rows.start]


def _close_all(lanes: list[Lane]) -> None:
    for lane in lanes:
        lane.close()


def check_spec(card: EngineCard, spec: ModelSpec, where: str) -> None:
    """An engine belongs to the bundle whose spec it carries."""
    if card.spec != spec:
        raise InputError(f"{where}: made for another model spec than the bundle's")
