"""Timing an engine stage by stage, on the fake CUDA whose clock moves one microsecond for each piece of work."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

import fake_tensorrt
from engines import card_of, numpy_engine, plan_bytes
from fake_cuda import FakeCuda, fake_cuda  # noqa: F401

from runtime.backends.tensorrt import TensorRtModel
from runtime.errors import UsageError
from runtime.gpu_timing import (
    STAGES,
    measure_engine,
    measure_throughput,
    parse_clocks,
    parse_trtexec,
    run_trtexec,
    trtexec_command,
)

TRTEXEC = """
[11/20/2026-10:00:00] [I] === Performance summary ===
[11/20/2026-10:00:00] [I] Throughput: 4321.5 qps
[11/20/2026-10:00:00] [I] Latency: min = 0.21 ms, max = 0.9 ms, mean = 0.24 ms, median = 0.23 ms, percentile(90%) = 0.3 ms
[11/20/2026-10:00:00] [I] Enqueue Time: min = 0.01 ms, max = 0.1 ms, mean = 0.02 ms, median = 0.015 ms
[11/20/2026-10:00:00] [I] H2D Latency: min = 0.02 ms, max = 0.1 ms, mean = 0.03 ms, median = 0.025 ms
[11/20/2026-10:00:00] [I] GPU Compute Time: min = 0.15 ms, max = 0.7 ms, mean = 0.19 ms, median = 0.18 ms
[11/20/2026-10:00:00] [I] D2H Latency: min = 0.003 ms, max = 0.02 ms, mean = 0.004 ms, median = 3.5e-03 ms
[11/20/2026-10:00:00] [W] * Throughput may be bound by Enqueue Time rather than GPU Compute and the GPU may be under-utilized.
"""  # noqa: E501


@pytest.fixture
def behaviour() -> fake_tensorrt.Behaviour:
    return fake_tensorrt.Behaviour()


@pytest.fixture
def model(
    fake_cuda: FakeCuda,  # noqa: F811
    behaviour: fake_tensorrt.Behaviour,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[TensorRtModel]:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.make("10.3", fake_cuda, behaviour, numpy_engine))
    plan = plan_bytes()
    with TensorRtModel(plan, card_of(plan)) as opened:
        yield opened


def test_stages_are_told_apart(model: TensorRtModel, fake_cuda: FakeCuda) -> None:  # noqa: F811
    before = fake_cuda.live()
    times = measure_engine(model, 4, runs=20, warmup=5)
    assert tuple(times.stages) == STAGES and (times.batch, times.runs) == (4, 20)
    for name in ("H2D", "compute", "D2H"):
        assert times.stages[name].percentiles[50] == pytest.approx(0.002, rel=1e-3), name
    host = times.stages["host latency"]
    assert host.least <= host.percentiles[50] <= host.percentiles[99] <= host.most
    assert times.replay is not None and times.faces_per_second > 0
    assert [after - old for after, old in zip(fake_cuda.live(), before, strict=True)] == [2, 2, 1, 0, 1], (
        "no events left"
    )


def test_warnings_say_why(model: TensorRtModel, behaviour: fake_tensorrt.Behaviour) -> None:
    behaviour.refuses_capture = True
    times = measure_engine(model, 2, runs=10, warmup=3)
    assert times.replay is None
    assert any("enqueueing takes longer" in w for w in times.warnings) and any(
        "no CUDA graph" in w for w in times.warnings
    )


def test_too_few_runs(model: TensorRtModel) -> None:
    with pytest.raises(UsageError, match="two or more"):
        measure_engine(model, 1, runs=1)


def test_throughput_keeps_all_contexts_at_work(model: TensorRtModel) -> None:
    assert measure_throughput(model, 4, seconds=0.05) > 0
    assert {size: len(lanes) for size, lanes in model._lanes.items()} == {4: 2}


def test_trtexec_is_read() -> None:
    assert parse_trtexec(TRTEXEC) == {
        "throughput": 4321.5,
        "host latency": 0.23,
        "enqueue": 0.015,
        "H2D": 0.025,
        "compute": 0.18,
        "D2H": 0.0035,
    }
    assert parse_trtexec("") == {}


def test_trtexec_runs_beside(model: TensorRtModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("runtime.gpu_pieces.TRTEXEC_PLACES", ())
    assert run_trtexec(tmp_path / "x.plan", model, 2) is None
    program = tmp_path / "trtexec"
    program.write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{TRTEXEC}END\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    found = run_trtexec(tmp_path / "x.plan", model, 2)
    assert found is not None and found["compute"] == 0.18
    assert "--shapes=input:2x3x16x16" in trtexec_command("trtexec", tmp_path / "x.plan", model, 2)
    program.write_text("#!/bin/sh\nexit 1\n")
    assert run_trtexec(tmp_path / "x.plan", model, 2) is None


def test_clocks() -> None:
    assert parse_clocks("1980, 1980, 2619, 41, 121.55, P0\n")["power.draw"] == "121.55"
    assert parse_clocks("") == parse_clocks("N/A") == {}
