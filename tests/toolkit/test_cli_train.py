"""`toolkit train` as a person meets it: flags, contradictions, help; the loop itself is tested in tests/train."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from runtime.errors import ToolkitError, UsageError
from toolkit.cli import train as command
from train.recipe import KEYS, Key, Recipe

app = typer.Typer()
app.command("train")(command.run)
app.command("other")(lambda: None)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["train", *arguments], catch_exceptions=False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the parser hands on, instead of a training."""
    seen: dict[str, Any] = {}

    def note(out: Path | None, config: Path | None, resume: bool, force: bool, given: Mapping[Key, Any]) -> None:
        seen.update(out=out, config=config, resume=resume, force=force, given={k.flag: v for k, v in given.items()})

    monkeypatch.setattr(command, "_run", note)
    return seen


def test_only_given_flags_override(asked: dict[str, Any]) -> None:
    assert invoke("--data", "a", "--data", "b:0.5", "--lr", "1e-3", "--no-tensorboard", "-o", "x").exit_code == 0
    assert asked["given"] == {"data": ["a", "b:0.5"], "lr": 1e-3, "tensorboard": False}
    assert (asked["out"], asked["config"], asked["resume"], asked["force"]) == (Path("x"), None, False, False)
    invoke()
    assert asked["given"] == {}


def test_every_key_is_a_flag_of_its_type(asked: dict[str, Any]) -> None:
    words = {str: "text", int: "3", float: "0.5"}
    for key in KEYS.values():
        arguments = [f"--{key.flag}"] if key.kind is bool else [f"--{key.flag}", words[key.kind]]
        assert invoke(*arguments).exit_code == 0, key.flag
        value = {str: "text", int: 3, float: 0.5, bool: True}[key.kind]
        assert asked["given"] == {key.flag: [value] if key.many else value}


def test_help_names_every_flag_and_shows_examples() -> None:
    text = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).output
    missing = [key.flag for key in KEYS.values() if f"--{key.flag}" not in text]
    assert not missing and "Examples" in text and "torchrun" in text


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--resume"], "needs the folder"),
        (["--resume", "--force", "-o", "x"], "--force contradicts"),
        (["--resume", "--config", "a.toml", "-o", "x"], "--config contradicts"),
        (["--resume", "-o", "/nowhere/at/all"], r"no last\.ckpt"),
        (["--config", "/nowhere.toml"], "no such file"),
        (["--width", "99"], r"--width: 99\.0 is outside"),
        (["--model", "ghosttwo"], "did you mean 'ghostone'"),
        ([], "no training faces"),
    ],
)
def test_contradictions_and_mistakes(arguments: list[str], error: str) -> None:
    with pytest.raises(ToolkitError, match=error):
        invoke(*arguments)


def test_a_run_from_recipe_and_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(
        '[model]\narchitecture = "pfld"\nwidth = 0.1\ninput_size = 32\n'
        '[data]\ntrain = ["synth:40"]\nbatch_size = 64\n[run]\ntensorboard = false\nthreads = 1\n'
    )
    result = invoke("--config", "tiny.toml", "--epochs", "1", "--batch-size", "16")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "runs" / "pfld-0.1"
    assert f"best checkpoint: {Path('runs/pfld-0.1/best.ckpt')}" in result.output and "NME %" in result.output
    assert "batch_size = 16" in (folder / "recipe.toml").read_text()
    with pytest.raises(UsageError, match=r"--batch-size 8: the run .* was begun with 16"):
        invoke("--resume", "-o", str(folder), "--batch-size", "8")
    assert invoke("--resume", "-o", str(folder), "--epochs", "2").exit_code == 0
    assert len((folder / "log.csv").read_text().splitlines()) == 3


def test_importing_the_command_loads_nothing_heavy() -> None:
    code = "import sys, toolkit.cli.train; print([m for m in ('torch', 'cv2', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_the_terminal_shows_what_differs_from_the_defaults() -> None:
    from dataclasses import replace

    recipe = Recipe()
    assert command._changed(recipe) == "  all defaults"
    changed = replace(recipe, optimizer=replace(recipe.optimizer, lr=0.5))
    assert command._changed(changed) == "  optimizer.lr = 0.5"
