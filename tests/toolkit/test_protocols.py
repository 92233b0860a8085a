"""Protocols of WFLW, 300-W and AFLW2000: the points, the divisor, and solution.txt written and read back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
from family import spec_of_upstream, state, trained

from runtime.errors import InputError, UsageError
from runtime.files import read_json
from runtime.images import write_image
from runtime.layouts import IBUG68, IBUG68_IN_WFLW98, WFLW98
from runtime.schema import validate
from toolkit.cli import main
from toolkit.evaluate import score_artefacts
from toolkit.protocols import PROTOCOLS, protocol_named
from toolkit.solution import read_solution, solution_text
from train.checkpoint import Checkpoint, save_checkpoint
from train.data.combine import in_layout
from train.data.open import open_source

SPEC = spec_of_upstream("pfld", size=32)
FACES = "synth:5@4"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.ckpt"
    save_checkpoint(path, Checkpoint("multi-branch", SPEC, state(trained(SPEC))))
    return path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["eval", *arguments])
    return int(exit_.value.code or 0)


def by_hand(points: np.ndarray, truth: np.ndarray, name: str) -> np.ndarray:
    """Errors written down from the definitions of the data sets."""
    distance = np.hypot(*(points - truth).transpose(2, 0, 1)).mean(1)
    if name == "wflw":
        size = np.hypot(*(truth[:, 60] - truth[:, 72]).T)
    elif name == "300w":
        size = np.hypot(*(truth[:, 36] - truth[:, 45]).T)
    elif name == "pupils":
        size = np.hypot(*(truth[:, 36:42].mean(1) - truth[:, 42:48].mean(1)).T)
    else:
        size = np.sqrt(np.ptp(truth[:, :, 0], axis=1) * np.ptp(truth[:, :, 1], axis=1))
    return distance / size


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_each_protocol_is_its_definition(model: Path, name: str) -> None:
    protocol = protocol_named(name)
    board = score_artefacts([model], open_source(FACES), protocol=protocol)
    row = board.rows[0]
    source = in_layout(open_source(FACES), protocol.layout)
    truth = np.stack([source.sample(i).points for i in range(5)]).astype(np.float64)
    assert row.evaluation.points.shape == truth.shape
    np.testing.assert_allclose(row.evaluation.errors, by_hand(row.evaluation.points, truth, name))
    assert board.protocol == name
    if name == "300w":
        whole = score_artefacts([model], open_source(FACES)).rows[0].evaluation.points
        np.testing.assert_array_equal(row.evaluation.points, whole[:, list(IBUG68_IN_WFLW98)])
        pupils = by_hand(row.evaluation.points, truth, "pupils")
        assert row.also["inter-pupil"].nme == pytest.approx(pupils.mean())
    else:
        assert not row.also


def test_the_command_prints_and_saves_it(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "r.json"
    assert run(str(model), "--data", FACES, "--protocol", "300w", "--save", str(saved)) == 0
    shown = capsys.readouterr().out
    assert "protocol 300w" in shown and "over inter-pupil: NME" in shown
    facts = read_json(saved)
    validate(facts, "evaluation", "r.json")
    assert facts["protocol"] == "300w" and set(facts["artefacts"][0]["also"]) == {"inter-pupil"}


def test_a_solution_is_written_and_scores_the_same(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "solution.txt"
    given = ("--data", FACES, "--protocol", "aflw2000", "--json")
    assert run(str(model), *given, "--solution", str(place)) == 0
    before = json.loads(capsys.readouterr().out)
    assert [len(line.split()) for line in place.read_text().splitlines()] == [136] * 5
    assert run(str(model), str(place), *given) == 0
    after = json.loads(capsys.readouterr().out)
    first, second = (artefact["scores"]["all"]["nme"] for artefact in after["artefacts"])
    assert first == before["artefacts"][0]["scores"]["all"]["nme"]
    assert second == pytest.approx(first, rel=1e-4)
    assert run(str(place), *given, "--count", "2") == 0
    assert json.loads(capsys.readouterr().out)["faces"] == 2


def test_the_truth_as_a_solution_has_no_error(tmp_path: Path) -> None:
    source = in_layout(open_source(FACES), IBUG68)
    truth = np.stack([source.sample(i).points for i in range(5)]).astype(np.float64)
    shifted = truth + np.array([3.0, 4.0])
    for name, points, expected in (("a.txt", truth, 0.0), ("b.txt", shifted, 5.0)):
        (tmp_path / name).write_text(solution_text(points))
        np.testing.assert_allclose(read_solution(tmp_path / name, 5, IBUG68), points, atol=1e-4)
        board = score_artefacts([tmp_path / name], open_source(FACES), protocol=protocol_named("aflw2000"))
        sizes = np.sqrt(np.prod(np.ptp(truth, axis=1), axis=1))
        np.testing.assert_allclose(board.rows[0].evaluation.errors, expected / sizes, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 2\n" * 4, "4 lines, the data has 5 faces"),
        ("1 2\n" * 5, ":1: 2 numbers, expected x and y of 98 points"),
        ("x " * 196 + "\n" + ("1 " * 196 + "\n") * 4, ":1: could not convert"),
        (("1 " * 196 + "\n") * 4 + "nan " * 196, ":5: a coordinate is not finite"),
    ],
)
def test_broken_solutions(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "s.txt").write_text(text)
    with pytest.raises(InputError, match=said):
        read_solution(tmp_path / "s.txt", 5, WFLW98)


def test_what_does_not_fit_a_protocol(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = in_layout(open_source(FACES), IBUG68)
    lines = []
    for index in range(5):
        write_image(tmp_path / "images" / f"{index}.png", source.photo(index))
        points = " ".join(f"{v:.3f}" for v in source.sample(index).points.ravel())
        lines.append(f"{points} {index}.png\n")
    (tmp_path / "list68.txt").write_text("".join(lines))
    for given, said in (
        (("--data", str(tmp_path / "list68.txt"), "--protocol", "wflw"), "they have 68 points only"),
        (("--data", FACES, "--protocol", "cofw"), "unknown protocol 'cofw'; known: wflw, 300w, aflw2000"),
        (("--data", FACES, "--protocol", "wflw", "--normaliser", "box"), "contradicts --protocol wflw"),
    ):
        assert run(str(model), *given) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    (tmp_path / "s.txt").write_text(("1 2 " * 98 + "\n") * 5)
    assert run(str(tmp_path / "s.txt"), "--data", FACES, "--robustness") == 2
    with pytest.raises(UsageError):
        protocol_named("")
