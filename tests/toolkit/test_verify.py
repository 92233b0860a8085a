"""verify on the command line: exit codes, what it says, what it writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))

from hard import hard_model

from export.fuse import fuse_checkpoint
from runtime.spec import ModelSpec
from toolkit.cli import main
from train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from train.models.zoo import build

SPEC = ModelSpec("ghostone", 0.125, input_size=32, branches=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multi-branch checkpoint, its fused one, and files that are wrong in some way."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save_checkpoint(folder / "model.ckpt", Checkpoint("multi-branch", SPEC, hard_model(SPEC).state_dict()))
    fuse_checkpoint(folder / "model.ckpt", folder / "fused.ckpt")
    good = load_checkpoint(folder / "fused.ckpt")
    weights = {key: value.clone() for key, value in good.model.items()}
    weights["conv3_2.ghost_conv.0.cheap_operation.reparam_conv.weight"][3] *= 1.25
    save_checkpoint(folder / "changed.ckpt", Checkpoint("fused", SPEC, weights, parent=good.parent))
    other = ModelSpec("ghostone", 0.25, input_size=32, branches=2)
    save_checkpoint(folder / "other.ckpt", Checkpoint("fused", other, build(other, fused=True).state_dict()))
    save_checkpoint(folder / "raw.ckpt", Checkpoint("multi-branch", SPEC, build(SPEC).state_dict()))
    (folder / "text.ckpt").write_text("hello\n")
    (folder / "empty.ckpt").touch()
    (folder / "directory").mkdir()
    return folder


def verify(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    threads = torch.get_num_threads()
    with pytest.raises(SystemExit) as stop:
        main(["verify", *map(str, arguments)])
    torch.set_num_threads(threads)
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


def test_a_good_model_is_proven_with_table_json_and_plot(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, picture = folder / "proof.json", folder / "proof.png"
    code, out, err = verify(
        capsys, folder / "model.ckpt", "--data", "synth:3@1", "--seed", 5, "--json", report, "--plot", picture
    )
    assert (code, err) == (0, "")
    assert "proven: 50 blocks and the whole network" in out and "3 faces of synth:3@1, seed 5" in out
    data = json.loads(report.read_text())
    assert data["passed"] and data["problems"] == [] and data["seed"] == 5 and len(data["blocks"]) == 50
    for block in data["blocks"]:
        assert block["weights"]["ulp"] <= 0.5 + 1e-6
        assert all(0 <= block[kind]["share"] <= 1 < 2 for kind in ("exact", "faces", "noise"))
    assert data["whole"]["exact"] < 1e-12 and data["whole"]["shift"]["max_pixels"] < 0.05
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_pair_is_proven(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = verify(
        capsys, folder / "model.ckpt", "--fused", folder / "fused.ckpt", "--data", "synth:2", "--probes", 1, "--all"
    )
    assert (code, err) == (0, "") and "1 faces of synth:2" in out
    assert "conv5_4.ghost_conv.2.primary_conv" in out and "conv1 " in out


def test_a_changed_block_is_named_with_its_channel_and_cause(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = folder / "failed.json"
    code, out, err = verify(
        capsys,
        folder / "model.ckpt",
        "--fused",
        folder / "changed.ckpt",
        "--data",
        "synth:2",
        "--json",
        report,
        "--plot",
        folder / "failed.png",
    )
    assert code == 1 and "FAILED: weights" in out
    assert err.startswith("error: block conv3_2.ghost_conv.0.cheap_operation: weights: channel 3: ")
    assert err.count("\n") == 1
    problems = json.loads(report.read_text())["problems"]
    assert [p["where"] for p in problems if p["check"] == "weights"] == ["block conv3_2.ghost_conv.0.cheap_operation"]
    assert (folder / "failed.png").exists()


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["fused.ckpt"], "a fused checkpoint"),
        (["model.ckpt", "--fused", "model.ckpt"], "not a fused checkpoint"),
        (["model.ckpt", "--fused", "other.ckpt"], "different models"),
        (["model.ckpt", "--fused", "none.ckpt"], "no such file"),
        (["raw.ckpt"], "never seen data"),
        (["none.ckpt"], "no such file"),
        (["text.ckpt"], "text.ckpt"),
        (["empty.ckpt"], "the file is empty"),
        (["directory"], "is a directory"),
        (["model.ckpt", "--plot", "a.jpg"], "ends in .png"),
        (["model.ckpt", "--probes", "0"], "1.."),
        (["model.ckpt", "--data", "nowhere"], "nowhere"),
    ],
    ids=str,
)
def test_wrong_input_is_one_line_and_code_2(
    folder: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(folder / text) if text.endswith(".ckpt") or text == "directory" else text for text in arguments]
    code, out, err = verify(capsys, *paths)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and says in err


def test_flags_that_a_bundle_does_not_know_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    code, _, err = verify(capsys, tmp_path, "--data", "synth:2")
    assert code == 2 and "--data is for checkpoints" in err
    code, _, err = verify(capsys, tmp_path)
    assert code == 2 and "manifest.json" in err
