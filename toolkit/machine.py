"""What the doctor may ask of a machine: files, programs, packages. One class, so that tests can be another machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.gpu_pieces import Piece

PROBE_SECONDS = 60.0
_IMPORT = """
import importlib, json, sys
for name in sys.argv[1:]:
    print(json.dumps({"begin": name}), flush=True)
    try:
        module = importlib.import_module(name)
        facts = {"version": str(getattr(module, "__version__", ""))}
        if name == "onnxruntime":
            facts["providers"] = module.get_available_providers()
        if name == "torch":
            facts["cuda"] = module.cuda.is_available()
        if name == "cv2":
            facts["gui"] = next((l.split(":")[1].strip() for l in module.getBuildInformation().splitlines()
                                 if l.strip().startswith(("GTK", "QT", "Win32 UI", "Cocoa", "Wayland"))
                                 and l.split(":")[1].strip().startswith("YES")), "")
    except BaseException as error:
        facts = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    print(json.dumps({"name": name, **facts}), flush=True)
"""


@dataclass(frozen=True)
class Imported:
    """What importing a package in a process of its own gave."""

    version: str = ""
    error: str = ""
    providers: tuple[str, ...] = ()
    cuda: bool = False
    gui: str = ""


class Machine:
    """This machine."""

    def python(self) -> tuple[int, int, int]:
        return sys.version_info[:3]

    def in_environment(self) -> bool:
        """Whether this Python is a virtual environment's."""
        return sys.prefix != sys.base_prefix or "CONDA_PREFIX" in os.environ

    def system(self) -> str:
        """Linux, Darwin or Windows."""
        return platform.system()

    def architecture(self) -> str:
        return platform.machine()

    def read(self, path: str) -> str | None:
        """A small text file, or None."""
        try:
            return Path(path).read_bytes()[: 1 << 20].decode("utf-8", "replace").replace("\0", "")
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        return Path(path).exists()

    def which(self, program: str) -> str | None:
        return shutil.which(program)

    def run(self, *command: str) -> str | None:
        """What a program prints, or None where it is missing, fails or hangs."""
        if self.which(command[0]) is None:
            return None
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, errors="replace")
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    def gpu_pieces(self) -> list[Piece]:
        """GPU, driver, CUDA and TensorRT, each by itself."""
        from runtime.gpu_pieces import gpu_pieces

        return gpu_pieces()

    def bench_packages(self) -> dict[str, str]:
        """What the environments of `make bench-env` hold."""
        from export.formats.homes import environments

        return {name: version for home in environments([])[1:] for name, version in home.packages.items()}

    def packages(self) -> dict[str, str]:
        """Installed distributions and their versions, names in lower case with dashes."""
        found: dict[str, str] = {}
        for distribution in importlib.metadata.distributions():
            name = distribution.metadata["Name"]
            if name:
                found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
        return found

    def imports(self, names: Sequence[str]) -> dict[str, Imported]:
        """Import packages in another process: one that crashes is named and takes nothing down."""
        found: dict[str, Imported] = {}
        waiting = list(names)
        while waiting:
            output, why = self._import(waiting)
            lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
            for facts in (line for line in lines if "name" in line):
                name = facts.pop("name")
                found[name] = Imported(**{**facts, "providers": tuple(facts.get("providers", ()))})
            begun = [line["begin"] for line in lines if "begin" in line]
            if begun and begun[-1] not in found:
                found[begun[-1]] = Imported(error=f"importing it {why}")
            elif not begun:
                return found | {name: Imported(error="python itself could not be started") for name in waiting}
            waiting = [name for name in waiting if name not in found]
        return found

    def _import(self, names: Sequence[str]) -> tuple[str, str]:
        try:
            done = subprocess.run(
                [sys.executable, "-c", _IMPORT, *names],
                capture_output=True,
                text=True,
                timeout=PROBE_SECONDS,
                check=False,
                errors="replace",
            )
        except subprocess.TimeoutExpired as error:
            return _text(error.stdout), f"takes more than {PROBE_SECONDS:g} s"
        except OSError:
            return "", ""
        return done.stdout, f"ends the process (exit code {done.returncode})"


def _text(output: object) -> str:
    """What a process printed before it was stopped: bytes on some versions of Python."""
    return output.decode("utf-8", "replace") if isinstance(output, bytes) else str(output or "")
