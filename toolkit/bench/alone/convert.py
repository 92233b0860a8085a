"""Give a model another engine's format: `python convert.py ENGINE MODEL OUT PRECISION INPUTS.npy`.

A script, run where the converter is. It converts as `toolkit export` does (the toolkit comes from PYTHONPATH); the one
thing of its own is Google's int8 for LiteRT, to compare with.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORMATS = {"litert": "tflite", "ncnn": "ncnn", "mnn": "mnn", "openvino": "openvino"}
"""What the toolkit calls the format that an engine reads."""


def litert_int8(model: Path, out: Path, inputs: Any) -> None:
    """A fused checkpoint -> int8 .tflite by Google's quantiser, calibrated on the inputs."""
    _export("litert")(model, out, "fp32", inputs.shape[2])
    quantiser = importlib.import_module("ai_edge_quantizer.quantizer").Quantizer(str(out))
    quantiser.load_quantization_recipe(importlib.import_module("ai_edge_quantizer.recipe").static_wi8_ai8())
    reader = importlib.import_module("ai_edge_litert.interpreter").Interpreter(model_path=str(out))
    key = next(iter(reader.get_signature_list()["serving_default"]["inputs"]))
    faces = inputs.transpose(0, 2, 3, 1).copy()
    calibrated = quantiser.calibrate({"serving_default": [{key: face[None]} for face in faces]})
    quantiser.quantize(calibrated).export_model(str(out), overwrite=True)


def _export(engine: str) -> Callable[[Path, Path, str, int], None]:
    converters = importlib.import_module("export.formats.alone.convert").CONVERTERS
    found: Callable[[Path, Path, str, int], None] = converters[FORMATS[engine]]
    return found


def main() -> None:
    """Convert; the result has its name only when it is whole."""
    engine, model, out, precision = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    with contextlib.redirect_stdout(sys.stderr):
        inputs = importlib.import_module("numpy").load(sys.argv[5])
        if (engine, precision) == ("litert", "int8"):
            litert_int8(model, out, inputs)
        else:
            _export(engine)(model, out, precision, inputs.shape[2])


if __name__ == "__main__":
    main()
