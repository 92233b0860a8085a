"""One engine in one process, driven by JSON lines: load, run so many times, tell the times.

A script: `python worker.py` reads requests from stdin and answers on stdout. It needs numpy and the engine alone, so
it also runs in environments that the toolkit is not installed in.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Call = Callable[[], Any]
Result = Callable[[], Any]
np: Any = None
"""numpy, imported when the worker starts."""


class Engine:
    """A loaded model. `bind` gives a function that runs one batch, and one that reads what it computed."""

    batches = True
    """Whether several faces go in at once; else one after the other."""

    def bind(self, crops: Any, values: Any) -> tuple[Call, Result]:
        raise NotImplementedError


class OnnxRuntime(Engine):
    """ONNX Runtime on the CPU, inputs and outputs bound."""

    def __init__(self, model: str, threads: int, options: dict[str, Any]) -> None:
        ort = importlib.import_module("onnxruntime")
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        self._session = ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        self.batches = not isinstance(self._session.get_inputs()[0].shape[0], int)

    def bind(self, crops: Any, values: Any) -> tuple[Call, Result]:
        self._kept = values  # the binding borrows its memory
        binding = self._session.io_binding()
        binding.bind_cpu_input(self._session.get_inputs()[0].name, values)
        binding.bind_output(self._session.get_outputs()[0].name)

        def call() -> None:
            self._session.run_with_iobinding(binding)

        return call, lambda: binding.copy_outputs_to_cpu()[0]


class OpenVino(Engine):
    """OpenVINO on the CPU, tuned for latency."""

    def __init__(self, model: str, threads: int, options: dict[str, Any]) -> None:
        self._ov = importlib.import_module("openvino")
        self._core = self._ov.Core()
        self._model, self._threads = model, threads
        self._requests: dict[int, Any] = {}
        self._request(1)

    def _request(self, batch: int) -> Any:
        if batch not in self._requests:
            network = self._core.read_model(self._model)
            shape = list(network.inputs[0].partial_shape)
            network.reshape({network.inputs[0]: [batch, *[d.get_length() for d in shape[1:]]]})
            settings = {
                "INFERENCE_NUM_THREADS": self._threads,
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32",
            }
            self._requests[batch] = self._core.compile_model(network, "CPU", settings).create_infer_request()
        return self._requests[batch]

    def bind(self, crops: Any, values: Any) -> tuple[Call, Result]:
        self._kept = values  # the tensor borrows its memory
        request = self._request(len(values))
        request.set_input_tensor(self._ov.Tensor(values, shared_memory=True))
        return request.infer, lambda: request.get_output_tensor(0).data.copy()


class LiteRt(Engine):
    """LiteRT with XNNPACK; takes whichever layout the converter chose."""

    batches = False

    def __init__(self, model: str, threads: int, options: dict[str, Any]) -> None:
        for name in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter"):
            try:
                module = importlib.import_module(name)
            except ImportError:
                continue
            break
        else:
            raise ImportError("neither ai_edge_litert nor tflite_runtime can be imported")
        self._net = module.Interpreter(model_path=model, num_threads=threads)
        self._net.allocate_tensors()
        self._input, self._output = self._net.get_input_details()[0], self._net.get_output_details()[0]

    def bind(self, crops: Any, values: Any) -> tuple[Call, Result]:
        if tuple(self._input["shape"]) != values.shape:
            values = np.ascontiguousarray(values.transpose(0, 2, 3, 1))
        if self._input["dtype"] != np.float32:
            scale, zero = self._input["quantization"]
            limits = np.iinfo(self._input["dtype"])
            values = np.clip(np.rint(values / scale) + zero, limits.min, limits.max).astype(self._input["dtype"])
        at, net = self._input["index"], self._net

        def call() -> None:
            net.set_tensor(at, values)
            net.invoke()

        def result() -> Any:
            found = net.get_tensor(self._output["index"])
            if found.dtype != np.float32:
                scale, zero = self._output["quantization"]
                found = (found.astype(np.float32) - zero) * scale
            return found

        return call, result


class Ncnn(Engine):
    """ncnn in plain float32, as the other float32 engines."""

    batches = False

    def __init__(self, model: str, threads: int, options: dict[str, Any]) -> None:
        self._ncnn = importlib.import_module("ncnn")
        self._net = self._ncnn.Net()
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
            setattr(self._net.opt, name, False)
        self._net.opt.use_vulkan_compute = False
        self._net.opt.num_threads = threads
        if self._net.load_param(model) or self._net.load_model(model.removesuffix(".param") + ".bin"):
            raise RuntimeError(f"ncnn cannot load {model}")

    def bind(self, crops: Any, values: Any) -> tuple[Call, Result]:
        face = self._ncnn.Mat(values[0]).clone()
        found: list[Any] = [None]

        def call() -> None:
            run = self._net.create_extractor()
            run.input(self._net.input_names()[0], face)
            found[0] = run.extract(self._net.output_names()[0])[1]

        return call, lambda: np.array(found[0]).reshape(1, -1)


class Mnn(Engine):
    """MNN on the CPU in high precision."""

    batches = False

    def __init__(self, model: str, threads: int, options: dict[str, Any]) -> None:
        self._mnn = importlib.import_module("MNN")
        self._net = self._mnn.Interpreter(model)
        settings = {"numThread": threads, "backend": "CPU", "precision": "high", "saveTensors": ()}
        self._session = self._net.createSession(settings)
        self._input = self._net.getSessionInput(self._session)
        self._output = self._net.getSessionOutput(self._session)

    def bind(self, crops: Any, values: Any) -> tuple[Call, Result]:
        self._kept = values
        mnn = self._mnn
        self._net.resizeTensor(self._input, tuple(values.shape))
        self._net.resizeSession(self._session)
        face = mnn.Tensor(values.shape, mnn.Halide_Type_Float, values, mnn.Tensor_DimensionType_Caffe)
        shape = self._output.getShape()
        back = mnn.Tensor(shape, mnn.Halide_Type_Float, np.zeros(shape, np.float32), mnn.Tensor_DimensionType_Caffe)

        def call() -> None:
            self._input.copyFrom(face)
            self._net.runSession(self._session)
            self._output.copyToHostTensor(back)

        return call, lambda: np.array(back.getNumpyData(), dtype=np.float32).reshape(1, -1)


class OpenCv(Engine):
    """OpenCV's dnn module."""

    def __init__(self, model: str, threads: int, options: dict[str, Any]) -> None:
        self._cv2 = importlib.import_module("cv2")
        self._cv2.setNumThreads(threads)
        self._net = self._cv2.dnn.readNetFromONNX(model)
        self.batches = False  # OpenCV 5 plans for one shape; changing the batch plans anew

    def bind(self, crops: Any, values: Any) -> tuple[Call, Result]:
        found: list[Any] = [None]

        def call() -> None:
            self._net.setInput(values)
            found[0] = self._net.forward()

        return call, lambda: np.asarray(found[0]).reshape(len(values), -1)


