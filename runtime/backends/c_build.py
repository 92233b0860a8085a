"""Generated C becomes a shared library: compiled once per machine, kept where nobody else can plant one."""

from __future__ import annotations

import json
import os
import platform
import shutil
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import InputError, MissingBackendError
from runtime.files import DiskError, sha256_bytes

COMPILERS = ("cc", "gcc", "clang")
BASE_FLAGS = ("-std=c99", "-O3", "-ffp-contract=off", "-fPIC", "-shared")
NATIVE_FLAGS = (("-march=native",), ("-mcpu=native",), ())
"""This processor's instructions, as x86 and older ARM compilers want to be told; the first that works."""
WARNING_FLAGS = ("-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Wshadow")
COMPILE_SECONDS = 600
HOW = "install a C compiler (Debian, Ubuntu: apt install gcc; Fedora: dnf install gcc; macOS: xcode-select --install)"
_SOURCE = "landmarks.c"


@dataclass(frozen=True)
class Compiler:
    """A C compiler of this machine."""

    command: tuple[str, ...]
    path: Path

    @property
    def name(self) -> str:
        """What it calls itself."""
        return self.path.name

    def identity(self) -> str:
        """Changes when another compiler takes its place; reading it costs no process."""
        facts = self.path.stat()
        return f"{' '.join(self.command)} {self.path} {facts.st_size} {facts.st_mtime_ns}"


@dataclass(frozen=True)
class Compiled:
    """A finished library: the flags that worked and what the compiler had to say."""

    library: Path
    flags: tuple[str, ...]
    warnings: int


def find_compiler() -> Compiler | None:
    """The compiler that the environment variable CC names, else cc, gcc or clang on the PATH."""
    import shlex

    named = shlex.split(os.environ.get("CC", ""))
    for command in [named] if named else [[name] for name in COMPILERS]:
        found = shutil.which(command[0])
        if found is not None:
            return Compiler((found, *command[1:]), Path(found).resolve())
    return None


def require_compiler(purpose: str) -> Compiler:
    """A compiler, or the error that says how to get one."""
    compiler = find_compiler()
    if compiler is None:
        raise MissingBackendError(f"{purpose} needs a C compiler, and neither CC nor {_names()} is one here; {HOW}")
    return compiler


def _names() -> str:
    return " nor ".join(COMPILERS)


def compile_library(compiler: Compiler, source: Path, target: Path, extra: Sequence[str] = ()) -> Compiled:
    """Compile one generated source into a shared library for this processor."""
    complaint = ""
    for native in NATIVE_FLAGS:
        flags = (*BASE_FLAGS, *native, *extra)
        code, complaint = _run([*compiler.command, *flags, str(source), "-o", str(target), "-lm"], source.parent)
        if code == 0:
            return Compiled(target, flags, complaint.count("warning:"))
    raise MissingBackendError(
        f"{compiler.command[0]} cannot compile {source.name}: {_first_line(complaint)}; "
        "set CC to a working C99 compiler, or use the ONNX back end"
    )


def _run(command: list[str], folder: Path) -> tuple[int, str]:
    import subprocess

    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMPILE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return 1, f"gave up after {COMPILE_SECONDS} seconds"
    except OSError as error:
        return 1, str(error)
    return done.returncode, done.stderr


def _first_line(text: str) -> str:
    lines = [line for line in text.splitlines() if "error" in line] or text.splitlines() or ["no message"]
    return lines[0].strip()[:200]


def library_for(files: Mapping[str, bytes], hashes: Mapping[str, str], what: str) -> tuple[Path, bool]:
    """The library of these sources, whose sha256 are known, from the user's cache; and whether it was compiled now."""
    compiler = require_compiler(f"running {what}")
    folder = cache_folder()
    key = cache_key(hashes, compiler)
    target = folder / f"{key}.so"
    if target.is_symlink() or target.exists():
        refuse_foreign(target)
        return target, False
    import tempfile

    print(f"compiling {what} for this machine, once, with {compiler.command[0]}", file=sys.stderr)
    try:
        with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as name:
            place = Path(name)
            for file, data in files.items():
                (place / file).write_bytes(data)
            built = compile_library(compiler, place / _SOURCE, place / "library.so")
            built.library.chmod(0o700)
            built.library.replace(target)
    except OSError as error:
        raise DiskError(f"{folder}: cannot write the compiled library: {error.strerror or error}") from error
    return target, True


def forget(library: Path) -> None:
    """Remove a library that turned out to be unusable."""
    library.unlink(missing_ok=True)


def cache_key(hashes: Mapping[str, str], compiler: Compiler) -> str:
    """A name for what comes out: other sources, compiler, flags or processor make another."""
    facts = {
        "files": dict(hashes),
        "compiler": compiler.identity(),
        "flags": [BASE_FLAGS, NATIVE_FLAGS],
        "processor": _processor(),
    }
    return sha256_bytes(json.dumps(facts, sort_keys=True).encode())[:40]


def _processor() -> str:
    """What -march=native depends on: home directories are shared between machines."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as stream:
            wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
            first = [line for _, line in zip(range(64), stream, strict=False) if line.startswith(wanted)]
    except OSError:
        first = []
    return platform.machine() + (sha256_bytes("".join(sorted(set(first))).encode()) if first else platform.processor())


def cache_folder() -> Path:
    """The user's own folder for compiled libraries; one that others could write into is refused."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    folder = Path("landmark-toolkit-c")
    try:
        root = base if base.is_absolute() else Path.home() / ".cache"
        folder = root / folder
        root.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except (OSError, RuntimeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise MissingBackendError(
            f"{folder}: cannot make this folder for compiled libraries: {why}; set XDG_CACHE_HOME"
        ) from error
    refuse_foreign(folder)
    return folder


def refuse_foreign(path: Path) -> None:
    """Code is loaded from here: nobody else may have made it or be able to change it."""
    problem = _mine_alone(path)
    if problem is not None:
        raise InputError(f"{path}: {problem}, so the code in it cannot be trusted; remove it, or set XDG_CACHE_HOME")


def _mine_alone(path: Path) -> str | None:
    try:
        facts = path.lstat()
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if stat.S_ISLNK(facts.st_mode):
        return "is a symbolic link"
    if facts.st_uid != os.geteuid():
        return f"belongs to user {facts.st_uid}, not to you ({os.geteuid()})"
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by others (mode {stat.S_IMODE(facts.st_mode):o})"
    return None
