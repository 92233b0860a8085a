"""ONNX Runtime on a GPU, through its CUDA or its TensorRT provider; never on the CPU under a GPU's name."""

from __future__ import annotations

from typing import Any

from runtime.backends.onnx import OnnxFaceModel
from runtime.backends.ort import OrtModel
from runtime.bundle import Bundle
from runtime.errors import MissingBackendError
from runtime.gpu import probe_gpu
from runtime.gpu_pieces import PROVIDERS, provider_fix
from runtime.lazy import require

_NEXT = "the CPU runs the same file: --backend onnx"
_CUDA_OPTIONS: dict[str, Any] = {"use_tf32": "0"}
"""float32 means float32: TF32 keeps ten bits of the mantissa."""
_TENSORRT_OPTIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "fp16": {"trt_fp16_enable": "1"},
    "int8": {"trt_int8_enable": "1"},
}


def open_onnx_cuda(bundle: Bundle, precision: str = "fp32") -> OnnxFaceModel:
    """An ONNX file of a bundle on ONNX Runtime's CUDA provider."""
    return _open(bundle, precision, "onnx-cuda", _CUDA_OPTIONS)


def open_onnx_tensorrt(bundle: Bundle, precision: str = "fp32") -> OnnxFaceModel:
    """An ONNX file of a bundle on ONNX Runtime's TensorRT provider, which builds an engine at every start."""
    return _open(bundle, precision, "onnx-tensorrt", _TENSORRT_OPTIONS[precision])


def _open(bundle: Bundle, precision: str, name: str, options: dict[str, Any]) -> OnnxFaceModel:
    provider = PROVIDERS[name]
    try:
        gpu = probe_gpu()
    except MissingBackendError as error:
        raise MissingBackendError(f"{name}: {error}; {_NEXT}") from error
    ort = require("onnxruntime", "running an ONNX model")
    if provider not in ort.get_available_providers():
        raise MissingBackendError(
            f"{name}: this onnxruntime ({ort.__version__}) has no {provider}; {provider_fix()}; {_NEXT}"
        )
    model = OrtModel(bundle.read(precision), providers=((provider, options),))
    if model.providers[0] != provider:
        raise MissingBackendError(
            f"{name}: ONNX Runtime fell back to {model.providers[0]}; its {provider} does not fit the CUDA or TensorRT "
            f"libraries that are here; {_NEXT}"
        )
    where = str(bundle.directory / bundle.manifest.artefact(precision).file)
    return OnnxFaceModel(model, bundle.spec, f"ONNX Runtime {provider} {precision} on {gpu.name}", where)