class Torch(Engine):
    """PyTorch, eager, the fused checkpoint."""

    def __init__(self, model: str, threads: int, options: dict[str, Any]) -> None:
        torch = importlib.import_module("torch")
        torch.set_num_threads(threads)
        self._torch = torch
        self._model = importlib.import_module("train.checkpoint").load_model(Path(model))[0]
        self._model.eval()

    def bind(self, crops: Any, values: Any) -> tuple[Call, Result]:
        batch, found = self._torch.from_numpy(values), [None]

        def call() -> None:
            with self._torch.inference_mode():
                found[0] = self._model(batch)

        return call, lambda: np.asarray(found[0])


class GeneratedC(Engine):
    """The generated C as a shared library; it takes bytes and normalises them itself."""

    batches = False

    def __init__(self, model: str, threads: int, options: dict[str, Any]) -> None:
        prefix, self._points = options["prefix"], options["points"]
        net = ctypes.CDLL(model)
        size = getattr(net, f"{prefix}_arena_bytes")
        size.restype = ctypes.c_size_t
        self._memory = np.zeros(size() + 4096, np.uint8)
        self._context = (ctypes.c_uint8 * 4096)()
        start = -(-self._memory.ctypes.data // 4096) * 4096
        if getattr(net, f"{prefix}_init")(self._context, ctypes.c_void_p(start), ctypes.c_size_t(size())):
            raise RuntimeError("the generated C refuses its working memory")
        self._run = getattr(net, f"{prefix}_run")

    def bind(self, crops: Any, values: Any) -> tuple[Call, Result]:
        face, xy = np.ascontiguousarray(crops[0]), np.zeros(2 * self._points, np.float32)
        pointers = (ctypes.c_void_p(face.ctypes.data), ctypes.c_void_p(xy.ctypes.data))
        context, run = self._context, self._run
        self._kept = face

        def call() -> None:
            run(context, *pointers)

        return call, lambda: xy.reshape(1, -1).copy()


class TensorRt(Engine):
    """A TensorRT engine through the toolkit's own back end: bytes in, copies to and from the GPU included."""

    def __init__(self, model: str, threads: int, options: dict[str, Any]) -> None:
        self._model = importlib.import_module("runtime.backends.tensorrt").open_plan(Path(model))

    def bind(self, crops: Any, values: Any) -> tuple[Call, Result]:
        found: list[Any] = [None]

        def call() -> None:
            found[0] = self._model.landmarks(crops)

        return call, lambda: np.asarray(found[0]).reshape(len(crops), -1)


class Broken(Engine):
    """Adds a given amount to what ONNX Runtime says, or ends its process: for the tests of the bench itself."""

    def __init__(self, model: str, threads: int, options: dict[str, Any]) -> None:
        if options.get("dies"):
            os._exit(9)
        self._engine, self._amount = OnnxRuntime(model, threads, options), options["amount"]

    def bind(self, crops: Any, values: Any) -> tuple[Call, Result]:
        call, result = self._engine.bind(crops, values)
        return call, lambda: result() + np.float32(self._amount)


ENGINES: dict[str, Callable[[str, int, dict[str, Any]], Engine]] = {
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "litert": LiteRt,
    "ncnn": Ncnn,
    "mnn": Mnn,
    "opencv": OpenCv,
    "torch": Torch,
    "c": GeneratedC,
    "tensorrt": TensorRt,
    "broken": Broken,
}
IMPORTS: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "litert": ("ai_edge_litert.interpreter",),
    "ncnn": ("ncnn",),
    "mnn": ("MNN",),
    "opencv": ("cv2",),
    "torch": ("torch", "train.checkpoint"),
    "tensorrt": ("tensorrt",),
}
"""What is imported, and timed apart, before loading is timed."""


