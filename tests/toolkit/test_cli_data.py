"""`toolkit data`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.images import read_image
from toolkit.cli import main
from train.data.pack import FacePack


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli") / "faces"
    assert run("synth", "12", "-o", str(root), "--size", "64", "--test-fraction", "0.25") == 0
    return root


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["data", *arguments])
    return int(exit_.value.code or 0)


@pytest.mark.parametrize("command", ["stats", "show", "synth", "pack"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    shown = capsys.readouterr().out
    assert f"toolkit data {command}" in shown
    assert "Examples" in shown


def test_synth_repeats_itself(dataset: Path, tmp_path: Path) -> None:
    assert run("synth", "12", "-o", str(tmp_path / "again"), "--size", "64", "--test-fraction", "0.25") == 0
    for path in sorted(p for p in dataset.rglob("*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(dataset)).read_bytes()


def test_stats_shows_both_splits(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert run("stats", str(dataset), "--json", str(tmp_path / "s.json"), "--png", str(tmp_path / "s.png")) == 0
    shown = capsys.readouterr()
    line = next(line for line in shown.out.splitlines() if " faces " in line)
    assert [cell.strip() for cell in line.strip("│ \n").split("│")] == ["faces", "9", "3"]
    assert [part["faces"] for part in json.loads((tmp_path / "s.json").read_text())] == [9, 3]
    assert read_image(tmp_path / "s.png").shape[2] == 3
    assert shown.err == f"numbers: {tmp_path / 's.json'}\npicture: {tmp_path / 's.png'}\n"


def test_broken_lines_are_named_on_stderr(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = next(dataset.rglob("*attr_test.txt"))
    copied = dataset / "faces_copy.txt"
    copied.write_text("rubbish\n" * 13 + source.read_text())
    assert run("stats", str(copied)) == 0
    shown = capsys.readouterr()
    assert f"warning: {copied}:1: found 1 columns" in shown.err
    assert "left out 13 broken faces (13 wrong column count) (3 more are not shown here" in shown.err
    assert run("stats", str(copied), "--strict") == 2
    assert f"error: {copied}:1: " in capsys.readouterr().err
    copied.unlink()


def test_show(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    assert (
        run(
            "show", str(dataset), "--split", "train", "-o", str(sheet), "--count", "4", "--columns", "2", "--cell", "64"
        )
        == 0
    )
    assert read_image(sheet).shape == (128, 128, 3)
    assert capsys.readouterr().out == f"4 of 9 faces: {sheet}\n"


def test_pack(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(tmp_path / "p")
    assert run("pack", str(dataset), "--split", "test", "-o", place, "--size", "64") == 0
    assert capsys.readouterr().out == f"3 faces of 64 x 64: {place}\n"
    assert len(FacePack(place)) == 3
    assert run("pack", str(dataset), "--split", "train", "-o", place) == 2
    assert "--force" in capsys.readouterr().err
    assert run("pack", str(dataset), "--split", "train", "-o", place, "--force") == 0
    assert len(FacePack(place)) == 9
    assert run("stats", place) == 0
    assert run("pack", place, "-o", str(tmp_path / "q")) == 2


def test_pack_names_photos_it_cannot_read(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = sorted((dataset / "WFLW_images").rglob("*.png"))[2]
    whole = photo.read_bytes()
    photo.write_bytes(whole[:40])
    try:
        assert run("pack", str(dataset), "--split", "train", "-o", str(tmp_path / "p"), "--size", "64") == 0
        shown = capsys.readouterr()
        assert "8 faces" in shown.out
        assert f"{photo}: cannot be decoded" in shown.err
        assert run("pack", str(dataset), "--split", "train", "-o", str(tmp_path / "q"), "--strict") == 2
        assert not (tmp_path / "q").exists()
    finally:
        photo.write_bytes(whole)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stats", "nowhere"], "no such file or folder"),
        (["stats", "synth:x"], "expected synth:N"),
        (["stats", "synth:3", "--png", "a.jpg"], ".png"),
        (["show", "synth:3", "-o", "a.gif"], ".png or .jpg"),
        (["show", "synth:3", "--split", "test", "-o", "a.png"], "another seed"),
        (["show", "synth:3"], "output"),
        (["synth", "0", "-o", "x"], "greater than or equal to 1"),
        (["synth", "3"], "output"),
        (["pack", "synth:3", "-o", "p", "--margin", "9"], "margin"),
        (["stats", "synth:3", "--split", "val"], "split"),
    ],
)
def test_refusals(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert "Traceback" not in shown.err
    assert list(tmp_path.iterdir()) == []


def test_two_lists_ask_for_a_choice(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", str(dataset), "-o", str(tmp_path / "a.png")) == 2
    assert "choose the train or test split" in capsys.readouterr().err


def test_synth_writes_into_no_other_folder(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("synth", "2", "-o", str(dataset)) == 2
    assert "not empty" in capsys.readouterr().err
