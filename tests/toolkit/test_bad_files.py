"""Files from anywhere, given to the commands that read models: one clear line, exit code 2, memory and time bounded."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))

from family import exported, spec_of_upstream, state, trained

from export.onnx_file import set_spec
from runtime.spec import ModelSpec
from train.checkpoint import Checkpoint, save_checkpoint
from train.models.zoo import build

SPEC = spec_of_upstream("pfld", size=32)
ONE_BRANCH = spec_of_upstream("ghostone", size=32, branches=1)
GROWTH_MB = 200
SECONDS = 20.0
COMMANDS = ["import", "verify", "compare", "compare-second", "eval"]
FORGED = b"\x80\x02cos\nsystem\nX\x0f\x00\x00\x00touch pwned.txtq\x00\x85R."


def archive(path: Path, data_pkl: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression, compresslevel=1) as target:
        target.writestr("archive/data.pkl", data_pkl)
        target.writestr("archive/version", "3\n")
        target.writestr("archive/byteorder", "little")


def shared_tuples(levels: int) -> bytes:
    """A table whose key is a tuple of two equal tuples of two equal tuples ..., in a few hundred bytes."""
    return b"\x80\x02](K\x01\x85q\x01" + b"h\x01h\x01\x86q\x01" * levels + b"e}h\x01K\x05s."


def sparse(path: Path, size: int, head: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(size)


def claiming_more_than_it_stores() -> bytes:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["input", "w"], ["output"])],
        "g",
        [onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [1, 3, 32, 32])],
        [onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, None)],
        [onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[1 << 20, 1 << 20], float_data=[1.0])],
    )
    return onnx.helper.make_model(graph).SerializeToString()


def outside_data(data: bytes) -> bytes:
    model = onnx.load_model_from_string(data)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return model.SerializeToString()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good files (good.*) and bad ones (bad-*)."""
    folder = tmp_path_factory.mktemp("files")
    model = trained(SPEC)
    weights = state(model)
    save_checkpoint(folder / "good.ckpt", Checkpoint("multi-branch", SPEC, weights))
    many = trained(ONE_BRANCH)
    save_checkpoint(folder / "good-branches.ckpt", Checkpoint("multi-branch", ONE_BRANCH, state(many)))
    torch.save(weights, folder / "good.pth")
    graph = exported(model, SPEC)
    set_spec(graph, SPEC)
    whole = graph.SerializeToString()
    (folder / "good.onnx").write_bytes(whole)

    (folder / "bad-directory.ckpt").mkdir()
    (folder / "bad-empty.ckpt").touch()
    (folder / "bad-empty.onnx").touch()
    (folder / "bad-text.ckpt").write_text("# Notes\n" * 40)
    (folder / "bad-text.onnx").write_text("# Notes\n" * 40)
    (folder / "bad-noise.onnx").write_bytes(os.urandom(5000))
    (folder / "bad-picture.pth").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(300))
    for name in ("good.ckpt", "good.onnx", "good.pth"):
        data = (folder / name).read_bytes()
        for share in (0.01, 0.6, 0.999):
            (folder / f"bad-cut-{share}-{name}").write_bytes(data[: int(len(data) * share)])
    sparse(folder / "bad-huge.pth", 3 << 30, b"PK\x03\x04")
    sparse(folder / "bad-huge.onnx", 3 << 30, b"\x08\x08")
    archive(folder / "bad-zip-bomb.pth", bytes(300 << 20), zipfile.ZIP_DEFLATED)
    assert (folder / "bad-zip-bomb.pth").stat().st_size < 2 << 20
    archive(folder / "bad-shared-tuples.pth", shared_tuples(60))
    archive(folder / "bad-nested-tuples.pth", b"\x80\x02}K\x01" + b"\x85" * 200_000 + b"K\x01s.")
    archive(folder / "bad-os-system.pth", FORGED)
    (folder / "bad-os-system-bare.pth").write_bytes(FORGED)
    torch.save(model, folder / "bad-whole-model.pth")
    torch.save(weights, folder / "bad-old-form.pth", _use_new_zipfile_serialization=False)
    torch.save({"fc.weight": torch.zeros(1).expand(1 << 40)}, folder / "bad-claims-more.pth")
    (folder / "bad-claims-more.onnx").write_bytes(claiming_more_than_it_stores())
    (folder / "bad-outside-data.onnx").write_bytes(outside_data(whole))
    (folder / "bad-not-a-model.pth").write_bytes(b"PK\x05\x06" + bytes(18))

    other = {name: tensor for name, tensor in weights.items() if not name.startswith("conv7")}
    torch.save(other, folder / "bad-layer-missing.pth")
    save_checkpoint(folder / "bad-layer-missing.ckpt", Checkpoint("multi-branch", SPEC, other))
    torch.save(state(build(spec_of_upstream("ghostnet", size=32))), folder / "bad-architecture.pth")
    wrong = ModelSpec("ghostnet", 0.25, input_size=32)
    save_checkpoint(folder / "bad-architecture.ckpt", Checkpoint("multi-branch", wrong, weights))
    odd = weights | {"fc.weight": weights["fc.weight"][:195], "fc.bias": weights["fc.bias"][:195]}
    torch.save(odd, folder / "bad-points.pth")
    save_checkpoint(folder / "bad-points.ckpt", Checkpoint("multi-branch", SPEC, odd))
    points = spec_of_upstream("pfld", size=32, points=12)
    set_spec(graph, points)
    (folder / "bad-points.onnx").write_bytes(graph.SerializeToString())
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    """Every command on every bad file, in one process of its own."""
    files = sorted(path.name for path in folder.iterdir() if path.name.startswith("bad-"))
    process = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("bad_files.py")), "bad-missing.ckpt", *files],
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
        timeout=500,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )
    result: dict[str, Any] = json.loads(process.stdout)
    return result


