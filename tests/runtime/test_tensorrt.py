"""The TensorRT back end on a fake TensorRT and a CUDA whose streams are real queues."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

import fake_tensorrt
from engines import SPEC, card_of, numpy_engine, plan_bytes, write_engine
from fake_cuda import DEVICE, EVENTS, GRAPHS, PINNED, STREAMS, FakeCuda, fake_cuda  # noqa: F401

from runtime.backends.cuda import Cuda, CudaError
from runtime.backends.protocol import FaceModel
from runtime.backends.tensorrt import TensorRtModel, open_plan
from runtime.errors import InputError, MissingBackendError, UsageError
from runtime.geometry import network_input

Make = Any


def faces(count: int, seed: int = 0) -> NDArray[np.uint8]:
    size = SPEC.input_size
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def wanted(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    return numpy_engine(network_input(crops, SPEC)).reshape(-1, 5, 2)


@pytest.fixture
def behaviour() -> fake_tensorrt.Behaviour:
    return fake_tensorrt.Behaviour()


@pytest.fixture(params=["8.6", "10.3", "11"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(
    fake_cuda: FakeCuda,  # noqa: F811
    behaviour: fake_tensorrt.Behaviour,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Make]:
    """Opens a model; when the test is over, everything must have been given back."""
    models: list[TensorRtModel] = []
    before = fake_cuda.live()

    def build(version: str = "10.3", profile: tuple[int, int, int] = (1, 4, 8), **options: Any) -> TensorRtModel:
        trt = fake_tensorrt.make(version, fake_cuda, behaviour, numpy_engine)
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        plan = plan_bytes(version, profile)
        models.append(TensorRtModel(plan, card_of(plan, version, profile), **options))
        return models[-1]

    yield build
    for model in models:
        model.close()
    assert fake_cuda.live() == before


def test_a_batch_of_faces_is_one_call(make: Make, version: str) -> None:
    model = make(version)
    assert isinstance(model, FaceModel)
    crops = faces(5)
    np.testing.assert_array_equal(model.landmarks(crops), wanted(crops))
    assert model.landmarks(crops[:0]).shape == (0, 5, 2)
    assert model.name.startswith("TensorRT ") and model.name.endswith(" fp32")


def test_more_faces_than_the_profile_takes(make: Make) -> None:
    model, crops = make(lanes=3), faces(43)
    np.testing.assert_array_equal(model.landmarks(crops), wanted(crops))
    assert {size: len(lanes) for size, lanes in model._lanes.items()} == {8: 3, 3: 1}


def test_fewer_faces_than_the_profile_takes(make: Make) -> None:
    model, crops = make(profile=(4, 4, 4)), faces(6)
    np.testing.assert_array_equal(model.landmarks(crops), wanted(crops))


def test_a_fixed_batch_is_replayed_as_a_graph(make: Make, fake_cuda: FakeCuda) -> None:  # noqa: F811
    model, before = make(), fake_cuda.launches
    for seed in range(5):
        crops = faces(4, seed)
        np.testing.assert_array_equal(model.landmarks(crops), wanted(crops), err_msg=f"run {seed}")
    assert fake_cuda.launches - before == 4, "the first run is plain, the others are replays"
    assert fake_cuda.live()[GRAPHS] == 1


def test_graphs_survive_another_batch_size(make: Make, fake_cuda: FakeCuda) -> None:  # noqa: F811
    model = make()
    for count in (4, 4, 2, 4, 2, 4, 2, 3):
        crops = faces(count, count)
        np.testing.assert_array_equal(model.landmarks(crops), wanted(crops))
    assert [model.lanes(count)[0].graph is not None for count in (2, 3, 4)] == [True, False, True]


def test_sizes_not_used_for_long_are_given_up(make: Make, fake_cuda: FakeCuda) -> None:  # noqa: F811
    model = make()
    for count in (1, 2, 3, 4, 5, 6):
        model.landmarks(faces(count))
    assert list(model._lanes) == [3, 4, 5, 6]
    assert fake_cuda.live()[STREAMS] == 4


def test_without_graphs(make: Make, fake_cuda: FakeCuda) -> None:  # noqa: F811
    model, before = make(graphs=False), fake_cuda.launches
    for seed in range(3):
        np.testing.assert_array_equal(model.landmarks(faces(4, seed)), wanted(faces(4, seed)))
    assert fake_cuda.launches == before


def test_an_engine_that_cannot_be_captured_still_runs(make: Make, behaviour: fake_tensorrt.Behaviour) -> None:
    behaviour.refuses_capture = True
    model = make()
    for seed in range(3):
        np.testing.assert_array_equal(model.landmarks(faces(4, seed)), wanted(faces(4, seed)))
    lane = model.lanes(4)[0]
    assert lane.graph is None and "could not put" in lane.no_graph


def test_threads_may_share_a_model(make: Make) -> None:
    model, wrong = make(), []

    def work(seed: int) -> None:
        for _ in range(10):
            crops = faces(seed % 7 + 1, seed)
            if not np.array_equal(model.landmarks(crops), wanted(crops)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_results_are_copies(make: Make) -> None:
    model = make()
    first = model.landmarks(faces(4, 1))
    kept = first.copy()
    model.landmarks(faces(4, 2))
    np.testing.assert_array_equal(first, kept)


def test_wrong_crops_and_batches_are_refused(make: Make) -> None:
    model = make()
    with pytest.raises(UsageError, match="expected"):
        model.landmarks(faces(2).astype(np.float32))
    with pytest.raises(UsageError, match="a batch of 9, the engine takes 1 to 8"):
        model.lanes(9)
    with pytest.raises(UsageError, match="0 lanes"):
        make(lanes=0)
    model.close()
    with pytest.raises(UsageError, match="was closed"):
        model.landmarks(faces(1))


def test_a_full_gpu_leaves_nothing_behind(make: Make, fake_cuda: FakeCuda) -> None:  # noqa: F811
    model, before = make(), fake_cuda.live()
    fake_cuda.library.fake_refuse_malloc(1)
    try:
        with pytest.raises(CudaError, match="cudaMalloc failed with error 2: out of memory"):
            model.landmarks(faces(2))
    finally:
        fake_cuda.library.fake_refuse_malloc(0)
    assert fake_cuda.live() == before
    np.testing.assert_array_equal(model.landmarks(faces(2)), wanted(faces(2)))


def test_an_engine_with_other_tensors_than_its_sidecar(make: Make, fake_cuda: FakeCuda) -> None:  # noqa: F811
    make()
    plan = plan_bytes(ports=[["input", "INPUT", [-1, 3, 16, 16]], ["other", "OUTPUT", [-1, 10]]])
    with pytest.raises(InputError, match="has the tensors"):
        TensorRtModel(plan, card_of(plan))
    plan = plan_bytes()
    card = card_of(plan)
    halves = tuple(replace(port, dtype="float16") for port in card.ports)
    with pytest.raises(InputError, match="keep float32"):
        TensorRtModel(plan, replace(card, ports=halves))


def test_a_plan_that_tensorrt_does_not_load_repeats_its_words(make: Make) -> None:
    make()
    with pytest.raises(MissingBackendError, match=r"magic tag does not match; the ONNX file .* --backend onnx"):
        TensorRtModel(b"something else", card_of(b"something else"))


def test_a_plan_on_disk(make: Make, tmp_path: Path) -> None:
    make()
    with open_plan(write_engine(tmp_path)) as model:
        np.testing.assert_array_equal(model.landmarks(faces(3)), wanted(faces(3)))


def test_the_cuda_calls_keep_bytes_and_order(fake_cuda: FakeCuda) -> None:  # noqa: F811
    import ctypes

    before, cuda = fake_cuda.live(), Cuda()
    assert cuda.version == "12.6"
    stream, device, host, back = cuda.stream(), cuda.malloc(16), cuda.pinned(16), cuda.pinned(16)
    ctypes.memmove(host, b"sixteen bytes...", 16)
    start, end = cuda.event(), cuda.event()
    cuda.record(start, stream)
    cuda.to_device(device, host, 16, stream)
    cuda.to_host(back, device, 16, stream)
    cuda.record(end, stream)
    assert ctypes.string_at(back, 16) != b"sixteen bytes...", "nothing happens before the wait"
    with pytest.raises(CudaError, match="cudaEventElapsedTime"):
        cuda.milliseconds(start, end)
    cuda.wait(stream)
    assert ctypes.string_at(back, 16) == b"sixteen bytes..." and cuda.milliseconds(start, end) > 0
    live = [after - old for after, old in zip(fake_cuda.live(), before, strict=True)]
    assert [live[k] for k in (DEVICE, PINNED, STREAMS, EVENTS)] == [1, 2, 1, 2]
    for event in (start, end):
        cuda.destroy_event(event)
    cuda.free(device)
    cuda.free_pinned(host)
    cuda.free_pinned(back)
    cuda.destroy_stream(stream)
    assert fake_cuda.live() == before


def test_no_cuda_runtime_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.backends.cuda.runtime_candidates", lambda: iter(["libnothing.so"]))
    with pytest.raises(MissingBackendError, match="libcudart, the CUDA runtime, is not here"):
        Cuda()
