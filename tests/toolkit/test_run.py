"""`toolkit run` and `toolkit fit-crop` as people call them: files in, files out, exit codes, one clear line each."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime.images import read_image, write_image
from tests.runtime.small import small_net, small_spec, write_bundle
from tests.runtime.test_frames import write_video


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("run") / "bundle"
    place.mkdir()
    return str(write_bundle(place, {"fp32": ("model.onnx", small_net())}, small_spec()))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for place, name in enumerate(("a.png", "b.jpg")):
        coarse = np.random.default_rng(place).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        write_image(folder / name, cv2.resize(coarse, (160, 120)))
    return folder


def call(*arguments: object) -> int:
    from toolkit.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["run", *map(str, arguments), "--detector", "whole"])
    return int(stop.value.code or 0)


def test_a_photo(bundle: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.png"
    assert call(bundle, photos / "a.png", "-o", out, "--json", "-") == 0
    said = capsys.readouterr()
    (line,) = said.out.splitlines()
    facts = json.loads(line)
    assert facts["source"].endswith("a.png") and (facts["width"], facts["height"]) == (160, 120)
    (face,) = facts["faces"]
    assert len(face["points"]) == 98 and 0 <= face["score"] <= 1 and face["track"] is None
    assert set(facts["ms"]) == {"decode", "detect", "crop", "model", "back", "score"}
    drawn, plain = read_image(out), read_image(photos / "a.png")
    assert drawn.shape == plain.shape and (drawn != plain).any()


def test_the_table_names_every_stage(bundle: str, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(bundle, photos / "a.png") == 0
    said = capsys.readouterr().out
    for word in ("decode ms", "detect ms", "crop ms", "model ms", "back ms", "whole image", "ONNX Runtime fp32"):
        assert word in said


def test_several_inputs_and_one_that_fails(
    bundle: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "c.jpg").write_text("not a picture at all")
    (photos / "sub").mkdir()
    write_image(photos / "sub" / "a.png", np.zeros((50, 50, 3), np.uint8))
    lines = tmp_path / "faces.jsonl"
    assert call(bundle, photos, photos / "a*.png", "-o", tmp_path / "out", "--json", lines) == 2
    said = capsys.readouterr()
    assert said.err.count("error:") == 1 and "c.jpg" in said.err and "it holds text" in said.err
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.png", "b.png", "a_2.png", "a_3.png"}
    facts = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(facts) == 5 and [bool(f.get("error")) for f in facts].count(True) == 1


def test_a_video(bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = write_video(tmp_path / "clip.avi", 8)
    out, lines = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    assert call(bundle, clip, "-o", out, "--json", lines, "--frames", 5) == 0
    facts = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [f["frame"] for f in facts] == list(range(5)) and facts[3]["seconds"] == pytest.approx(0.3)
    capture = cv2.VideoCapture(str(out))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 5
    assert "pictures/s" in capsys.readouterr().out


def test_a_broken_frame_is_counted_and_does_not_stop(
    bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_video(tmp_path / "clip.avi", 6)
    real = cv2.VideoCapture

    class Faulty:
        def __init__(self, source: str) -> None:
            self.inner, self.at = real(source), -1

        def retrieve(self) -> tuple[bool, object]:
            self.at += 1
            return (False, None) if self.at == 2 else self.inner.retrieve()

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

    monkeypatch.setattr(cv2, "VideoCapture", Faulty)
    assert call(bundle, clip, "--json", "-") == 0
    facts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [bool(f.get("broken")) for f in facts] == [False, False, True, False, False, False]


class Camera:
    """A camera of grey pictures; `stop_at` is where its user presses Ctrl-C."""

    stop_at: int | None = None

    def __init__(self, number: int) -> None:
        assert number == 0
        self.at = -1

    def isOpened(self) -> bool:
        return True

    def get(self, _: int) -> float:
        return 0.0

    def grab(self) -> bool:
        self.at += 1
        if self.at == self.stop_at:
            raise KeyboardInterrupt
        return True

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.full((60, 80, 3), 90 + self.at, np.uint8)

    def release(self) -> None:
        pass


@pytest.mark.parametrize("stop_at", [None, 4])
def test_a_camera_until_enough_or_until_ctrl_c(
    bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int | None
) -> None:
    monkeypatch.setattr(Camera, "stop_at", stop_at)
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    monkeypatch.chdir(tmp_path)
    assert call(bundle, "0", "-o", "camera.avi", "--json", "camera.jsonl", "--frames", 6) == 0
    facts = [json.loads(line) for line in Path("camera.jsonl").read_text().splitlines()]
    assert [f["frame"] for f in facts] == list(range(stop_at or 6))
    assert all(b["seconds"] > a["seconds"] for a, b in itertools.pairwise(facts))
    monkeypatch.undo()
    assert cv2.VideoCapture(str(tmp_path / "camera.avi")).get(cv2.CAP_PROP_FRAME_COUNT) == (stop_at or 6)


def test_the_progress_says_frames_per_second() -> None:
    import time

    from runtime.frames import Clip
    from toolkit.running import _speed, _Tally

    tally = _Tally("a/clip.mp4", pictures=19, broken=1)
    assert _speed(tally, Clip("a/clip.mp4", 25.0, 100, iter(())), time.perf_counter() - 2) == (
        "clip.mp4 of 100 frames, 10.0 frames/s"
    )


def test_what_cannot_be_done_is_said_before_anything_is_written(
    bundle: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.png").write_bytes(b"x")
    photo = photos / "a.png"
    cases: list[tuple[list[object], str]] = [
        ([bundle, "nowhere.jpg"], "no such file"),
        ([tmp_path / "none", photo], "no such directory"),
        ([bundle, photo, "-o", tmp_path / "there.png"], "exists already"),
        ([bundle, photo, "-o", photo, "--force"], "is an input"),
        ([bundle, photo, "-o", tmp_path / "x.mp4"], "expected a name ending in"),
        ([bundle, photos, "-o", tmp_path / "x.png"], "need a directory"),
        ([bundle, photo, "--backend", "c"], "export with --c"),
        ([bundle, photo, "--crop-rule", "1,2"], "expected SCALE,DX,DY"),
        ([bundle, photo, "--json", tmp_path / "there.png"], "exists already"),
    ]
    for arguments, words in cases:
        assert call(*arguments) == 2, arguments
        said = capsys.readouterr()
        assert words in said.err and said.err.count("\n") == 1 and "Traceback" not in said.err, said.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "there.png"]


def test_fit_crop_finds_the_rule_of_a_shifted_detector(bundle: str, tmp_path: Path) -> None:
    """A detector whose boxes are twice too large and too low: the fit must undo it."""
    from runtime.detect import Detection, FaceRule
    from runtime.geometry import Box
    from runtime.landmarker import Landmarker
    from toolkit.fitcrop import fit_rule, steps_of
    from train.data.open import open_source

    source = open_source("synth:24@3")
    truth = {id(source): [Box.around(source.sample(i).points) for i in range(24)]}
    seen = iter(range(24))

    class Shifted:
        name, rule = "shifted", FaceRule()

        def __call__(self, image: np.ndarray) -> list[Detection]:
            face = truth[id(source)][next(seen)]
            side = 1.5 * max(face.width, face.height)
            cx, cy = face.centre[0], face.centre[1] - 0.1 * side
            return [Detection(Box(cx - side / 2, cy - side / 2, cx + side / 2, cy + side / 2), 0.9)]

    ticks: list[str] = []
    fit = fit_rule(Landmarker(bundle, "onnx", Shifted()), source, range(24), ticks.append)
    assert fit.found == 24 and len(ticks) == steps_of(24)
    assert fit.rule.scale == pytest.approx(1 / 1.5, abs=0.13) and fit.rule.shift[1] == pytest.approx(0.1, abs=0.09)
    assert fit.fitted < fit.current and fit.fitted < 1.3 * fit.oracle
