"""`toolkit inspect` on a TensorRT plan: the sidecar's words, and whether they are about this file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

from engines import write_engine

from runtime.engine import sidecar_of
from toolkit.cli import main


def inspect(capsys: pytest.CaptureFixture[str], path: Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["inspect", str(path)])
    told = capsys.readouterr()
    return int(exit_.value.code or 0), told.out, told.err


def test_a_plan_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = write_engine(tmp_path)
    code, out, _ = inspect(capsys, plan)
    assert code == 0 and "TensorRT plan, fp32, for Fake GPU (SM 8.7)" in out
    assert "tensorrt 10.3.0" in out and "1 float32" in out and "the file that was built" in out
    plan.write_bytes(plan.read_bytes() + b"!")
    assert "NOT the file that its sidecar describes" in inspect(capsys, plan)[1]
    sidecar_of(plan).unlink()
    code, _, err = inspect(capsys, plan)
    assert code == 2 and "has no sidecar" in err
