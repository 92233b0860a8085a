"""Give a model another engine's format: `python convert.py FORMAT MODEL OUT PRECISION SIZE`.

A script, run where the converter is: it imports that, and for LiteRT the toolkit's own network (from PYTHONPATH).
The second file of a format is written beside OUT.
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


def tflite(model: Path, out: Path, precision: str, size: int) -> None:
    """A fused checkpoint -> .tflite that takes channels last; fp16 rounds the weights."""
    converter, torch = importlib.import_module("litert_torch"), importlib.import_module("torch")
    network = importlib.import_module("train.checkpoint").load_model(model)[0].eval()
    example = torch.zeros(1, size, size, 3)
    edge = converter.convert(converter.to_channel_last_io(network, args=[0]), (example,))
    edge.export(str(out))
    if precision == "fp16":
        quantiser = importlib.import_module("ai_edge_quantizer.quantizer").Quantizer(str(out))
        quantiser.load_quantization_recipe(_half_recipe())
        quantiser.quantize().export_model(str(out), overwrite=True)


def _half_recipe() -> Any:
    """Every weight in float16, every sum in float32."""
    kinds = importlib.import_module("ai_edge_quantizer.qtyping")
    manager = importlib.import_module("ai_edge_quantizer.recipe_manager").RecipeManager()
    names = importlib.import_module("ai_edge_quantizer.algorithm_manager").AlgorithmName
    half = kinds.TensorQuantizationConfig(num_bits=16, dtype=kinds.TensorDataType.FLOAT)
    manager.add_quantization_config(
        regex=".*",
        operation_name=kinds.TFLOperationName.ALL_SUPPORTED,
        op_config=kinds.OpQuantizationConfig(
            weight_tensor_config=half, compute_precision=kinds.ComputePrecision.FLOAT, explicit_dequantize=True
        ),
        algorithm_key=names.FLOAT_CASTING,
    )
    return manager.get_quantization_recipe()


def ncnn(model: Path, out: Path, precision: str, size: int) -> None:
    """ONNX -> .param and .bin, by pnnx."""
    beside = Path(sys.executable).parent
    pnnx = shutil.which("pnnx", path=str(beside)) or shutil.which("pnnx")
    if pnnx is None:
        raise SystemExit("the program pnnx is not here: pip install pnnx")
    work = out.parent / f"{out.stem}-pnnx"
    work.mkdir(exist_ok=True)
    shutil.copyfile(model, work / "model.onnx")
    command = [pnnx, "model.onnx", f"inputshape=[1,3,{size},{size}]", f"fp16={int(precision == 'fp16')}"]
    subprocess.run(command, check=True, cwd=work, stdout=sys.stderr)
    shutil.move(work / "model.ncnn.bin", out.with_suffix(".bin"))
    shutil.move(work / "model.ncnn.param", out)
    shutil.rmtree(work)


def mnn(model: Path, out: Path, precision: str, size: int) -> None:
    """ONNX -> .mnn, by the converter inside the MNN wheel.

    Not by its command `mnnconvert`: that one also installs a package with pip and reports the conversion to a server.
    """
    arguments = ["mnnconvert", "-f", "ONNX", "--modelFile", str(model), "--MNNModel", str(out), "--bizCode", "face"]
    importlib.import_module("MNN")
    importlib.import_module("_tools").mnnconvert(arguments + ["--fp16"] * (precision == "fp16"))


def openvino(model: Path, out: Path, precision: str, size: int) -> None:
    """ONNX -> .xml and .bin; read_model, because convert_model also reports the conversion to a server."""
    engine = importlib.import_module("openvino")
    network = engine.Core().read_model(str(model))
    if precision == "int8":
        _join_quantisers(network)
    with contextlib.suppress(ImportError):  # shapes are worked out now, not whenever the file is loaded
        importlib.import_module("openvino._offline_transformations").apply_moc_transformations(network, False)
    engine.save_model(network, str(out), compress_to_fp16=precision == "fp16")


def _join_quantisers(network: Any) -> None:
    """Each QuantizeLinear/DequantizeLinear pair of an activation becomes one FakeQuantize of the same values.

    Read as it is, an ONNX file with such pairs goes wrong: the CPU plugin loses the scale of a pair that stands behind
    a concatenation and rounds the values themselves to whole numbers. OpenVINO's own conversion joins pairs too.
    """
    ops, np = importlib.import_module("openvino.opset13"), importlib.import_module("numpy")
    for node in network.get_ordered_ops():
        if node.get_type_name() != "FakeQuantize":
            continue
        last = node
        while last.get_type_name() != "Multiply":
            readers = list(last.output(0).get_target_inputs())
            if len(readers) != 1 or readers[0].get_node().get_type_name() not in ("Convert", "Subtract", "Multiply"):
                raise SystemExit(f"{node.get_friendly_name()}: not a pair as this toolkit writes it")
            last = readers[0].get_node()
        scale = np.float64(last.input_value(1).get_node().data.reshape(()))
        low, high = (ops.constant(np.float32(code * scale)) for code in (-128, 127))
        joined = ops.fake_quantize(node.input_value(0), low, high, low, high, 256)
        joined.set_friendly_name(last.get_friendly_name())
        last.output(0).replace(joined.output(0))
    network.validate_nodes_and_infer_types()


CONVERTERS: dict[str, Callable[[Path, Path, str, int], None]] = {
    "tflite": tflite,
    "ncnn": ncnn,
    "mnn": mnn,
    "openvino": openvino,
}


def main() -> None:
    """Convert."""
    form, model, out, precision, size = sys.argv[1:6]
    with contextlib.redirect_stdout(sys.stderr):
        CONVERTERS[form](Path(model), Path(out), precision, int(size))


if __name__ == "__main__":
    main()