@pytest.mark.parametrize("command", COMMANDS)
def test_every_bad_file_is_one_clear_line(report: dict[str, Any], command: str) -> None:
    assert report["good"][command]["code"] == 0, report["good"][command]
    problems = []
    for name, found in report["bad"][command].items():
        lines = found["err"].splitlines()
        clear = len(lines) == 1 and lines[0].startswith("error: ") and name in lines[0] and len(lines[0]) < 1300
        if found["code"] != 2 or not clear or found["out"] or found["wrote"] or found["seconds"] > SECONDS:
            problems.append((name, found))
    assert not problems, json.dumps(problems, indent=1)


def test_memory_is_bounded_and_nothing_is_left(report: dict[str, Any], folder: Path) -> None:
    assert report["good"]["import"]["wrote"]
    growth = report["after_mb"] - report["before_mb"]
    assert growth < GROWTH_MB, f"{growth:.0f} MB more than good files took"
    assert not (folder / "pwned.txt").exists()
    assert not [path.name for path in folder.iterdir() if ".tmp-" in path.name]


def test_what_the_lines_say(report: dict[str, Any]) -> None:
    """The sentence names the cause, for each kind of file."""
    found = report["bad"]["import"]
    expected = {
        "bad-missing.ckpt": "no such file",
        "bad-directory.ckpt": "is a directory",
        "bad-empty.ckpt": "the file is empty",
        "bad-text.onnx": "not an ONNX file",
        "bad-text.ckpt": "looks like text",
        "bad-cut-0.6-good.onnx": "not an ONNX file, or cut short",
        "bad-cut-0.6-good.pth": "cut short",
        "bad-huge.pth": "3221225472 bytes, the limit",
        "bad-huge.onnx": "3221225472 bytes, the limit",
        "bad-zip-bomb.pth": "is compressed",
        "bad-shared-tuples.pth": "pickle bomb",
        "bad-nested-tuples.pth": "pickle bomb",
        "bad-os-system.pth": "holds a Python object (os.system)",
        "bad-os-system-bare.pth": "bare Python pickle",
        "bad-whole-model.pth": "holds a Python object",
        "bad-old-form.pth": "old PyTorch file",
        "bad-outside-data.onnx": "external data",
        "bad-layer-missing.pth": "missing",
        "bad-architecture.pth": "spec says architecture pfld, but the weights say ghostnet",
        "bad-points.pth": "195 outputs, expected two per point",
        "bad-points.onnx": "contradicts the spec in the file's metadata",
    }
    wrong = {name: found[name]["err"] for name, words in expected.items() if words not in found[name]["err"]}
    assert not wrong, json.dumps(wrong, indent=1)
    for name in ("bad-os-system.pth", "bad-whole-model.pth", "bad-old-form.pth"):
        assert "torch.save(" in found[name]["err"], "the way out"


def test_the_way_out_works(folder: Path, tmp_path: Path) -> None:
    """The one-liner that the message prints turns a whole pickled model into weights that can be imported."""
    from export.foreign import WEIGHTS

    torch.save({"state_dict": trained(SPEC).state_dict(), "note": Path("x")}, tmp_path / "FILE")
    code = WEIGHTS.way_out.split('python -c "')[1].removesuffix('"')
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    found = torch.load(tmp_path / "weights.pth", weights_only=True)
    assert found.keys() == trained(SPEC).state_dict().keys()


def test_the_forged_pickle_would_have_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the test above: the attack is real."""
    monkeypatch.chdir(tmp_path)
    pickle.load(io.BytesIO(FORGED))  # noqa: S301
    assert (tmp_path / "pwned.txt").exists()
