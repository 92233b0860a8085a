"""Give a model another engine's format: `python convert.py ENGINE MODEL OUT PRECISION INPUTS.npy`.

A script, run where the converter is: it imports that, and for LiteRT the toolkit's own network (from PYTHONPATH).
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def litert(model: Path, out: Path, precision: str, inputs: Any) -> None:
    """A fused checkpoint -> .tflite that takes channels last; int8 by Google's quantiser, calibrated on the inputs."""
    converter, torch = importlib.import_module("litert_torch"), importlib.import_module("torch")
    network = importlib.import_module("train.checkpoint").load_model(model)[0].eval()
    faces = inputs.transpose(0, 2, 3, 1).copy()
    edge = converter.convert(converter.to_channel_last_io(network, args=[0]), (torch.from_numpy(faces[:1]),))
    edge.export(str(out))
    if precision == "int8":
        quantiser = importlib.import_module("ai_edge_quantizer.quantizer").Quantizer(str(out))
        quantiser.load_quantization_recipe(importlib.import_module("ai_edge_quantizer.recipe").static_wi8_ai8())
        reader = importlib.import_module("ai_edge_litert.interpreter").Interpreter(model_path=str(out))
        key = next(iter(reader.get_signature_list()["serving_default"]["inputs"]))
        calibrated = quantiser.calibrate({"serving_default": [{key: face[None]} for face in faces]})
        quantiser.quantize(calibrated).export_model(str(out), overwrite=True)


def ncnn(model: Path, out: Path, precision: str, inputs: Any) -> None:
    """ONNX -> .param and .bin, by pnnx, weights kept in float32."""
    pnnx = shutil.which("pnnx", path=str(Path(sys.executable).parent)) or shutil.which("pnnx")
    if pnnx is None:
        raise SystemExit("the program pnnx is not here: pip install pnnx")
    work = out.parent / f"{out.stem}-pnnx"
    work.mkdir(exist_ok=True)
    copied = work / "model.onnx"
    shutil.copyfile(model, copied)
    command = [pnnx, str(copied), f"inputshape=[1,3,{inputs.shape[2]},{inputs.shape[3]}]", "fp16=0"]
    subprocess.run(command, check=True, cwd=work, stdout=sys.stderr)
    shutil.move(work / "model.ncnn.bin", out.with_suffix(".bin"))
    shutil.move(work / "model.ncnn.param", out)
    shutil.rmtree(work)


def mnn(model: Path, out: Path, precision: str, inputs: Any) -> None:
    """ONNX -> .mnn, float32, by the converter inside the MNN wheel."""
    program = Path(sys.executable).parent / "mnnconvert"
    command = [str(program), "-f", "ONNX", "--modelFile", str(model), "--MNNModel", str(out), "--bizCode", "face"]
    subprocess.run(command, check=True, stdout=sys.stderr)


CONVERTERS: dict[str, Callable[[Path, Path, str, Any], None]] = {"litert": litert, "ncnn": ncnn, "mnn": mnn}


def main() -> None:
    """Convert; the result has its name only when it is whole."""
    engine, model, out, precision, inputs = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:6]
    with contextlib.redirect_stdout(sys.stderr):
        CONVERTERS[engine](model, out, precision, importlib.import_module("numpy").load(inputs))


if __name__ == "__main__":
    main()
