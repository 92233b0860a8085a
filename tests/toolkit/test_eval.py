"""eval: the numbers of the metrics module, for every kind of artefact, each with its own spec."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))

from family import exported, spec_of_upstream, state, trained

from export.onnx_file import set_spec, write_onnx
from runtime.backends.ort import OrtModel
from runtime.detect import Detection, FaceRule
from runtime.errors import InputError, UsageError
from runtime.geometry import Box, crop_region, network_input
from runtime.images import write_image
from runtime.spec import CropRule, ModelSpec
from toolkit.boxes import DetectedBoxes
from toolkit.cli import main
from toolkit.evaluate import paired_difference, score_artefacts
from toolkit.robustness import DISTURBANCES, _Scene
from train.checkpoint import Checkpoint, load_model, save_checkpoint
from train.data.open import open_source
from train.evaluate import crop_faces, evaluate, face_box, torch_predictor

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


@pytest.fixture(scope="module")
def errors() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    generator = np.random.default_rng(1)
    base = generator.gamma(4, 0.015, 400)
    return base, generator.normal(0, 0.002, 400)


def test_a_paired_interval_sees_what_an_unpaired_one_would_not(
    errors: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> None:
    base, noise = errors
    found = paired_difference(base, base * 1.01 + noise * 0.1)
    assert found.relative == pytest.approx(0.01, abs=0.002) and found.is_news and 0.008 < found.low < found.high < 0.012
    spread = base.std() / np.sqrt(len(base)) / base.mean()
    assert found.high - found.low < 0.1 * spread, "faces must be drawn in pairs"
    nothing = paired_difference(base, base + noise - noise.mean())
    assert not nothing.is_news and nothing.low < 0 < nothing.high
    assert paired_difference(base, base * 1.01) == paired_difference(base, base * 1.01)
    with pytest.raises(UsageError, match="same faces"):
        paired_difference(base, base[:-1])


def test_a_bundle_and_its_parts_side_by_side(small: Path, tmp_path: Path, run_eval: Eval) -> None:
    save = tmp_path / "r.json"
    code, out, err = run_eval(small, "--data", FACES, "--save", save, "--plots", tmp_path / "plots")
    assert code == 0, err
    facts = json.loads(save.read_text())
    assert [a["name"] for a in facts["artefacts"]] == ["fused.ckpt", "model.onnx", "model.fp16.onnx", "model.int8.onnx"]
    assert facts["artefacts"][0]["difference"] is None and "95 % interval" in out
    change = facts["artefacts"][3]["difference"]
    nme = [a["scores"]["all"]["nme"] for a in facts["artefacts"]]
    assert (
        change["relative"] == pytest.approx(nme[3] / nme[0] - 1)
        and change["low"] <= change["relative"] <= change["high"]
    )
    assert "news" in out and " no " in out
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {"ced.png", "landmarks.png", "worst.png"}
    from toolkit.report import write_report

    page = write_report(small, save, None, tmp_path / "x.html").read_text()
    assert f"{100 * nme[3]:.3f}" in page
    code, out, _ = run_eval(f"{small}:int8", f"{small}:fp32", "--data", FACES, "--json")
    assert [a["name"] for a in json.loads(out)["artefacts"]] == ["model.int8.onnx", "model.onnx"]
    code, _, err = run_eval(f"{small}:c", "--data", FACES)
    assert code == 2 and "no 'c' that runs; it has: fused, fp32, fp16, int8" in err


def test_a_changed_bundle_is_not_measured(small: Path, tmp_path: Path, run_eval: Eval) -> None:
    shutil.copytree(small, tmp_path / "b")
    data = bytearray((tmp_path / "b" / "model.int8.onnx").read_bytes())
    data[-9] ^= 1
    (tmp_path / "b" / "model.int8.onnx").write_bytes(data)
    code, out, err = run_eval(tmp_path / "b", "--data", FACES)
    assert (code, out) == (2, "") and "the manifest says" in err


def test_the_challenge_form(folder: Path, tmp_path: Path, run_eval: Eval) -> None:
    solution = tmp_path / "solution.txt"
    assert run_eval(folder / "model.ckpt", "--data", FACES, "--solution", solution)[0] == 0
    lines = solution.read_text().splitlines()
    points = np.array([[float(v) for v in line.split(" ")] for line in lines]).reshape(9, 98, 2)
    source = open_source(FACES)
    model, checkpoint = load_model(folder / "model.ckpt")
    wanted = evaluate(torch_predictor(model), crop_faces(source, checkpoint.spec), checkpoint.spec).points
    assert np.abs(points - wanted).max() < 1e-3
    code, _, err = run_eval(folder / "model.ckpt", folder / "model.onnx", "--data", FACES, "--solution", solution)
    assert code == 2 and "of one artefact, found 2" in err


def write_list(place: Path, shift: float) -> Path:
    """Synthetic photos with a WFLW list whose rectangles are the landmark boxes, moved to the right."""
    source = open_source("synth:4@4")
    (place / "images").mkdir(parents=True)
    lines = []
    for i in range(len(source)):
        write_image(place / "images" / f"{i}.png", source.photo(i))
        points = np.asarray(source.sample(i).points, dtype=np.float64)
        low, high = points.min(axis=0), points.max(axis=0)
        low[0], high[0] = low[0] + shift, high[0] + shift
        numbers = [*points.reshape(-1), *np.rint(low), *np.rint(high), *[0] * 6]
        lines.append(" ".join(f"{n:.6g}" for n in numbers) + f" {i}.png")
    (place / "list_98pt_rect_attr_test.txt").write_text("\n".join(lines) + "\n")
    return place / "list_98pt_rect_attr_test.txt"


def test_the_crop_is_chosen_and_always_said(folder: Path, tmp_path: Path, run_eval: Eval) -> None:
    same, moved = write_list(tmp_path / "same", 0.0), write_list(tmp_path / "moved", 40.0)

    def nme(data: Path, crop: str) -> tuple[float, str]:
        code, out, err = run_eval(folder / "model.ckpt", "--data", data, "--crop", crop, "--json")
        assert code == 0, err
        found = json.loads(out)["artefacts"][0]
        return found["scores"]["all"]["nme"], found["crop"]

    labels, words = nme(same, "landmarks")
    assert words == "1.2 x landmarks box"
    rect, words = nme(same, "rect")
    assert words == "1.2 x annotation box" and rect == pytest.approx(labels, rel=0.05)
    assert nme(moved, "landmarks")[0] == labels and nme(moved, "rect")[0] > 1.2 * labels
    whole, words = nme(same, "detector:whole")
    assert "detector whole" in words and whole != labels
    for crop, error in (
        ("rectangle", "expected landmarks, rect or detector:NAME"),
        ("detector:nobody", "unknown detector"),
    ):
        code, _, err = run_eval(folder / "model.ckpt", "--data", same, "--crop", crop)
        assert code == 2 and error in err


def test_faces_that_a_detector_misses_are_counted_and_left_out() -> None:
    class Half:
        """Finds every second face, where it is."""

        name, rule = "half", FaceRule()

        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, image: object) -> list[Detection]:
            self.calls += 1
            points = np.asarray(source.sample(self.calls - 1).points, dtype=np.float64)
            return (
                [Detection(Box.around(points)), Detection(Box(0, 0, 9, 9))]
                if self.calls % 2
                else [Detection(Box(0, 0, 9, 9))]
            )

    source = open_source("synth:6@4")
    boxes = DetectedBoxes(Half(), "half")
    assert boxes.usable(source, range(6), lambda: None) == [0, 2, 4]
    plain = replace(SPEC, crop=CropRule())
    spec = boxes.in_words(plain)
    assert spec.crop.box == "detector half"
    one = crop_faces(source, spec, [2], None, boxes.box_of)
    two = crop_faces(source, plain, [2])
    assert np.array_equal(one.images, two.images)


def test_the_robustness_card_tells_a_moved_box_from_a_dark_picture(small: Path, tmp_path: Path, run_eval: Eval) -> None:
    save, plots = tmp_path / "r.json", tmp_path / "plots"
    flags = ("--data", "synth:5@4", "--robustness", "--save", save, "--plots", plots)
    code, out, err = run_eval(f"{small}:fp32", f"{small}:int8", *flags)
    assert code == 0, err
    assert "box shift" in out and "landmarks tremble" in out and (plots / "robustness.png").is_file()
    facts = json.loads(save.read_text())
    card = facts["robustness"]
    for how in DISTURBANCES:
        table = card["nme"][how.name]
        at = list(how.levels).index(how.neutral)
        for name, artefact in zip(card["names"], facts["artefacts"], strict=True):
            assert table["nme"][name][at] == pytest.approx(artefact["scores"]["all"]["nme"], rel=1e-6), how
    shift = card["nme"]["box shift"]["nme"]["model.onnx"]
    assert shift[-1] > shift[0], "a net with frozen output moves with its box"
    assert all(v > 0 for row in card["still"].values() for v in row.values())
    quiet, trembling = card["still"].values()
    assert trembling["model.onnx"] > quiet["model.onnx"]


def test_disturbances_do_what_they_say(small: Path) -> None:
    source = open_source("synth:3@4")
    photos = [source.photo(i) for i in range(3)]
    squares = [crop_region(face_box(source.sample(i), SPEC), SPEC.crop) for i in range(3)]
    scene = _Scene(photos, squares, range(3), SPEC)
    by_name = {d.name: d for d in DISTURBANCES}
    plain, same = scene.disturbed(by_name["blur"], 0)
    assert same == squares
    _, moved = scene.disturbed(by_name["box shift"], 10)
    for a, b in zip(squares, moved, strict=True):
        assert np.hypot(a.cx - b.cx, a.cy - b.cy) == pytest.approx(0.1 * a.side / SPEC.crop.scale) and a.side == b.side
    assert [b.side / a.side for a, b in zip(squares, scene.disturbed(by_name["box scale"], 1.25)[1], strict=True)] == [
        1.25
    ] * 3
    assert {abs(r.angle) for r in scene.disturbed(by_name["rotation"], 20)[1]} == {np.deg2rad(20)}
    dark, _ = scene.disturbed(by_name["brightness"], 0.5)
    assert dark.mean() == pytest.approx(plain.mean() / 2, abs=0.5)
    rough = [np.abs(np.diff(scene.disturbed(by_name["blur"], s)[0].astype(float), axis=2)).mean() for s in (0, 1, 3)]
    assert rough[0] > rough[1] > rough[2]
    loss = [np.abs(scene.disturbed(by_name["JPEG"], q)[0].astype(float) - plain).mean() for q in (70, 40, 10)]
    assert 0 < loss[0] < loss[1] < loss[2]
    again = _Scene(photos, squares, range(3), SPEC).disturbed(by_name["box shift"], 10)[1]
    assert again == moved


def test_an_engine_is_measured_like_the_others(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Engine:
        """What the TensorRT back end gives, on another engine."""

        spec = SPEC
        card = SimpleNamespace(precision="fp16")

        def landmarks(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
            found = OrtModel((folder / "model.onnx").read_bytes())(network_input(crops, SPEC))
            return np.asarray(found, dtype=np.float32).reshape(len(crops), -1, 2)

    (tmp_path / "m.plan").write_bytes(b"plan")
    monkeypatch.setattr("export.artefact_engine.open_plan", lambda path: Engine())
    board = score_artefacts([folder / "model.onnx", tmp_path / "m.plan"], open_source(FACES))
    assert [row.artefact.kind for row in board.rows] == ["onnx", "engine"] and board.rows[
        1
    ].artefact.precision == "float16"
    assert np.abs(board.rows[0].evaluation.errors - board.rows[1].evaluation.errors).max() < 1e-6


def test_an_engine_without_a_gpu_is_one_line(folder: Path, tmp_path: Path, run_eval: Eval) -> None:
    (tmp_path / "m.plan").write_bytes(b"plan")
    code, out, err = run_eval(tmp_path / "m.plan", "--data", FACES)
    assert (code, out) == (2, "") and len(err.strip().splitlines()) == 1
