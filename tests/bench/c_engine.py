"""The generated C against other engines: same model, same faces, one pinned core, contenders alternating by batches.

Engines that are not installed are named and left out. `--model FILE.onnx` takes a model of your own (fp32 or int8);
without it a net of the wanted architecture and width with random weights is measured: speed does not depend on them.
`--avx2` keeps OpenVINO to AVX2 too (oneDNN's own setting, before it is loaded); ONNX Runtime knows no such setting.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from export.c import export_c
from export.c.passes import is_int8
from export.c.read import read
from runtime.geometry import network_input
from runtime.spec import ModelSpec
from tests.bench.measure import Samples, interleave, pinned, save

Predict = Callable[[], object]
BATCH = 12
FLAGS = {"": ("-march=native",), " AVX2": ("-mavx2", "-mfma")}


def generated(
    model: onnx.ModelProto, spec: ModelSpec, folder: Path, flags: tuple[str, ...], face: NDArray[np.uint8]
) -> Predict:
    """The compiled C, called through ctypes."""
    precision = "int8" if is_int8(read(model)) else "fp32"
    library = folder / "net.so"
    if not library.exists():
        export_c(model, spec, folder, precision=precision)  # type: ignore[arg-type]
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            sys.exit("no C compiler here: nothing to measure")
        command = [compiler, "-O3", *flags, "-fPIC", "-shared", "-o", str(library), str(folder / "landmarks.c")]
        subprocess.run(command, check=True)
    net = ctypes.CDLL(str(library))
    net.lm_arena_bytes.restype = ctypes.c_size_t
    size = net.lm_arena_bytes()
    memory = np.zeros(size + 64, np.uint8)
    context = (ctypes.c_uint8 * 64)()
    start = -(-memory.ctypes.data // 64) * 64
    if net.lm_init(context, ctypes.c_void_p(start), ctypes.c_size_t(size)) or net.lm_selftest(context, None):
        sys.exit("the generated C does not work on this machine")
    xy = np.zeros(2 * spec.points, np.float32)
    pointers = (ctypes.c_void_p(face.ctypes.data), ctypes.c_void_p(xy.ctypes.data))

    def predict() -> object:
        net.lm_run(context, *pointers)
        return memory, xy, face

    return predict


def onnxruntime_engine(model: onnx.ModelProto, batch: NDArray[np.float32]) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input(session.get_inputs()[0].name, batch)
    binding.bind_output(session.get_outputs()[0].name)
    return lambda: session.run_with_iobinding(binding)


def openvino_engine(model: onnx.ModelProto, batch: NDArray[np.float32]) -> Predict:
    import openvino

    core = openvino.Core()
    network = core.read_model(model.SerializeToString())
    network.reshape({network.inputs[0]: list(batch.shape)})
    settings = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the processor has it: coarser, and slower here
    }
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(batch, shared_memory=True))
    return request.infer


ENGINES: dict[str, Callable[[onnx.ModelProto, NDArray[np.float32]], Predict]] = {
    "ONNX Runtime": onnxruntime_engine,
    "OpenVINO": openvino_engine,
}


def random_model(spec: ModelSpec) -> onnx.ModelProto:
    """A fused network whose activations neither die nor explode."""
    import io
    import warnings

    import torch

    from train.models.zoo import build

    torch.manual_seed(0)
    model = build(spec, fused=True).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d) and module.bias is not None:
                module.bias.normal_(0, 0.05)
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shape = (1, 3, spec.input_size, spec.input_size)
        torch.onnx.export(model, (torch.zeros(shape),), stream, dynamo=False, opset_version=13, input_names=["input"])
    return onnx.load_from_string(stream.getvalue())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for the JSON files")
    parser.add_argument("--quick", action="store_true", help="a few rounds only, to see that it works")
    parser.add_argument("--model", type=Path, help="ONNX file; default: a random net")
    parser.add_argument("--architecture", default="ghostone")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--input-size", type=int, default=112)
    parser.add_argument("--build", type=Path, help="keep the compiled C here, and take what an earlier call left there")
    parser.add_argument("--avx2", action="store_true", help="OpenVINO may use AVX2 at most")
    options = parser.parse_args(argv)
    if options.avx2:
        os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    if options.model is None:
        spec = ModelSpec(options.architecture, options.width, input_size=options.input_size)
        model = random_model(spec)
    else:
        model = onnx.load(options.model)
        graph = read(model)
        points = graph.output.shape.channels // 2
        layout = "wflw98" if points == 98 else f"plain{points}"
        spec = ModelSpec(options.architecture, 1.0, points, graph.input.shape.height, layout=layout)
    face = np.random.default_rng(0).integers(0, 256, (spec.input_size, spec.input_size, 3), dtype=np.uint8)
    batch = network_input(face[None], spec)
    contenders: dict[str, Predict] = {}
    with pinned(), tempfile.TemporaryDirectory() as place:
        home = options.build or Path(place)
        for title, flags in FLAGS.items():
            contenders[f"C{title}"] = generated(model, spec, home / f"c{title.strip()}", flags, face)
        for name, engine in ENGINES.items():
            try:
                limited = " AVX2" if options.avx2 and name == "OpenVINO" else ""
                contenders[f"{name}{limited}"] = engine(model, batch)
            except ImportError:
                print(f"{name} is not installed: left out")
        batches = {name: repeated(call) for name, call in contenders.items()}
        samples = per_call(interleave(batches, 3 if options.quick else 40))
    rows = {}
    print(
        f"{'engine':16} {'min us':>9} {'p50 us':>9} {'p95 us':>9} "
        f"{'/ C (min)':>10} {'/ C (p50)':>10} {'/ C AVX2 (p50)':>15}"
    )
    fastest = min(samples.seconds["C"])
    for name, seconds in samples.seconds.items():
        row = {
            "min_us": 1e6 * min(seconds),
            "p50_us": 1e6 * samples.median(name),
            "p95_us": 1e6 * samples.p95(name),
            "ratio_min": min(seconds) / fastest,
            "ratio_p50": samples.ratio(name, "C"),
            "ratio_avx2_p50": samples.ratio(name, "C AVX2"),
        }
        rows[name] = row
        print(
            f"{name:16} {row['min_us']:9.0f} {row['p50_us']:9.0f} {row['p95_us']:9.0f} "
            f"{row['ratio_min']:10.2f} {row['ratio_p50']:10.2f} {row['ratio_avx2_p50']:15.2f}"
        )
    save(options.out, "c_engine", rows, {"latency": samples})


def repeated(call: Predict) -> Predict:
    """BATCH calls in a row: the weights are where steady work leaves them, not where the last contender did."""

    def batch() -> object:
        return [call() for _ in range(BATCH)]

    return batch


def per_call(samples: Samples) -> Samples:
    """Mean seconds per call of each batch."""
    return Samples({name: [second / BATCH for second in seconds] for name, seconds in samples.seconds.items()})


if __name__ == "__main__":
    main()
