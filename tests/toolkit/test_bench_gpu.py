"""The bench's stages on the GPU, on a CUDA and a TensorRT that stand in for the real ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))

import fake_tensorrt
from engines import card_of, numpy_engine, plan_bytes
from fake_cuda import FakeCuda, fake_cuda  # noqa: F401

from runtime.backends.tensorrt import TensorRtModel
from runtime.gpu_timing import STAGES
from toolkit.bench import gpu


@pytest.fixture
def model(fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> Iterator[TensorRtModel]:  # noqa: F811
    behaviour = fake_tensorrt.Behaviour()
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.make("10.3", fake_cuda, behaviour, numpy_engine))
    plan = plan_bytes()
    with TensorRtModel(plan, card_of(plan)) as opened:
        yield opened


def test_every_stage_has_a_row(model: TensorRtModel, tmp_path: Path) -> None:
    found = gpu.measure(model, tmp_path / "engine.plan", "fp32", 2, runs=10, warmup=3)
    rows = {row[0]: row for row in found.rows()}
    assert list(rows) == [*STAGES, gpu.REPLAY] and all(len(row) == len(gpu.COLUMNS) for row in rows.values())
    assert rows["compute"][1] == f"{found.times.stages['compute'].percentiles[50]:.3f}" and rows["compute"][-1] == "-"
    assert found.title().startswith("fp32, batch 2, ") and found.faces_per_second > 0
    assert json.loads(json.dumps(found.to_dict()))["times"]["batch"] == 2


def test_trtexec_and_the_board_stand_beside(model: TensorRtModel, tmp_path: Path) -> None:
    measured = gpu.measure(model, tmp_path / "engine.plan", "fp32", 1, runs=5, warmup=2)
    found = replace(measured, trtexec={"compute": 0.25}, millijoules=3.5, power_mode="15W")
    assert {row[0]: row[-1] for row in found.rows()}["compute"] == "0.250"
    assert found.title().endswith("3.50 mJ a run, power mode 15W")


def test_engines_that_do_not_open_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    artefacts = [SimpleNamespace(name="trt-fp32", kind=gpu.KIND, file="trt/fp32.plan"), SimpleNamespace(kind="onnx")]
    bundle = SimpleNamespace(directory=tmp_path, manifest=SimpleNamespace(artefacts=artefacts))
    told: list[str] = []
    assert gpu.measure_bundle(bundle, told.append) == []  # type: ignore[arg-type]
    assert len(told) == 1 and told[0].startswith("trt-fp32: its stages on the GPU are not measured: ")
