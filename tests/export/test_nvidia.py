"""NVIDIA's own parser and builder take all three ONNX files of a bundle; no GPU is needed to ask them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from export.contract import LAST_OPSET, check_contract, refusals
from export.onnx_file import read_onnx

FILES = ("model.onnx", "model.fp16.onnx", "model.int8.onnx")


def test_all_files_parse_and_build(bundle_dir: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install tensorrt-rtx")
    paths = [str(bundle_dir / name) for name in FILES]
    script = Path(__file__).with_name("nvidia_parse.py")
    command = [sys.executable, str(script), *paths, "--build", *paths]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout.strip().splitlines()[-1]) == {path: [] for path in paths}


@pytest.mark.parametrize("name", FILES)
def test_the_contract_takes_them_too(bundle_dir: Path, name: str) -> None:
    for target in set(LAST_OPSET) - {"8.6"}:
        assert refusals(check_contract(read_onnx(bundle_dir / name), target)) == []
