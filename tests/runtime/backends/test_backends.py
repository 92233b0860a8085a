"""Back ends: the table, the choice that "auto" makes, and the ONNX files as face models."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest

from runtime.backends import choose
from runtime.backends.choose import AUTO_ORDER, BACKENDS, factory_of, open_backend
from runtime.backends.onnx import open_onnx
from runtime.backends.ort import OrtModel
from runtime.backends.protocol import FaceModel
from runtime.bundle import Bundle
from runtime.errors import InputError, MissingBackendError, UsageError
from runtime.geometry import network_input
from tests.runtime.small import SIZE, small_net, small_spec, write_bundle


def crops(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def test_onnx_gives_the_session_s_own_numbers(small_bundle: Path) -> None:
    model = open_onnx(Bundle.open(small_bundle))
    assert isinstance(model, FaceModel)
    batch = crops(3)
    direct = OrtModel(small_net())(network_input(batch, small_spec()))
    assert np.array_equal(model.landmarks(batch), direct.reshape(3, 98, 2))
    assert model.landmarks(batch[:0]).shape == (0, 98, 2)
    with pytest.raises(UsageError, match=r"expected \(N, 64, 64, 3\) uint8"):
        model.landmarks(batch.astype(np.float32))
    with pytest.raises(UsageError, match="crops"):
        model.landmarks(batch[:, :32])


def test_a_spec_of_another_size_is_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    place = write_bundle(tmp_path, {"fp32": ("model.onnx", small_net())}, replace(small_spec(), input_size=112))
    with pytest.raises(InputError, match="the spec says"):
        open_onnx(Bundle.open(place))


def test_auto_says_once_what_it_took_and_why(small_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choose._announced.clear()
    bundle = Bundle.open(small_bundle)
    assert open_backend(bundle).name == "onnx"
    assert open_backend(bundle).model.name == "ONNX Runtime fp32"
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "back end onnx" in told[0] and "c: not in the bundle" in told[0]


def test_auto_goes_on_after_a_back_end_that_is_missing_but_not_after_a_damaged_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"fp32": ("model.onnx", small_net()), "c": ("c/landmarks.c", b"int x;")}
    bundle = Bundle.open(write_bundle(tmp_path, files, small_spec()))
    fake = types.ModuleType("runtime.backends.c")

    def missing(bundle: Bundle, precision: str) -> FaceModel:
        raise MissingBackendError("no C compiler here")

    fake.open_c = missing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "runtime.backends.c", fake)
    choose._announced.clear()
    assert open_backend(bundle).name == "onnx"
    assert "c: no C compiler here" in capsys.readouterr().err

    def damaged(bundle: Bundle, precision: str) -> FaceModel:
        raise InputError("c/landmarks.c: the file was changed")

    fake.open_c = damaged  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="was changed"):
        open_backend(bundle)
    (tmp_path / "model.onnx").write_bytes(b"x" + small_net()[1:])
    with pytest.raises(InputError, match="the manifest says"):
        open_backend(bundle, "onnx")


def test_what_a_bundle_lacks_is_one_clear_line(small_bundle: Path) -> None:
    bundle = Bundle.open(small_bundle)
    with pytest.raises(UsageError, match=r"'c' \(export with --c\); it has files for: onnx"):
        open_backend(bundle, "c")
    with pytest.raises(UsageError, match="unknown back end 'tvm'; known: auto, onnx"):
        open_backend(bundle, "tvm")


def test_a_module_that_is_not_installed_is_a_missing_back_end(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = BACKENDS["c"]
    monkeypatch.setitem(BACKENDS, "c", type(entry)("runtime.backends.nowhere", "f", {}, "c/", ""))
    with pytest.raises(MissingBackendError, match="not part of this installation"):
        factory_of("c")


def test_the_order_of_auto_names_back_ends() -> None:
    assert set(AUTO_ORDER) <= set(BACKENDS)
