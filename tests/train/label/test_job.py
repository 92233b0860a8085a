"""A labelling job: what is kept and why, weights, pins, and going on after an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from coloured import ColouredSource, Knower, true_points

from runtime.errors import InputError, UsageError
from runtime.images import read_image
from runtime.layouts import IBUG68, IBUG68_IN_WFLW98, WFLW98
from runtime.spec import ModelSpec
from train.data.open import open_source
from train.label import job as job_module
from train.label.ensemble import Ensemble, Member, face_sizes
from train.label.job import Labels, label_faces
from train.label.rules import Rules
from train.label.variations import VARIATIONS
from train.label.write import require_place, write_labels

TRUTH = true_points()
SIZE = face_sizes(TRUTH[None])[0]


def ensemble(spec: ModelSpec, *errors: object) -> Ensemble:
    members = [Member(f"m{i}", spec, Knower(spec, TRUTH, e), digest=str(i)) for i, e in enumerate(errors or (0.0,))]  # type: ignore[arg-type]
    return Ensemble(members, VARIATIONS["flip"])


def test_labels_weights_and_fates(spec: ModelSpec, tmp_path: Path) -> None:
    unsure = np.zeros((98, 2))
    unsure[7] = 6.0, 0.0
    labels, _ = label_faces(ColouredSource(3, broken=(1,)), ensemble(spec, 0.0, unsure), Rules(), tmp_path / "j")
    assert labels.fates == ("kept", "unreadable", "kept")
    assert labels.counts() == {"kept": 2, "unreadable": 1}
    np.testing.assert_allclose(labels.points[0], TRUTH + unsure / 2, atol=0.06)
    assert labels.weights[0, 7] == pytest.approx(1 / (1 + (3 / SIZE / 0.02) ** 2), rel=0.05)
    assert (np.delete(labels.weights[0], 7) > 0.99).all()
    assert np.isnan(labels.points[1]).all() and (labels.weights[1] == 0).all()


def test_the_limits_leave_faces_out(spec: ModelSpec, tmp_path: Path) -> None:
    far = 0.1 * SIZE / np.sqrt(2)
    source = ColouredSource(2)
    disagree, _ = label_faces(source, ensemble(spec, 0.0, far), Rules(), tmp_path / "a")
    assert disagree.fates == ("disagreement",) * 2
    assert disagree.disagreement[0] == pytest.approx(0.05, rel=0.02)
    looser, _ = label_faces(source, ensemble(spec, 0.0, far), Rules(max_disagreement=0.06), tmp_path / "b")
    assert looser.fates == ("kept",) * 2
    apart, _ = label_faces(source, ensemble(spec, far), Rules(), tmp_path / "c")
    assert apart.fates == ("distance",) * 2
    assert apart.distance[0] == pytest.approx(0.1, rel=0.02)


def test_no_weights_on_demand(spec: ModelSpec, tmp_path: Path) -> None:
    labels, _ = label_faces(ColouredSource(1), ensemble(spec, 0.0, 2.0), Rules(half_weight=0), tmp_path / "j")
    assert (labels.weights == 1).all()


def test_pinning_keeps_known_points_and_their_weight(spec: ModelSpec, tmp_path: Path) -> None:
    source = ColouredSource(1, IBUG68)
    shift = np.array([2.0, -1.5])
    free, _ = label_faces(source, ensemble(spec, shift, 0.0), Rules(), tmp_path / "a")
    pinned, _ = label_faces(source, ensemble(spec, shift, 0.0), Rules(pin=True), tmp_path / "b")
    np.testing.assert_allclose(free.points[0], TRUTH + shift / 2, atol=0.06)
    np.testing.assert_array_equal(pinned.points[0, list(IBUG68_IN_WFLW98)], source.sample(0).points)
    np.testing.assert_allclose(pinned.points[0], TRUTH, atol=0.5)
    known = np.isin(np.arange(98), IBUG68_IN_WFLW98)
    assert (pinned.weights[0][known] == 1).all() and (pinned.weights[0][~known] < 0.99).all()
    with pytest.raises(UsageError, match="no map between them"):
        small = ModelSpec("ghostone", points=68, layout="ibug68", input_size=64)
        label_faces(ColouredSource(1), ensemble(small), Rules(pin=True), tmp_path / "c")


class StoppedError(Exception):
    """Somebody stopped the job."""


def test_an_interrupted_job_goes_on(spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "PIECE", 2)
    source = ColouredSource(5)
    whole, _ = label_faces(source, ensemble(spec), Rules(), tmp_path / "whole")

    def stop(_: int) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        label_faces(source, ensemble(spec), Rules(), tmp_path / "j", progress=stop)
    again, seen = ensemble(spec), []
    labels, _ = label_faces(source, again, Rules(), tmp_path / "j", progress=seen.append)
    knower = again.members[0].predict
    assert isinstance(knower, Knower) and knower.calls == 2 * 3  # two looks at the three faces that were left
    assert seen == [2, 2, 1]
    assert same(labels, whole)
    (tmp_path / "j" / "0000002.npz").write_bytes(b"half")
    assert same(label_faces(source, ensemble(spec), Rules(), tmp_path / "j")[0], whole)


def same(a: Labels, b: Labels) -> bool:
    names = ("points", "weights", "spread", "disagreement", "distance")
    return a.fates == b.fates and all(np.array_equal(getattr(a, n), getattr(b, n), equal_nan=True) for n in names)


def test_another_job_does_not_go_on_with_it(spec: ModelSpec, tmp_path: Path) -> None:
    label_faces(ColouredSource(2), ensemble(spec), Rules(), tmp_path / "j")
    for rules, faces, said in (
        (Rules(pin=True), 2, "another rules"),
        (Rules(), 3, "another faces, labels"),
    ):
        with pytest.raises(UsageError, match=said):
            label_faces(ColouredSource(faces), ensemble(spec), rules, tmp_path / "j")


def test_written_labels_open_like_any_list(spec: ModelSpec, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    source = ColouredSource(4, broken=(2,))
    labels, settings = label_faces(source, ensemble(spec, 0.0, 1.0), Rules(), tmp_path / "j")
    target = write_labels(tmp_path / "out", source, labels, WFLW98, settings)
    opened = open_source(target, split="train")
    assert len(opened) == 3
    for at, face in enumerate((0, 1, 3)):
        sample = opened.sample(at)
        np.testing.assert_allclose(sample.points, labels.points[face], atol=1e-3)
        np.testing.assert_allclose(sample.weights, labels.weights[face], atol=1e-3)
        np.testing.assert_array_equal(opened.photo(at), source.photo(face))
    facts = json.loads((target / "labels.json").read_text())
    assert facts["fates"] == {"kept": 3, "unreadable": 1} and facts["rules"]["max_disagreement"] == 0.03
    table = (target / "disagreement.csv").read_text().splitlines()
    assert len(table) == 5 and table[3].endswith(",unreadable")
    assert read_image(target / "worst.png").shape == (192, 576, 3)
    assert read_image(target / "disagreement.png").shape[0] > 100
    with pytest.raises(UsageError, match="not empty"):
        require_place(target)


def test_photos_are_linked_under_their_names(spec: ModelSpec, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import cv2
    from coloured import coloured_photo

    for name in ("a/x_f0.png", "b/x_f0.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(tmp_path / "photos" / name), coloured_photo())
    rows = [f"{name},{edges}" for name in ("a/x_f0.png", "a/x_f0.png", "b/x_f0.png") for edges in ["80,80,170,170"]]
    (tmp_path / "photos" / "boxes.csv").write_text("\n".join(["path,x0,y0,x1,y1", *rows]) + "\n")
    from train.data.boxes import open_unlabelled

    source = open_unlabelled(tmp_path / "photos")
    labels, settings = label_faces(source, ensemble(spec), Rules(), tmp_path / "j")
    assert settings["refine"] == 1
    target = write_labels(tmp_path / "out", source, labels, WFLW98, settings)
    opened = open_source(target)
    assert [opened.sample(i).image.relative_to(target / "images").as_posix() for i in range(3)] == [
        "a/x_f0.png",
        "a/x_f0.png",
        "b/x_f0.png",
    ]
    assert (target / "images/a/x_f0.png").samefile(tmp_path / "photos/a/x_f0.png")


def test_nothing_left_is_said(spec: ModelSpec, tmp_path: Path) -> None:
    source = ColouredSource(2)
    labels, settings = label_faces(source, ensemble(spec, 0.0, 30.0), Rules(), tmp_path / "j")
    with pytest.raises(InputError, match=r"no face is left to write \(2 left out: the models disagree\)"):
        write_labels(tmp_path / "out", source, labels, WFLW98, settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("max_disagreement", 0.0), ("half_weight", -1.0), ("max_distance", np.inf)]
)
def test_impossible_limits(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')}"):
        Rules(**{name: value})  # type: ignore[arg-type]
