"""The int8 network in OpenVINO: our ONNX as it is, with its low-precision pass off, and with the pairs joined.

    python -m tests.bench.openvino_int8 BUNDLE

Distances on the bundle's probes, from the exact integers stored with them.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.formats.alone.convert import openvino as convert
from export.shift import landmark_shift
from runtime.backends.formats import FORMATS, require_engine
from runtime.backends.ort import OrtModel
from runtime.bundle import Bundle, read_arrays
from runtime.errors import ToolkitError, UsageError
from runtime.geometry import network_input

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
OFF = {"LP_TRANSFORMS_MODE": "OFF"}
"""A setting that the plugin takes and does not list."""


def outputs(model: Path, faces: NDArray[np.float32], **settings: str) -> NDArray[np.float32]:
    """What OpenVINO puts out on the CPU."""
    engine: Any = importlib.import_module("openvino")
    compiled = engine.Core().compile_model(engine.Core().read_model(str(model)), "CPU", settings)
    found = [np.array(compiled.create_infer_request().infer({0: face[None]})[compiled.output(0)]) for face in faces]
    return np.concatenate(found).reshape(len(faces), -1)


def _converted(model: Path) -> Path:
    """What `ovc model.onnx` writes, without its telemetry."""
    engine: Any = importlib.import_module("openvino")
    network = engine.Core().read_model(str(model))
    importlib.import_module("openvino._offline_transformations").apply_moc_transformations(network, False)
    target = model.with_name("own.xml")
    engine.save_model(network, str(target), compress_to_fp16=False)
    return target


def main(directory: str) -> None:
    """Print one row for each way."""
    require_engine(FORMATS["openvino"])
    bundle = Bundle.open(directory)
    arrays = read_arrays(bundle.read("probe"), "probe.npz")
    if "int8" not in arrays:
        raise UsageError(f"{directory}: holds no int8 model")
    faces = network_input(arrays["crops"], bundle.spec)
    with tempfile.TemporaryDirectory() as folder:
        given, joined = Path(folder) / "model.onnx", Path(folder) / "model.xml"
        given.write_bytes(bundle.read("int8"))
        convert(given, joined, "int8", bundle.spec.input_size)
        ways: dict[str, Callable[[], NDArray[np.float32]]] = {
            "ONNX Runtime": lambda: OrtModel(given, optimise=False)(faces),
            "OpenVINO, our ONNX": lambda: outputs(given, faces),
            "OpenVINO, our ONNX, f32 hint": lambda: outputs(given, faces, **EXACT),
            "OpenVINO, our ONNX, f32 hint, low-precision pass off": lambda: outputs(given, faces, **EXACT, **OFF),
            "OpenVINO, its own conversion, f32 hint": lambda: outputs(_converted(given), faces, **EXACT),
            "OpenVINO, pairs joined, f32 hint": lambda: outputs(joined, faces, **EXACT),
        }
        print("| engine | mean px | largest px | mean % | against float32, mean % |\n|---|---|---|---|---|")
        for name, run in ways.items():
            found = run()
            gap = landmark_shift(found, arrays["int8"], bundle.spec)
            whole = landmark_shift(found, arrays["fp32"], bundle.spec).mean_percent
            print(f"| {name} | {gap.mean_pixels:.3f} | {gap.max_pixels:.2f} | {gap.mean_percent:.2f} | {whole:.2f} |")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:2])
    except (ToolkitError, TypeError) as problem:
        raise SystemExit(f"error: {problem}") from problem
