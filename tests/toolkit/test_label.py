"""`toolkit data label`: what it writes, prints and refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
from family import state

from runtime.images import write_image
from runtime.layouts import IBUG68_IN_WFLW98
from runtime.spec import ModelSpec
from toolkit.cli import main
from train.checkpoint import Checkpoint, save_checkpoint
from train.data.open import open_source

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two small checkpoints whose outputs look like faces."""
    from small import face_like

    folder, paths = tmp_path_factory.mktemp("models"), []
    for size in (32, 48):
        spec = ModelSpec("ghostone", width=0.125, input_size=size, branches=1)
        paths.append(str(folder / f"m{size}.ckpt"))
        weights = state(face_like(spec))
        weights["fc.bias"] += size / 1600  # so that the two do not say the same
        save_checkpoint(paths[-1], Checkpoint("multi-branch", spec, weights))
    return paths


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faces") / "wflw"
    assert run("synth", "6", "-o", str(root), "--size", "64", "--test-fraction", "0") == 0
    return root


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["data", *arguments])
    return int(exit_.value.code or 0)


LOOSE = ("--max-disagreement", "1", "--max-distance", "1")


def test_labels_become_training_data(
    models: list[str], faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "labelled"
    given = [part for path in models for part in ("--model", path)]
    assert run("label", str(faces), "--split", "train", *given, "-o", str(out), *LOOSE) == 0
    shown = capsys.readouterr().out
    assert "6 faces, median disagreement" in shown and "kept" in shown
    assert not (tmp_path / "labelled.partial").exists()
    opened = open_source(out, split="train")
    assert len(opened) == 6
    weights = opened.sample(0).weights
    assert weights is not None and 0 < weights.min() < weights.max() <= 1
    assert opened.sample(0).image.parent == out / "images"
    assert opened.sample(0).angles is not None
    assert run("stats", str(out)) == 0


def test_a_weight_behind_a_model_counts(models: list[str], faces: Path, tmp_path: Path) -> None:
    points = []
    for name, given in (("a", models[0]), ("b", models[1]), ("mostly-a", f"{models[0]}:999")):
        extra = ["--model", models[1]] if name == "mostly-a" else []
        out = tmp_path / name
        assert run("label", str(faces), "--split", "train", "--model", given, *extra, "-o", str(out), *LOOSE) == 0
        points.append(open_source(out, split="train").sample(0).points)
    apart = np.abs(points[0] - points[1]).max()
    assert apart > 0.02
    assert np.abs(points[2] - points[0]).max() < 0.02 * apart + 2e-4


def test_pinned_faces_keep_their_points(models: list[str], faces: Path, tmp_path: Path) -> None:
    source = open_source(faces, split="train")
    lines = []
    for index in range(len(source)):
        sample = source.sample(index)
        numbers = " ".join(f"{v:.4f}" for v in sample.points[list(IBUG68_IN_WFLW98)].ravel())
        lines.append(f"{numbers} {sample.image.as_posix()}")
    (tmp_path / "list_68pt.txt").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    given = ("label", str(tmp_path / "list_68pt.txt"), "--model", models[0], "-o", str(out), *LOOSE)
    assert run(*given, "--pin") == 0
    opened = open_source(out)
    for index in range(len(opened)):
        sample = opened.sample(index)
        known = source.sample(index).points[list(IBUG68_IN_WFLW98)]
        np.testing.assert_allclose(sample.points[list(IBUG68_IN_WFLW98)], known, atol=1e-3)
        assert sample.weights is not None and (sample.weights[list(IBUG68_IN_WFLW98)] == 1).all()


def test_plain_photos_with_a_detector(models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synthetic = open_source("synth:3@4")
    for index in range(3):
        write_image(tmp_path / "photos" / f"{index}.png", synthetic.photo(index))
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no photo")
    out = tmp_path / "out"
    given = ("label", str(tmp_path / "photos"), "--model", models[0], "-o", str(out), *LOOSE)
    assert run(*given) == 2
    assert "name a --detector" in capsys.readouterr().err
    assert run(*given, "--detector", "whole") == 0
    assert "1 photos could not be read" in capsys.readouterr().err
    assert len(open_source(out)) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--variations", "lots"), "unknown variations 'lots'"),
        (("--combine", "mode"), "known: mean, median"),
        (("--max-disagreement", "0"), "--max-disagreement 0: expected"),
        (("--model", "nowhere.ckpt"), "nowhere.ckpt: no such file"),
        (("--detector", "whole"), "--detector looks for faces in a folder of photos"),
        (("--split", "val"), "--split 'val'"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, ...], said: str
) -> None:
    assert run("label", "synth:2", "--model", models[0], "-o", str(tmp_path / "out"), *change) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_it_does_not_overwrite(models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    assert run("label", "synth:2", "--model", models[0], "-o", str(tmp_path / "out")) == 2
    assert "exists and is not empty" in capsys.readouterr().err