def memory() -> dict[str, int]:
    """Resident bytes now and at most; 0 where the system does not say."""
    found = {"VmRSS": 0, "VmHWM": 0}
    try:
        with Path("/proc/self/status").open(encoding="ascii", errors="replace") as stream:
            for line in stream:
                name, _, rest = line.partition(":")
                if name in found:
                    found[name] = 1024 * int(rest.split()[0])
    except OSError:
        pass
    return {"now": found["VmRSS"], "peak": found["VmHWM"]}


def libraries() -> dict[str, int]:
    """Shared libraries in this process and their sizes on disk."""
    found: dict[str, int] = {}
    try:
        with Path("/proc/self/maps").open(encoding="utf-8", errors="replace") as stream:
            paths = {line.split(None, 5)[5].strip() for line in stream if len(line.split(None, 5)) == 6}
    except OSError:
        return found
    for path in paths:
        if ".so" in Path(path).name and Path(path).is_file():
            found[path] = Path(path).stat().st_size
    return found


def switches() -> int:
    """How often this process was interrupted so far."""
    try:
        resource = importlib.import_module("resource")
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw)
    except ImportError:
        return 0


class Worker:
    """Answers requests; keeps the engine and what it is bound to."""

    def __init__(self) -> None:
        global np
        np = importlib.import_module("numpy")
        self._base = memory()["peak"]
        self._known = libraries()
        self._engine: Engine | None = None
        self._call: Call = lambda: None
        self._result: Result = lambda: None

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Import the engine, then load the model; both are timed."""
        self._crops = np.load(request["crops"])
        self._values = np.load(request["values"])
        self._base = memory()["peak"]
        began = time.perf_counter()
        versions = {}
        for name in IMPORTS.get(request["engine"], ()):
            try:
                module = importlib.import_module(name)
            except ImportError:
                if name != "ai_edge_litert.interpreter":
                    raise
                continue
            versions[name] = str(getattr(module, "__version__", ""))
        loading = time.perf_counter()
        self._engine = ENGINES[request["engine"]](request["model"], request["threads"], request.get("options", {}))
        self._bind(1)
        done = time.perf_counter()
        return {
            "import_s": loading - began,
            "load_s": done - loading,
            "versions": versions,
            "batches": self._engine.batches,
        }

    def _bind(self, batch: int, first: int = 0) -> None:
        if self._engine is None:
            raise RuntimeError("nothing is loaded")
        rows = [(first + i) % len(self._crops) for i in range(batch)]
        self._call, self._result = self._engine.bind(
            np.ascontiguousarray(self._crops[rows]), np.ascontiguousarray(self._values[rows])
        )

    def bind(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take so many faces at once from now on."""
        self._bind(request["batch"])
        return {}

    def outputs(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the engine says about the first faces, one at a time, into a file."""
        found = []
        for face in range(request["count"]):
            self._bind(1, face)
            self._call()
            found.append(np.asarray(self._result(), dtype=np.float32).reshape(-1))
        np.save(request["file"], np.stack(found))
        self._bind(1)
        return {}

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Time calls, one by one; `interval` makes them wait for their turn as a camera does."""
        call, clock = self._call, time.perf_counter
        seconds = [0.0] * request["count"]
        interval = request.get("interval", 0.0)
        before = switches()
        due = clock()
        for index in range(request["count"]):
            if interval:
                due += interval
                time.sleep(max(0.0, due - clock()))
            start = clock()
            call()
            seconds[index] = clock() - start
        return {"seconds": seconds, "interrupted": switches() - before}

    def memory(self, request: dict[str, Any]) -> dict[str, Any]:
        """Peak memory above an interpreter with numpy, and the libraries that loading brought in."""
        new = {path: size for path, size in libraries().items() if path not in self._known}
        return {"rss": max(0, memory()["peak"] - self._base), "libraries": sum(new.values())}


def main() -> None:
    """Serve until stdin closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # engines print to stdout; that must not mix with the answers
    if len(sys.argv) > 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in sys.argv[1].split(",")})
    worker = Worker()
    steps = {name: getattr(worker, name) for name in ("load", "bind", "outputs", "run", "memory")}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = steps[request["do"]](request)
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            answer = {"error": text[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
