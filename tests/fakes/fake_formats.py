"""A Python whose converters and engines are stand-ins: `fake SCRIPT ARGUMENTS`, as the real one is called.

Converting puts the ONNX model behind a head of the format's own, the random identity of MNN included; running takes
it out again and asks ONNX Runtime.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from pathlib import Path

HEADS = {"mnn": b"MNN0", "ncnn": b"7767517\n", "openvino": b"<?xml version='1.0'?>\n"}
"""The formats that are imitated, and how their files begin."""
ENVIRONMENT = {"mnn": "9.1", "ncnn": "9.2", "pnnx": "9.3", "openvino": "9.4", "numpy": "2"}


def python_at(place: Path) -> str:
    """An executable that stands for the Python of an environment with everything in it."""
    fake = place / "python"
    fake.write_text(f"#!{sys.executable}\nimport runpy\nrunpy.run_path({__file__!r}, run_name='__main__')\n")
    fake.chmod(0o755)
    return str(fake)


def convert(form: str, model: str, out: str, precision: str) -> None:
    print("words that nobody asked for")
    body = Path(model).read_bytes()
    if form == "mnn":
        body = str(uuid.uuid4()).encode() + body
    target = Path(out)
    if form == "mnn":
        target.write_bytes(HEADS[form] + body)
    else:
        target.write_bytes(HEADS[form] + precision.encode())
        target.with_suffix(".bin").write_bytes(body)


def measure(form: str, model: str, inputs: str, outputs: str, facts: str) -> None:
    import numpy as np

    from runtime.backends.ort import OrtModel

    data = Path(model).read_bytes()
    if not data.startswith(HEADS[form]):
        os.abort()
    body = data[len(HEADS[form]) + 36 :] if form == "mnn" else Path(model).with_suffix(".bin").read_bytes()
    np.save(outputs, OrtModel(body)(np.load(inputs)))
    Path(facts).write_text(json.dumps({"input": "input", "output": "landmarks", "layout": "NCHW"}))


if __name__ == "__main__":
    script, *arguments = sys.argv[1:]
    if script.endswith("convert.py"):
        convert(*arguments[:4])
    else:
        measure(*arguments[:5])
