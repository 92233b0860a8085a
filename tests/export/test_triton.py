"""Triton's model repository: whole, readable by Triton's own description of the file, and only where nothing was."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from export.triton import write_repository
from runtime.bundle import Bundle
from runtime.errors import UsageError
from toolkit.cli import main


@pytest.fixture(scope="module")
def repository(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("triton") / "models"
    assert write_repository(Bundle.open(bundle_dir), target, max_batch=16) == [
        "landmarks-fp32",
        "landmarks-fp16",
        "landmarks-int8",
    ]
    return target


def test_the_layout(repository: Path, bundle_dir: Path) -> None:
    files = sorted(p.relative_to(repository).as_posix() for p in repository.rglob("*") if p.is_file())
    names = [f"landmarks-{p}" for p in ("fp16", "fp32", "int8")]
    assert files == sorted(f"{n}/{f}" for n in names for f in ("1/model.onnx", "config.pbtxt"))
    assert (repository / "landmarks-fp32/1/model.onnx").read_bytes() == (bundle_dir / "model.onnx").read_bytes()


def test_the_text(repository: Path) -> None:
    text = (repository / "landmarks-fp16" / "config.pbtxt").read_text()
    for wanted in (
        'name: "landmarks-fp16"',
        'backend: "onnxruntime"',
        "max_batch_size: 16",
        'input [ { name: "input", data_type: TYPE_FP32, dims: [ 3, 64, 64 ] } ]',
        'output [ { name: "landmarks", data_type: TYPE_FP32, dims: [ 196 ] } ]',
        "preferred_batch_size: [ 8, 16 ]",
        "model_warmup",
        "random_data: true",
    ):
        assert wanted in text
    assert text.count("{") == text.count("}") and text.count("[") == text.count("]")


def test_triton_itself_reads_it(repository: Path) -> None:
    pb = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="pip install 'tritonclient[grpc]'")
    from google.protobuf import text_format

    for path in sorted(repository.glob("*/config.pbtxt")):
        config = text_format.Parse(path.read_text(), pb.ModelConfig())
        assert config.name == path.parent.name and config.max_batch_size == 16
        assert [w.batch_size for w in config.model_warmup] == [1, 8, 16]
        assert list(config.input[0].dims) == [3, 64, 64] and config.input[0].data_type == pb.TYPE_FP32
        assert config.parameters["spec"].string_value.startswith("{")


def test_nothing_is_overwritten(bundle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        write_repository(Bundle.open(bundle_dir), tmp_path / "models")
    with pytest.raises(SystemExit) as exit_:
        main(["export", "no.ckpt", "--triton", str(tmp_path / "models"), "-o", str(tmp_path / "out")])
    assert exit_.value.code == 2 and "is there already" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["models"]


def test_a_full_disk_leaves_nothing(bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("export.triton.write_text", full)
    with pytest.raises(Exception, match="cannot write"):
        write_repository(Bundle.open(bundle_dir), tmp_path / "models")
    assert not list(tmp_path.iterdir()) and sys.version
