"""`toolkit data overlap` and `toolkit data compare`: what they print, write and refuse."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from runtime.images import read_image, write_image
from toolkit.cli import main
from train.data.open import open_source


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["data", *arguments])
    return int(exit_.value.code or 0)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Eight faces, and three of them under other names with the chin's points lower by a tenth of the eye distance."""
    root = tmp_path_factory.mktemp("pairs")
    source = open_source("synth:8@3")
    for name, rows, drop in (("first", range(8), 0.0), ("second", (1, 2, 6), 0.1)):
        lines = []
        for row in rows:
            points = np.asarray(source.sample(row).points, dtype=np.float64)
            points[:33, 1] += drop * np.hypot(*(points[72] - points[60]))
            file = f"{name}-{row}.png"
            write_image(root / name / "images" / file, source.photo(row))
            lines.append(" ".join(f"{value:.4f}" for value in points.ravel()) + f" {file}")
        (root / name / "list_98pt.txt").write_text("\n".join(lines) + "\n")
    return root / "first", root / "second"


@pytest.mark.parametrize("command", ["overlap", "compare"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    shown = capsys.readouterr().out
    assert f"toolkit data {command}" in shown and "Examples" in shown


def test_shared_pictures(pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = map(str, pair)
    table, sheet = tmp_path / "twins.csv", tmp_path / "twins.png"
    assert run("overlap", first, second, "-o", str(table), "--png", str(sheet)) == 0
    shown = capsys.readouterr()
    assert "first-1.png (face 1)  =  second-1.png (face 0)" in shown.out
    assert f"3 of 8 faces of {first} show the same picture as 3 of 3 of {second}" in shown.out
    assert f"pairs: {table}" in shown.err and f"picture: {sheet}" in shown.err
    rows = list(csv.DictReader(table.open()))
    assert {(row["first_face"], row["second_face"]) for row in rows} == {("1", "0"), ("2", "1"), ("6", "2")}
    assert all(float(row["likeness"]) > 0.9 for row in rows)
    assert rows[0]["second_photo"].endswith(f"second-{[1, 2, 6][int(rows[0]['second_face'])]}.png")
    assert read_image(sheet).shape == (160, 3 * 320, 3)


def test_a_script_can_ask(pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("overlap", *map(str, pair), "--require-none") == 1
    sheet = tmp_path / "none.png"
    assert run("overlap", str(pair[0]), "synth:6@4", "--require-none", "--png", str(sheet)) == 0
    shown = capsys.readouterr()
    assert f"0 of 8 faces of {pair[0]}" in shown.out
    assert f"no picture: {sheet} was not written" in shown.err and not sheet.exists()


def test_labels_by_another_rule(tmp_path: Path, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    renamed = tmp_path / "renamed"
    (renamed / "images").mkdir(parents=True)
    lines = (pair[1] / "list_98pt.txt").read_text().replace("second-", "first-")
    (renamed / "list_98pt.txt").write_text(lines)
    for path in (pair[1] / "images").iterdir():
        (renamed / "images" / path.name.replace("second-", "first-")).write_bytes(path.read_bytes())
    picture = tmp_path / "rules.png"
    assert run("compare", str(renamed), str(pair[0]), "--png", str(picture)) == 0
    shown = capsys.readouterr()
    rows = {
        cells[0].strip(): cells[1:] for line in shown.out.splitlines() if len(cells := line.strip("│").split("│")) == 4
    }
    assert float(rows["contour"][1]) == pytest.approx(10, abs=1) and float(rows["eyes"][0]) == 0
    assert "3 faces that" in " ".join(shown.out.split())
    assert "place points by different rules" in shown.err and f"picture: {picture}" in shown.err
    assert run("compare", str(pair[0]), str(pair[0])) == 0
    assert "different rules" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("overlap", "synth:2", "synth:2", "--least", "0"), "--least 0: expected"),
        (("overlap", "synth:2", "synth:2", "--least", "nan"), "--least nan: expected"),
        (("overlap", "synth:2", "synth:2", "--png", "a.jpg"), "must end in .png"),
        (("overlap", "synth:2", "synth:2", "--split", "val"), "--split val: expected"),
        (("compare", "synth:2", "synth:2", "--split", "train,test,train"), "expected train, test, or two of them"),
        (("compare", "synth:2", "synth:2@5"), "no face in common"),
        (("compare", "synth:2", "nowhere"), "nowhere"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1
