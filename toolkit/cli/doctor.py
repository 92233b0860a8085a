"""`toolkit doctor`: what works here, and what to install for the rest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.errors import ExitCode
from toolkit.cli import console

if TYPE_CHECKING:
    from toolkit.doctor import Finding


def run(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 1 when anything is missing or in conflict.")
    ] = False,
) -> None:
    """Look at Python, packages, compilers, CPU, GPU and board; name what is missing and the line that installs it.

    Nothing is installed or changed. Notes are good to know, and never count for --strict.

    [bold]Examples[/bold]

      toolkit doctor

      toolkit doctor --json

      toolkit doctor --strict
    """
    from toolkit.doctor import examine

    findings = examine()
    wrong = [f for f in findings if f.state in ("missing", "conflict")]
    if as_json:
        from dataclasses import asdict

        print(json.dumps({"schema": 1, "findings": [asdict(f) for f in findings]}, indent=2, ensure_ascii=False))
    else:
        _show(findings)
    if strict and wrong:
        raise typer.Exit(ExitCode.CHECK_FAILED)


def _show(findings: list[Finding]) -> None:
    rows = [(f.area, f.name, f.state, f.found) for f in findings]
    for previous, row in reversed(list(enumerate(rows[1:]))):
        if row[0] == rows[previous][0]:
            rows[previous + 1] = ("", *row[1:])
    console.show(console.table("doctor", ("", "what", "", "found"), rows, numeric_from=4))
    for state, title in (("conflict", "to mend"), ("missing", "to add, if you need it"), ("note", "good to know")):
        lines = [f for f in findings if f.state == state and f.fix]
        if lines:
            print(f"\n{title}:")
        for fix in dict.fromkeys(f.fix for f in lines):
            for f in (f for f in lines if f.fix == fix):
                print(f"  {f.name}" + (f" (for {f.needed_for})" if f.needed_for else ""))
            print(f"    {fix}")
