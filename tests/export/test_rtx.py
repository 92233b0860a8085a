"""Our adapter on NVIDIA's real parser and builder (TensorRT-RTX), which need no GPU: what is taken and what is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PARTS = Path(__file__).with_name("rtx_build.py")


@pytest.fixture(scope="module")
def answers(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Everything is asked in one process of its own: the library is large, and a crash must not end the tests."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install tensorrt-rtx")
    target = tmp_path_factory.mktemp("rtx") / "answers.json"
    command = [sys.executable, str(PARTS), str(bundle_dir), str(target)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2])
    assert run.returncode == 0, run.stderr[-2000:]
    found: dict[str, Any] = json.loads(target.read_text())
    return found


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_file_of_a_bundle_is_built(answers: dict[str, Any], precision: str) -> None:
    built = answers["built"][precision]
    assert built["bytes"] > 10_000 and built["typing"] == "strong"
    assert built["phases"] > 3, "the progress monitor was called"


def test_what_the_module_can_do(answers: dict[str, Any]) -> None:
    able = answers["abilities"]
    assert able["module"] == "tensorrt_rtx" and able["monitor"] and not able["weak"] and not able["calibrators"]
    assert {"none", "ampere-plus"} <= set(able["hardware"])


@pytest.mark.parametrize("variant", ["int32 bias", "uint8", "zero point"])
def test_bad_graphs_are_refused_by_both(answers: dict[str, Any], variant: str) -> None:
    """Our contract in words first; and NVIDIA's parser too, when ours is switched off."""
    assert answers["refused"][variant]["contract"].startswith("model.onnx: TensorRT-RTX")
    assert "refuses the graph" in answers["refused"][variant]["parser"]


def test_options_that_it_lacks_are_refused(answers: dict[str, Any]) -> None:
    assert "has no calibrators" in answers["options"]["legacy"]
    assert "--dla" in answers["options"]["dla"]


def test_ctrl_c_stops_a_real_build(answers: dict[str, Any]) -> None:
    stopped = answers["interrupted"]
    assert stopped["raised"] == "KeyboardInterrupt" and stopped["steps"] < answers["built"]["fp32"]["steps"]


def test_a_plan_does_not_load_without_a_gpu_and_nothing_crashes(answers: dict[str, Any]) -> None:
    assert answers["loads here"] in (True, False)
