"""The end of the demo on a small bundle: measured, timed, explained, drawn; and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import InputError, UsageError
from runtime.images import read_image
from toolkit import demo
from toolkit.bench import run as bench_run
from toolkit.cli import main
from train.data.open import open_source

FACES = "synth:8@1"


def test_a_bundle_is_measured_timed_explained_and_drawn(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_run, "MOST_WARMUP_SECONDS", 0.1)
    monkeypatch.setattr("toolkit.bench.contenders.shutil.which", lambda _: None)
    shutil.copytree(small, tmp_path / "bundle")
    said = {}
    for name, work in demo.shown(tmp_path, FACES, lambda _: None).items():
        words, files = work()
        assert all(path.is_file() for path in files), name
        said[name] = words
    assert "NME" in said["eval"] and "most lost: model." in said["eval"] and "fastest: " in said["bench"]
    page = (tmp_path / "bundle" / "report.html").read_text()
    nme = json.loads((tmp_path / "evaluation.json").read_text())["artefacts"][-1]["scores"]["all"]["nme"]
    assert f"{100 * nme:.3f}" in page and "ONNX Runtime int8" in page
    drawn = read_image(tmp_path / "annotated" / "1.png")
    photo = open_source(FACES).photo(0)
    assert drawn.shape == photo.shape and (drawn != photo).any(axis=2).sum() > 98


def test_a_model_of_somebody_elses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, words in (
        (["--model", "x.onnx"], "belong together"),
        (["--data", "synth:4"], "belong together"),
        (["--model", str(tmp_path / "no.onnx"), "--data", "synth:4"], "no such file"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["demo", "-o", str(tmp_path / "out"), *flags])
        assert ended.value.code == 2 and words in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_only_demos_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="was not made by the demo"):
        demo.claim(tmp_path / "mine", force=True)
    demo.claim(tmp_path / "new", force=False)
    with pytest.raises(UsageError, match="holds an earlier demo"):
        demo.claim(tmp_path / "new", force=False)
    demo.claim(tmp_path / "new", force=True)
    np.testing.assert_equal(sorted(p.name for p in (tmp_path / "new").iterdir()), ["demo.json"])


def test_a_checkpoint_of_ours_needs_no_import(small: Path, tmp_path: Path) -> None:
    words, (target,) = demo.bring_in(tmp_path, small / "fused.ckpt")
    assert "checkpoint of the toolkit" in words and target.read_bytes() == (small / "fused.ckpt").read_bytes()
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match=r"text\.onnx"):
        demo.bring_in(tmp_path / "other", tmp_path / "text.onnx")
