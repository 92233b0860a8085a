"""Nobody is told what is run: ONNX Runtime leaves no identifier and no events behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RUN = """
import runtime
import onnx, onnxruntime as ort
from onnx import TensorProto as T, helper as h
value = lambda name: h.make_tensor_value_info(name, T.FLOAT, [1])
graph = h.make_graph([h.make_node("Relu", ["x"], ["y"])], "g", [value("x")], [value("y")])
model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
"""


def child(home: Path, code: str, **more: str) -> str:
    """What a process prints whose home is empty and which does not know that it runs in continuous integration."""
    home.mkdir()
    known = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "SYSTEMROOT") if name in os.environ}
    environment = {**known, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", **more}
    ended = subprocess.run(
        [sys.executable, "-c", code], check=True, env=environment, timeout=120, capture_output=True, text=True
    )
    return ended.stdout


def test_a_session_leaves_nothing_behind(tmp_path: Path) -> None:
    child(tmp_path / "home", RUN)
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []


def test_whoever_allows_it_is_obeyed(tmp_path: Path) -> None:
    """Asked of the environment alone: a session would report itself."""
    tell = "import os, runtime; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert child(tmp_path / "silent", tell) == "1\n"
    assert child(tmp_path / "allowed", tell, ORT_DISABLE_TELEMETRY="0") == "0\n"
