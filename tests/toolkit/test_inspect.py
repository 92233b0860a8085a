"""`toolkit inspect` and `toolkit export` as a person meets them: right answers, and one clear line for bad input."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner, Result

from runtime.bundle import Bundle
from runtime.errors import ToolkitError
from runtime.spec import ModelSpec
from toolkit.cli import app
from train.checkpoint import Checkpoint, save_checkpoint
from train.models.zoo import ZOO, build

SPEC = ModelSpec("pfld", width=0.125, input_size=32)


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build(SPEC, fused=True)
    path = tmp_path_factory.mktemp("fused") / "fused.ckpt"
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d) and module.bias is not None:
                module.bias.fill_(0.01)
        fc: torch.nn.Linear = model.get_submodule("fc")  # type: ignore[assignment]
        fc.bias.copy_(torch.linspace(0.2, 0.8, 196))
        fc.weight.mul_(0.01)
    save_checkpoint(path, Checkpoint("fused", SPEC, model.state_dict(), parent="a" * 64, progress={"epoch": 7}))
    return path


@pytest.fixture(scope="module")
def bundle(fused: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("made") / "bundle"
    done = call("export", fused, "-o", target, "--fp16", "--exporter", "torchscript", "--probes", "synth:12@3")
    assert done.exit_code == 0, done.output
    assert "model.fp16.onnx" in done.stdout and "simplify" in done.stdout
    return target


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def facts(*arguments: object) -> dict[str, Any]:
    done = call("inspect", *arguments, "--json")
    assert done.exit_code == 0, done.output
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


def complaint(*arguments: object) -> str:
    """The error of a call that must fail, as one line."""
    done = call(*arguments)
    assert isinstance(done.exception, ToolkitError), done.output
    assert done.exception.exit_code == 2
    return str(done.exception)


def test_checkpoint(fused: Path) -> None:
    found = facts(fused)
    assert found["what"] == "fused checkpoint" and found["parent"] == "a" * 64
    assert found["progress"] == {"epoch": 7} and found["spec"]["width"] == 0.125
    assert (found["params"], found["precision"], found["resumable"]) == (found["params"], ["float32"], False)


def test_bundle_and_its_files_agree(bundle: Path, fused: Path) -> None:
    whole = facts(bundle)
    assert [link["name"] for link in whole["chain"]] == ["fused", "fp32", "fp16", "probe"]
    assert [link["from"] for link in whole["chain"]] == [None, "fused", "fp32", None]
    assert whole["chain"][1]["precisions"] == {"float32": 44}
    assert whole["chain"][2]["precisions"] == {"float16": 43, "float32": 1}
    for link in whole["chain"]:
        alone = facts(bundle / link["file"])
        assert alone["sha256"] == link["sha256"] and alone["bytes"] == link["bytes"]
    model, checkpoint = facts(bundle / "model.onnx"), facts(fused)
    assert (model["macs"], model["params"], model["spec"]) == (
        checkpoint["macs"],
        checkpoint["params"],
        checkpoint["spec"],
    )
    assert model["what"] == "ONNX model, float32" and model["checker"] == "valid"
    assert facts(bundle / "model.fp16.onnx")["what"] == "ONNX model, float16"
    assert facts(bundle / "probe.npz")["arrays"]["crops"] == {"shape": [12, 32, 32, 3], "type": "uint8"}


def test_lineage_of_a_file_in_a_bundle(bundle: Path, fused: Path, tmp_path: Path) -> None:
    line = facts(bundle / "model.fp16.onnx")["lineage"]
    assert [text.split()[0] for text in line] == ["model.onnx", "fused.ckpt", "fused"]
    assert line[-1].endswith(facts(fused)["sha256"][:16])
    assert facts(fused)["lineage"] is None
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    shutil.copy(copy / "model.onnx", copy / "model.fp16.onnx")
    shutil.copy(fused, copy / "other.ckpt")
    assert facts(copy / "model.fp16.onnx")["lineage"][0].startswith("changed")
    assert facts(copy / "other.ckpt")["lineage"][0].startswith("not listed")


def test_tables(bundle: Path) -> None:
    shown = call("inspect", bundle).stdout
    assert "pfld x 0.125" in shown and "Chain" in shown
    shown = call("inspect", bundle / "model.onnx", "--layers", "--contract").stdout
    assert "conv3_1.inv_res.0.0" in shown and "TensorRT 11: accepted" in shown


def test_zoo() -> None:
    size = ("--width", "0.125", "--input-size", "32")
    rows = json.loads(call("inspect", "--models", *size, "--json").stdout)["models"]
    assert [row["name"] for row in rows] == list(ZOO)
    assert all(row["fused"]["macs"] <= row["train"]["macs"] for row in rows)
    shown = call("inspect", "--models", *size).stdout
    assert all(name in shown for name in ZOO)


def test_contract_of_a_foreign_file(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantise"),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], "dequantise"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(128), "z")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "u8.onnx")
    done = call("inspect", tmp_path / "u8.onnx", "--contract", "--target", "8.6", "--json")
    assert done.exit_code == 1
    assert {f["rule"] for f in json.loads(done.stdout)["contract"]} == {"opset", "type", "zero point"}
    shown = call("inspect", tmp_path / "u8.onnx", "--contract")
    assert shown.exit_code == 1 and "QInt8" in shown.stdout


def make_bad(folder: Path, name: str, source: Path) -> Path:
    path = folder / name
    whole = source.read_bytes()
    contents = {
        "text.onnx": b"just some words\n",
        "empty.ckpt": b"",
        "cut.ckpt": whole[: len(whole) // 2],
        "noise.bin": bytes(range(256)) * 10,
        "manifest.json": b"{}",
    }
    if name == "directory":
        path.mkdir()
    elif name != "absent":
        path.write_bytes(contents[name])
    return path


BAD = {
    "text.onnx": "looks like text",
    "empty.ckpt": "file is empty",
    "cut.ckpt": "cut short",
    "noise.bin": "not an ONNX file",
    "directory": "directory without manifest.json",
    "absent": "no such file",
    "manifest.json": "inspect its directory instead",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_get_one_line(tmp_path: Path, fused: Path, name: str) -> None:
    message = complaint("inspect", make_bad(tmp_path, name, fused))
    assert BAD[name] in message and "\n" not in message


@pytest.mark.parametrize(
    "arguments",
    [[], ["x", "--models"], ["--models", "--layers"], ["--models", "--contract"]],
)
def test_contradictions(arguments: list[str]) -> None:
    complaint("inspect", *arguments)


EXPORT_BAD: dict[str, tuple[list[str], str]] = {
    "int8 without faces": (["--int8", "fast"], "give --calib"),
    "faces for nothing": (["--calib", "synth:20"], "neither was asked for"),
    "cache without int8": (["--fp16", "--calib-cache", "x"], "about int8"),
    "cache in no folder": (["--int8", "fast", "--calib", "synth:20", "--calib-cache", "/no/such/x"], "no folder"),
    "drop without int8": (["--max-drop", "1%"], "about int8"),
    "drop without labels": (["--int8", "fast", "--calib", "synth:20", "--max-drop", "1%"], "--eval-data"),
    "drop is no share": (["--int8", "fast", "--calib", "synth:20", "--max-drop", "much"], "such as 1% or 0.01"),
    "no faces to take": (["--int8", "fast", "--calib", "synth:20", "--calib-count", "0"], "positive"),
    "absent faces": (["--int8", "fast", "--calib", "/no/such/place"], "no such file or folder"),
    "three faces": (["--int8", "fast", "--calib", "synth:3"], "synth:3: 3, at least 16 are needed"),
    "few chosen": (["--int8", "fast", "--calib", "synth:300", "--calib-count", "4"], "4, at least 16"),
    "opset too new": (["--opset", "24"], "17..21"),
    "opset of the other exporter": (["--opset", "21", "--exporter", "torchscript"], "17..20"),
    "few probes": (["--probes", "synth:4"], "at least 12"),
    "absent probes": (["--probes", "nowhere"], "no such file or folder"),
}


@pytest.mark.parametrize("name", EXPORT_BAD)
def test_bad_exports_leave_nothing(tmp_path: Path, fused: Path, name: str) -> None:
    arguments, message = EXPORT_BAD[name]
    assert message in complaint("export", fused, "-o", tmp_path / "out", *arguments)
    assert list(tmp_path.iterdir()) == []


UNREADABLE = {
    "no photos": ({}, "nothing to read here"),
    "words for a photo": ({"boxes.csv": "path,x0,y0,x1,y1\n" + "a.jpg,1,1,9,9\n" * 20, "a.jpg": "words"}, "a.jpg"),
    "no photo left": ({"boxes.csv": "path,x0,y0,x1,y1\nabsent.jpg,1,1,9,9\n"}, "no usable face"),
    "a table of something else": ({"boxes.csv": "name,age\nAda,36\n"}, "the first line must be"),
    "points of no layout": ({"list_a.txt": "1 2 3 4 photo.jpg\n"}, "list_a.txt:1"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_calibration_faces_leave_nothing(tmp_path: Path, fused: Path, name: str) -> None:
    files, message = UNREADABLE[name]
    faces, out = tmp_path / "faces", tmp_path / "out"
    faces.mkdir()
    for file, text in files.items():
        (faces / file).write_text(text)
    said = complaint("export", fused, "-o", out, "--int8", "fast", "--calib", faces)
    assert message in said and "\n" not in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["faces"]


def test_bad_checkpoints_and_targets(tmp_path: Path, fused: Path, bundle: Path) -> None:
    out = tmp_path / "out"
    assert "toolkit import" in complaint("export", bundle / "model.onnx", "-o", out)
    assert "no such file" in complaint("export", tmp_path / "absent.ckpt", "-o", out)
    assert "--force replaces it" in complaint("export", fused, "-o", bundle)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep me")
    assert "other things in it" in complaint("export", fused, "-o", tmp_path / "notes", "--force")
    assert "is a file" in complaint("export", fused, "-o", tmp_path / "notes" / "mine.txt")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["mine.txt", "notes"]


def test_force_replaces_a_bundle_whole(tmp_path: Path, fused: Path, bundle: Path) -> None:
    out = tmp_path / "out"
    flags = ("--exporter", "torchscript", "--probes", "synth:12@3")
    assert call("export", fused, "-o", out, "--fp16", *flags).exit_code == 0
    same = {p.name: p.read_bytes() for p in bundle.iterdir()}
    assert {p.name: p.read_bytes() for p in out.iterdir()} == same
    assert call("export", fused, "-o", out, "--force", *flags).exit_code == 0
    assert not Bundle.open(out).manifest.has("fp16")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, fused: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("runtime.files.os.fsync", full)
    assert "disk is full" in complaint("export", fused, "-o", tmp_path / "out", "--exporter", "torchscript")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_limit_stops_with_exit_code_one(tmp_path: Path, fused: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.links.HALF_SHIFT_LIMIT", 1e-9)
    flags = ("--fp16", "--exporter", "torchscript", "--probes", "synth:12@3")
    done = call("export", fused, "-o", tmp_path / "out", *flags)
    assert isinstance(done.exception, ToolkitError) and done.exception.exit_code == 1
    assert "float16: shift" in str(done.exception) and list(tmp_path.iterdir()) == []
