"""eval: the numbers of the metrics module, for every kind of artefact, each with its own spec."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))

from family import exported, spec_of_upstream, state, trained

from export.onnx_file import set_spec, write_onnx
from runtime.errors import InputError, UsageError
from runtime.spec import ModelSpec
from toolkit.cli import main
from toolkit.evaluate import score_artefacts
from train.checkpoint import Checkpoint, load_model, save_checkpoint
from train.data.open import open_source
from train.evaluate import crop_faces, evaluate, torch_predictor

SPEC = spec_of_upstream("pfld", size=32)
FACES = "synth:9@4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model as model.ckpt, model.onnx and, without a spec, bare.onnx; another as other.ckpt."""
    folder = tmp_path_factory.mktemp("models")
    model = trained(SPEC)
    save_checkpoint(folder / "model.ckpt", Checkpoint("multi-branch", SPEC, state(model)))
    graph = exported(model, SPEC)
    write_onnx(folder / "bare.onnx", graph)
    set_spec(graph, SPEC)
    write_onnx(folder / "model.onnx", graph)
    rgb = replace(SPEC, channels="rgb", input_size=48)
    save_checkpoint(folder / "other.ckpt", Checkpoint("multi-branch", rgb, state(trained(rgb, seed=5))))
    return folder


Eval = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_eval(capsys: pytest.CaptureFixture[str]) -> Eval:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["eval", *map(str, arguments)])
        found = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return int(ended.value.code), found.out, found.err

    return run


def test_the_numbers_are_the_librarys(folder: Path, tmp_path: Path, run_eval: Eval) -> None:
    files = [folder / name for name in ("model.ckpt", "model.onnx", "other.ckpt")]
    code, out, err = run_eval(*files, "--data", FACES, "--json", "--csv", tmp_path / "e.csv")
    assert code == 0, err
    facts: dict[str, Any] = json.loads(out)
    assert (facts["data"], facts["faces"]) == (FACES, 9)
    source = open_source(FACES)
    with (tmp_path / "e.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["face"] for row in rows] == [source.sample(i).origin for i in range(9)]
    for entry, path in zip(facts["artefacts"], files, strict=True):
        model, checkpoint = load_model(folder / "model.ckpt" if path.suffix == ".onnx" else path)
        wanted = evaluate(torch_predictor(model), crop_faces(source, checkpoint.spec), checkpoint.spec)
        for name, scores in wanted.scores.items():
            found = entry["scores"][name]
            assert found["count"] == scores.count
            assert abs(found["nme"] - scores.nme) < 1e-5 and abs(found["auc"] - scores.auc) < 1e-4
        assert entry["crop"] == "1.2 x landmarks box" and entry["normaliser"] == "inter-ocular"
        errors = [float(row[str(path)]) for row in rows]
        assert np.allclose(errors, wanted.errors, atol=1e-5)
    assert facts["artefacts"][0]["scores"] != facts["artefacts"][2]["scores"]


def test_tables(folder: Path, run_eval: Eval) -> None:
    code, out, _ = run_eval(folder / "model.ckpt", "--data", FACES)
    assert code == 0 and "NME %" in out and "1.2 x landmarks box, errors over inter-ocular" in " ".join(out.split())
    code, out, _ = run_eval(folder / "model.ckpt", folder / "other.ckpt", "--data", FACES, "--normaliser", "box")
    assert code == 0 and "other.ckpt" in out and "errors over box" in " ".join(out.split())


def test_count_takes_faces_from_everywhere(folder: Path, tmp_path: Path, run_eval: Eval) -> None:
    assert run_eval(folder / "model.ckpt", "--data", FACES, "--count", 3, "--csv", tmp_path / "e.csv")[0] == 0
    faces = [line.split(",")[0] for line in (tmp_path / "e.csv").read_text().splitlines()[1:]]
    assert faces == [f"{FACES}:{i}" for i in (0, 3, 6)]


def test_a_graph_without_a_spec(folder: Path, run_eval: Eval) -> None:
    code, out, err = run_eval(folder / "bare.onnx", "--data", FACES)
    assert (code, out) == (2, "") and "nothing says what its input means" in err and "--spec" in err
    code, out, _ = run_eval(folder / "bare.onnx", "--data", FACES, "--spec", "upstream-pfld", "--json")
    assert code == 0
    wanted = run_eval(folder / "model.onnx", "--data", FACES, "--json")[1]
    assert json.loads(out)["artefacts"][0]["scores"] == json.loads(wanted)["artefacts"][0]["scores"]
    code, _, err = run_eval(folder / "model.onnx", "--data", FACES, "--spec", "upstream-pfld")
    assert code == 2 and "carries its own spec" in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--normaliser", "inter-ear"], "has no normaliser 'inter-ear'"),
        (["--split", "val"], "expected train or test"),
        (["--data", "nowhere"], "no such file or folder"),
        (["--count", "0"], "--count"),
    ],
)
def test_flags_that_make_no_sense(folder: Path, run_eval: Eval, flags: list[str], words: str) -> None:
    base = [] if "--data" in flags else ["--data", FACES]
    code, out, err = run_eval(folder / "model.ckpt", *base, *flags)
    assert code == 2 and out == "" and words in err and "Traceback" not in err


def test_points_that_have_no_labels_are_refused_by_name(tmp_path: Path) -> None:
    spec: ModelSpec = spec_of_upstream("pfld", size=32, points=12)
    save_checkpoint(tmp_path / "12.ckpt", Checkpoint("multi-branch", spec, state(trained(spec))))
    with pytest.raises(UsageError, match=r"12.ckpt: a model with plain12 points cannot be measured on wflw98"):
        score_artefacts([tmp_path / "12.ckpt"], open_source("synth:2"))


def test_a_model_that_gives_nan_is_refused(tmp_path: Path) -> None:
    weights = state(trained(SPEC))
    weights["fc.weight"] = weights["fc.weight"] * 0 + 3e38
    save_checkpoint(tmp_path / "hot.ckpt", Checkpoint("multi-branch", SPEC, weights))
    with pytest.raises(InputError, match=r"hot.ckpt: gives NaN or infinity on synth:2@0:\d"):
        score_artefacts([tmp_path / "hot.ckpt"], open_source("synth:2"))
