"""The recipe: strict reading, flags over files, TOML and docs made from one table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import InputError, UsageError
from train.recipe import KEYS, DataRecipe, Recipe, overlay, read_recipe, recipe_from, recipe_table

DOCS = Path(__file__).resolve().parents[2] / "docs" / "train.md"


def parsed(text: str, tmp_path: Path) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return read_recipe(path)


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    odd = replace(Recipe(), data=DataRecipe(train=('a "b"\\c\nd', "ü:0.5"), val_fraction=0.25))
    assert parsed(odd.to_toml(), tmp_path) == odd
    assert parsed(Recipe().to_toml(), tmp_path) == Recipe() and parsed("\n", tmp_path) == Recipe()
    assert recipe_from(odd.to_dict()) == odd


@given(st.text())
def test_any_text_survives_toml(text: str) -> None:
    import sys

    if sys.version_info < (3, 11):
        pytest.skip("tomllib came with Python 3.11")
    import tomllib

    try:
        text.encode()
    except UnicodeEncodeError:
        return
    recipe = replace(Recipe(), data=DataRecipe(train=(text,)))
    assert recipe_from(tomllib.loads(recipe.to_toml())) == recipe


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[optimizer]\nlearning_rate = 1", r"unknown key optimizer\.learning_rate"),
        ("[optimizer]\nlrr = 1", "did you mean 'lr'"),
        ("[schedule]\nlr = 1", r"did you mean optimizer\.lr"),
        ("[optimiser]\nlr = 1", "did you mean 'optimizer'"),
        ("lr = 1", "unknown section or key 'lr'"),
        ("model = 3", "model must be a section"),
        ('[model]\nwidth = "wide"', "expected a number, found 'wide'"),
        ("[model]\nwidth = true", "expected a number, found True"),
        ("[model]\nwidth = nan", "outside"),
        ("[model]\nbranches = 2.0", "expected a whole number"),
        ("[model]\nbranches = 0", r"outside 1\.\.64"),
        ('[model]\narchitecture = "ghosttwo"', "did you mean 'ghostone'"),
        ('[data]\ntrain = "synth:40"', "expected a list"),
        ("[data]\ntrain = [4]", "expected a text"),
        ("[run]\ntensorboard = 1", "expected true or false"),
    ],
)
def test_mistakes_are_named(text: str, error: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=error) as caught:
        parsed(text, tmp_path)
    assert "recipe.toml" in str(caught.value)


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not valid TOML"):
        parsed("[model", tmp_path)
    with pytest.raises(InputError, match="no such file"):
        read_recipe(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not valid TOML"):
        read_recipe(tmp_path / "bytes.toml")


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    base = parsed("[optimizer]\nlr = 0.5\nclip = 3\n", tmp_path)
    found = overlay(base, {KEYS["optimizer", "lr"]: 0.25, KEYS["data", "train"]: ["a", "b"]})
    assert (found.optimizer.lr, found.optimizer.clip, found.data.train) == (0.25, 3.0, ("a", "b"))
    with pytest.raises(UsageError, match=r"--batch-size: 0 is outside"):
        overlay(base, {KEYS["data", "batch_size"]: 0})


def test_every_key_has_help_and_its_own_flag() -> None:
    flags = [key.flag for key in KEYS.values()]
    assert len(set(flags)) == len(flags) and not {"out", "config", "resume", "force", "help"} & set(flags)
    assert all(key.help for key in KEYS.values())
    for key in KEYS.values():
        assert key.check(list(key.default) if key.many else key.default, "default") == key.default


def test_the_docs_show_the_table() -> None:
    assert recipe_table() in DOCS.read_text(encoding="utf-8"), "docs/train.md: paste train.recipe.recipe_table() anew"


@pytest.mark.parametrize("path", sorted(DOCS.parents[1].joinpath("recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipes_read(path: Path) -> None:
    assert read_recipe(path).schedule.epochs > 0


@pytest.mark.parametrize("name", KEYS["loss", "name"].choices)
def test_every_loss_that_a_recipe_may_name_is_made(name: str) -> None:
    from runtime.spec import ModelSpec
    from train.objective import make_objective

    network = "hrnet-w18" if name == "awing" else "pfld"
    recipe = recipe_from({"model": {"architecture": network}, "loss": {"name": name}})
    assert make_objective(recipe, ModelSpec(network)).points is not None


def test_every_network_of_the_zoo_can_be_named() -> None:
    from train.models.zoo import ZOO

    assert KEYS["model", "architecture"].choices == tuple(ZOO)
