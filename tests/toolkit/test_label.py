"""`toolkit data label`: what it writes, prints and refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
from family import state

from runtime.errors import UsageError
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


def test_faces_of_a_test_set_are_left_out(
    models: list[str], faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The test set holds two of the six photos, under other names; labels of other points lie a little elsewhere."""
    source = open_source(faces, split="train")
    lines = []
    for index in (1, 4):
        sample = source.sample(index)
        write_image(tmp_path / "tests" / "images" / f"t{index}.png", source.photo(index))
        lines.append(" ".join(f"{v:.4f}" for v in sample.points.ravel()) + f" t{index}.png")
    (tmp_path / "tests" / "list_98pt_test.txt").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    given = (
        "label",
        str(faces),
        "--split",
        "train",
        "--model",
        models[0],
        "-o",
        str(out),
        *LOOSE,
        "--half-weight",
        "0",
    )
    assert run(*given, "--apart-from", str(tmp_path / "tests")) == 0
    shown = capsys.readouterr().out
    assert "the same picture is in" in shown and "4 faces, median" in shown
    opened = open_source(out)
    kept = {opened.sample(index).image.name for index in range(len(opened))}
    assert kept == {source.sample(index).image.name for index in (0, 2, 3, 5)}
    facts = json.loads((out / "labels.json").read_text())
    assert facts["fates"] == {"kept": 4, "twin": 2} and len(facts["apart_from"]) == 1
    assert (out / "disagreement.csv").read_text().count(",twin\n") == 2


def test_a_test_list_is_cut_by_photo(models: list[str], tmp_path: Path) -> None:
    """Faces in pairs: two boxes on each of ten photos."""
    synthetic = open_source("synth:10@4")
    rows = ["path,x0,y0,x1,y1"]
    for index in range(10):
        write_image(tmp_path / "faces" / f"{index}.png", synthetic.photo(index))
        rows += [f"{index}.png,30,30,120,120", f"{index}.png,20,40,110,130"]
    (tmp_path / "faces" / "boxes.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "out"
    given = ("label", str(tmp_path / "faces"), "--model", models[0], "-o", str(out), *LOOSE, "--refine", "0")
    assert run(*given, "--test-fraction", "0.3") == 0
    names = {}
    for split in ("train", "test"):
        opened = open_source(out, split=split)  # type: ignore[arg-type]
        names[split] = [opened.sample(index).image.name for index in range(len(opened))]
        assert opened.sample(0).weights is not None
    assert len(names["train"]) == 14 and len(names["test"]) == 6
    assert not set(names["train"]) & set(names["test"])
    assert json.loads((out / "labels.json").read_text())["test_fraction"] == 0.3


def test_small_faces_are_left_out(
    models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for size, index in ((160, 0), (48, 1)):
        write_image(tmp_path / "photos" / f"{index}.png", open_source("synth:2@4").photo(index)[:size, :size])
    given = ("label", str(tmp_path / "photos"), "--model", models[0], *LOOSE, "--detector", "whole")
    assert run(*given, "-o", str(tmp_path / "all")) == 0
    assert run(*given, "-o", str(tmp_path / "large"), "--min-face", "100") == 0
    assert [len(open_source(tmp_path / name)) for name in ("all", "large")] == [2, 1]
    assert run(*given, "-o", str(tmp_path / "none"), "--min-face", "500") == 2
    assert "finds no face of 500 pixels and more in 2 photos" in capsys.readouterr().err
    assert run("label", "synth:2", "--model", models[0], "-o", str(tmp_path / "x"), "--min-face", "9") == 2
    assert "together with --detector" in capsys.readouterr().err


def test_boxes_of_another_search_are_not_taken_up(
    models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job interrupted after detecting keeps its boxes; one that looks for larger faces looks again."""
    import train.label.job

    for size, index in ((160, 0), (48, 1)):
        write_image(tmp_path / "photos" / f"{index}.png", open_source("synth:2@4").photo(index)[:size, :size])
    out = tmp_path / "out"
    given = ("label", str(tmp_path / "photos"), "--model", models[0], *LOOSE, "--detector", "whole", "-o", str(out))
    with monkeypatch.context() as broken:
        broken.setattr(train.label.job, "_claim", lambda *_: (_ for _ in ()).throw(UsageError("stopped")))
        assert run(*given) == 2
    assert len(list((tmp_path / "out.partial").glob("boxes*.csv"))) == 1
    assert run(*given, "--min-face", "100") == 0
    assert len(open_source(out)) == 1
