"""Real engines on a real GPU: build, look inside, run, time, refuse. Skipped without one; TensorRT must be installed.

Run it on a board with: pytest -m gpu tests/export/test_gpu_engines.py
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from export.chain import verify_bundle
from export.tensorrt_build import Request, build_engines
from export.tensorrt_engine import Engine
from export.tensorrt_rules import BuildOptions
from runtime.backends.cuda import Cuda
from runtime.backends.ort import OrtModel
from runtime.backends.tensorrt import open_plan, open_tensorrt
from runtime.bundle import Bundle, read_arrays
from runtime.engine import Profile, judge, look_around, module_version
from runtime.errors import InputError
from runtime.geometry import network_input
from runtime.gpu_pieces import find_trtexec, gpu_pieces
from runtime.gpu_timing import measure_engine, measure_throughput, run_trtexec

pytestmark = pytest.mark.gpu
Built = tuple[Path, list[Engine]]


@pytest.fixture(scope="module")
def module() -> str:
    """TensorRT where it is, else TensorRT-RTX, which the public registry has."""
    found = next((name for name in ("tensorrt", "tensorrt_rtx") if module_version(name)), None)
    if found is None:
        pytest.skip("a GPU, but neither tensorrt nor tensorrt_rtx")
    return found


@pytest.fixture(scope="module")
def built(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory, module: str) -> Iterator[Built]:
    copy = tmp_path_factory.mktemp("gpu") / "bundle"
    shutil.copytree(bundle_dir, copy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(copy.parent / "cache"))
        engines = build_engines(copy, Request(options=BuildOptions(Profile(1, 4, 8)), module=module))
        yield copy, engines


def test_the_machine_is_complete(module: str) -> None:
    states = {piece.name: piece.state for piece in gpu_pieces()}
    assert states["GPU and driver"] == states["CUDA runtime"] == states[module] == "ok"


def test_engines_are_what_their_names_say(built: Built) -> None:
    wanted = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
    for engine in built[1]:
        assert engine.card.layers.get(wanted[engine.card.precision], 0) > 0, engine.card.layers
    assert verify_bundle(built[0]).passed


@pytest.mark.parametrize("count", [1, 4, 8, 21])
def test_landmarks_are_those_of_onnx_runtime(built: Built, count: int) -> None:
    bundle = Bundle.open(built[0])
    crops = np.resize(read_arrays(bundle.read("probe"), "probe")["crops"], (count, 64, 64, 3))
    wanted = OrtModel(bundle.read("fp32"))(network_input(crops, bundle.spec)).reshape(count, -1, 2)
    with open_tensorrt(bundle, "fp32") as model:
        for _ in range(4):
            np.testing.assert_allclose(model.landmarks(crops), wanted, atol=1e-4)


def test_graphs_are_replayed(built: Built) -> None:
    with open_tensorrt(Bundle.open(built[0]), "fp16") as model:
        crops = np.zeros((4, 64, 64, 3), np.uint8)
        for _ in range(3):
            model.landmarks(crops)
        assert model.lanes(4)[0].graph is not None, model.lanes(4)[0].no_graph


def test_a_changed_plan_is_refused(built: Built, tmp_path: Path) -> None:
    for name in (built[1][0].file, built[1][0].file + ".json"):
        shutil.copy2(built[0] / name, tmp_path / Path(name).name)
    plan = tmp_path / Path(built[1][0].file).name
    assert all(verdict.passed for verdict in judge(plan, look_around()))
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(data)
    with pytest.raises(InputError, match="not the file that was built"):
        open_plan(plan)


def test_stages_add_up(built: Built) -> None:
    with open_tensorrt(Bundle.open(built[0]), "fp16") as model:
        times = measure_engine(model, 4, runs=100, warmup=20)
        on_gpu = sum(times.stages[name].percentiles[50] for name in ("H2D", "compute", "D2H"))
        assert 0 < on_gpu <= times.stages["host latency"].percentiles[50] * 1.2
        assert measure_throughput(model, 4, seconds=0.5) > 0


def test_trtexec_agrees(built: Built, module: str) -> None:
    if find_trtexec() is None or module != "tensorrt":
        pytest.skip("no trtexec here")
    engine = next(e for e in built[1] if e.card.precision == "fp16")
    with open_tensorrt(Bundle.open(built[0]), "fp16") as model:
        theirs = run_trtexec(built[0] / engine.file, model, 4)
        ours = measure_engine(model, 4, runs=200).stages["compute"].percentiles[50]
    assert theirs is not None and 0.5 < ours / theirs["compute"] < 2


def test_the_cuda_calls_move_bytes() -> None:
    """The ctypes layer on the real libcudart, without TensorRT."""
    import ctypes

    cuda = Cuda()
    stream, device, host, back = cuda.stream(), cuda.malloc(1 << 20), cuda.pinned(1 << 20), cuda.pinned(1 << 20)
    ctypes.memmove(host, bytes(range(256)) * 4096, 1 << 20)
    start, end = cuda.event(), cuda.event()
    cuda.begin_capture(stream)
    cuda.to_device(device, host, 1 << 20, stream)
    cuda.to_host(back, device, 1 << 20, stream)
    graph = cuda.end_capture(stream)
    cuda.record(start, stream)
    cuda.launch(graph, stream)
    cuda.record(end, stream)
    cuda.wait(stream)
    assert ctypes.string_at(back, 1 << 20) == bytes(range(256)) * 4096 and cuda.milliseconds(start, end) > 0
    cuda.destroy_graph(graph)
    for event in (start, end):
        cuda.destroy_event(event)
    cuda.free(device)
    cuda.free_pinned(host)
    cuda.free_pinned(back)
    cuda.destroy_stream(stream)
