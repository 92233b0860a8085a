"""Heavy packages are imported when needed, and a missing one is a sentence, not a traceback."""

from __future__ import annotations

import importlib
from types import ModuleType

from runtime.errors import MissingBackendError

EXTRA_OF = {
    "cv2": "runtime",
    "onnxruntime": "runtime",
    "torch": "train",
    "matplotlib": "train",
    "tensorboard": "train",
    "onnx": "export",
    "onnxscript": "export",
    "onnxsim": "export",
    "onnxslim": "export",
    "onnxconverter_common": "export",
    "tensorrt": "tensorrt",
    "MNN": "mnn",
    "ncnn": "ncnn",
    "ai_edge_litert": "tflite",
    "openvino": "openvino",
}


def require(name: str, purpose: str) -> ModuleType:
    """Import a package for a purpose, or say which extra brings it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        extra = EXTRA_OF.get(name.split(".")[0])
        how = f"pip install 'landmark-toolkit[{extra}]'" if extra else f"pip install {name}"
        raise MissingBackendError(
            f"{purpose} needs the package {name}, which cannot be imported ({error}); {how}"
        ) from error
