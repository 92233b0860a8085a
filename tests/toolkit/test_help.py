"""Help: every command has examples, every example is a command line that parses, and the cheap ones run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from toolkit.cli import app, main

GROUP: Any = typer.main.get_command(app)


def commands(group: Any = GROUP, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every command by its words."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= commands(command, (*path, name))
        else:
            found[" ".join((*path, name))] = command
    return found


COMMANDS = commands()


def examples(command: Any) -> list[str]:
    """The lines of its help that are command lines; a trailing backslash goes on in the next."""
    text = f"{command.help or ''}\n{command.epilog or ''}".replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip().startswith("toolkit ")]


EXAMPLES = [(name, line) for name, command in COMMANDS.items() for line in examples(command)]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_examples(name: str) -> None:
    command = COMMANDS[name]
    assert examples(command), f"toolkit {name} --help shows no example"
    for parameter in (p for p in command.params if not getattr(p, "hidden", False)):
        assert getattr(parameter, "help", None), f"toolkit {name}: {parameter.name} has no help"


def parse(line: str) -> tuple[Any, list[str]]:
    """Follow a command line down to its command, which takes every word of it."""
    words = shlex.split(line.split(" | ")[0].split(" && ")[0])
    assert words[0] == "toolkit"
    group, context, rest = GROUP, GROUP.make_context("toolkit", words[1:2], resilient_parsing=True), words[1:]
    while hasattr(group, "commands"):
        name, command, rest = group.resolve_command(context, rest)
        if not hasattr(command, "commands"):
            command.make_context(name, rest, parent=context)
            return command, rest
        group, context = command, command.make_context(name, rest[:1], parent=context, resilient_parsing=True)
    raise AssertionError(line)


@pytest.mark.parametrize(("name", "line"), EXAMPLES)
def test_examples_parse(name: str, line: str) -> None:
    command, _ = parse(line)
    assert command is COMMANDS[name], f"an example of toolkit {name} is another command's: {line}"


@pytest.mark.parametrize("line", ["toolkit bench bundle --agianst all", "toolkit doctor surplus", "toolkit eval x"])
def test_the_guard_sees_a_wrong_example(line: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such option|unexpected|missing"):
        parse(line)


CHEAP = ("toolkit doctor --json", "toolkit inspect --models --width 0.5", "toolkit data stats synth:")


@pytest.mark.parametrize("line", [line for _, line in EXAMPLES if line.startswith(CHEAP)])
def test_cheap_examples_run(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(line)[1:])
    found = capsys.readouterr()
    assert ended.value.code == 0 and found.out, found.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete(shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    with pytest.raises(SystemExit) as ended:
        main(["--show-completion", shell])
    script = capsys.readouterr().out
    assert ended.value.code == 0 and "_TOOLKIT_COMPLETE" in script


def test_completion_knows_the_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    environment = {"_TOOLKIT_COMPLETE": "complete_bash", "COMP_WORDS": "toolkit be", "COMP_CWORD": "1"}
    result = CliRunner().invoke(app, [], prog_name="toolkit", env=environment)
    assert "bench" in result.stdout.split()
