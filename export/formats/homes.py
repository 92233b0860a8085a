"""Where a package is: our own Python, or one of the environments that `make bench-env` makes."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import UsageError

ENVIRONMENT_VARIABLE = "TOOLKIT_BENCH_ENV"
DEFAULT_ENVIRONMENT = ".bench-env"
_LIST = (
    "import importlib.metadata as m, json, re; print(json.dumps({re.sub(r'[-_.]+', '-', d.metadata['Name']).lower():"
    " d.version for d in m.distributions() if d.metadata['Name']}))"
)


@dataclass(frozen=True)
class Environment:
    """A Python with packages, ours or one of `make bench-env`."""

    python: str
    packages: dict[str, str]

    def has(self, names: Iterable[str], every: bool = False) -> bool:
        return (all if every else any)(name in self.packages for name in names)


def environments(folders: Sequence[Path] = ()) -> list[Environment]:
    """Our own Python first, then the given virtual environments, else those of `make bench-env`."""
    places = list(folders)
    if not places:
        base = Path(os.environ.get(ENVIRONMENT_VARIABLE, DEFAULT_ENVIRONMENT))
        places = [p for p in (base, *sorted(base.glob("*"))) if _interpreter(p).is_file()]
    found = [Environment(sys.executable, _own_packages())]
    for place in places:
        python = _interpreter(place)
        if not python.is_file():
            raise UsageError(
                f"--env {place}: no {python.relative_to(place)} in it; give a virtual environment's folder"
            )
        found.append(Environment(str(python.absolute()), _packages(str(python.absolute()))))
    return found


def _interpreter(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _own_packages() -> dict[str, str]:
    named = [(d.metadata["Name"], d.version) for d in importlib.metadata.distributions()]
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in named if name}


def _packages(python: str) -> dict[str, str]:
    try:
        done = subprocess.run([python, "-c", _LIST], capture_output=True, text=True, timeout=60, check=True)
        found: dict[str, str] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise UsageError(f"{python}: this Python does not work: {error}") from error
    return found
