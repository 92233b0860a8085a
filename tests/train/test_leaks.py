"""A training says when its faces show pictures that validation or tests measure."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny import Teller, tiny

from train.data.open import open_source
from train.data.split import split_by_group
from train.data.synth import write_synth
from train.leaks import NAMED
from train.loop import train


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("leaks")
    return {name: write_synth(root / name, count, seed, 96, 0.0) for name, count, seed in (("a", 40, 1), ("b", 12, 2))}


def notes(tmp_path: Path, **data: object) -> list[str]:
    teller = Teller()
    recipe = tiny(data={"cache": str(tmp_path / "cache"), **data}, schedule={"epochs": 1})
    train(recipe, tmp_path / "run", watch=teller)
    return [note for note in teller.notes if note.startswith("warning:")]


def list_of(folder: Path) -> str:
    return str(next(folder.rglob("list_98pt_rect_attr_train.txt")))


def test_shared_pictures_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    lines = (path := Path(list_of(folders["a"]))).read_text().splitlines()
    part = path.with_name("part.txt")
    part.write_text("\n".join(lines[4:9]) + "\n")
    warned = notes(tmp_path, train=[str(folders["a"])], val=[list_of(folders["b"])], test=[str(part)])
    assert len(warned) == 1
    named = [Path(line.split()[-1]).name for line in lines[4:9]]
    assert f"5 of the 5 faces of {part} show pictures" in warned[0]
    assert sum(f"{name} = {name}" in warned[0] for name in named) == NAMED
    part.unlink()


def test_validation_counts_too(folders: dict[str, Path], tmp_path: Path) -> None:
    warned = notes(tmp_path, train=["synth:20@7", str(folders["a"]), str(folders["b"])], val=[list_of(folders["b"])])
    assert len(warned) == 1 and "12 of the 12 faces" in warned[0]
    names = [Path(line.split()[-1]).name for line in Path(list_of(folders["b"])).read_text().splitlines()]
    assert sum(f"{name} = {name}" in warned[0] for name in names) == NAMED


def test_what_is_held_out_may_be_measured(folders: dict[str, Path], tmp_path: Path) -> None:
    source = open_source(folders["a"], split="train")
    trained, held = split_by_group(source, 0.2, tiny().run.seed)
    lines = Path(list_of(folders["a"])).read_text().splitlines()
    for rows, warnings in ((held, 0), (trained[:3], 1)):
        part = Path(list_of(folders["a"])).with_name("part.txt")
        part.write_text("".join(lines[row] + "\n" for row in rows))
        warned = notes(tmp_path / str(warnings), train=[str(folders["a"])], val=[], val_fraction=0.2, test=[str(part)])
        part.unlink()
        assert len(warned) == warnings


def test_silence_when_nothing_is_shared(folders: dict[str, Path], tmp_path: Path) -> None:
    assert notes(tmp_path, train=[str(folders["a"])], val=[list_of(folders["b"])]) == []


def test_synthetic_faces_of_one_seed_are_the_same_faces(tmp_path: Path) -> None:
    small, large = (open_source(f"synth:{count}@7") for count in (4, 20))
    assert all(np.array_equal(small.photo(index), large.photo(index)) for index in range(4))
    warned = notes(tmp_path, train=["synth:20@7"], val=["synth:4@2"], test=["synth:4@7"])
    assert len(warned) == 1 and "synth:4@7 and the training faces are synthetic faces of one seed" in warned[0]


def test_what_is_held_out_is_not_compared_and_synthetic_faces_neither(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.leaks.sketch", lambda *_: pytest.fail("looked at faces"))
    assert notes(tmp_path, train=[str(folders["a"])], val=[], test=["synth:4@1"], val_fraction=0.2) == []
