"""Nobody is told what is run: ONNX Runtime leaves no identifier and no events behind, and reports none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import runtime
import onnx, onnxruntime as ort
from onnx import TensorProto as T, helper as h
value = lambda name: h.make_tensor_value_info(name, T.FLOAT, [1])
graph = h.make_graph([h.make_node("Relu", ["x"], ["y"])], "g", [value("x")], [value("y")])
model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
"""


def left_behind(home: Path, **more: str) -> list[str]:
    """What a session writes into an empty home folder; continuous integration, where it is silent, is not told."""
    home.mkdir()
    known = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "SYSTEMROOT") if name in os.environ}
    environment = {**known, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", **more}
    subprocess.run([sys.executable, "-c", RUN], check=True, env=environment, timeout=120)
    return sorted(path.name for path in home.rglob("*") if path.is_file())


def test_a_session_tells_nobody(tmp_path: Path) -> None:
    assert left_behind(tmp_path / "home") == []


def test_whoever_allows_it_is_obeyed(tmp_path: Path) -> None:
    from onnxruntime import __version__

    if tuple(map(int, __version__.split(".")[:2])) < (1, 29) or not sys.platform.startswith("linux"):
        pytest.skip("this ONNX Runtime reports nothing")
    assert "deviceid" in left_behind(tmp_path / "home", ORT_DISABLE_TELEMETRY="0")
