"""Writing a bundle: everything is made in a hidden directory beside the target, which appears whole or not at all."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.bundle import MANIFEST, Artefact, Bundle, Check, Manifest, Source
from runtime.errors import InputError, UsageError
from runtime.files import DiskError, sha256_bytes, write_atomic
from runtime.spec import ModelSpec

TOOLS = ("numpy", "onnx", "onnxconverter-common", "onnxruntime", "onnxscript", "onnxsim", "onnxslim", "torch")


class BundleWriter:
    """Collects artefacts; `finish` writes the manifest."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._artefacts: dict[str, Artefact] = {}

    def add(
        self,
        name: str,
        kind: str,
        file: str,
        data: bytes,
        parent: str | None = None,
        settings: Mapping[str, Any] | None = None,
        checks: Sequence[Check] = (),
    ) -> Artefact:
        """Write an artefact; `parent` is the name of one added before."""
        above = None if parent is None else self._artefacts[parent].sha256
        write_atomic(self.directory / file, lambda stream: stream.write(data))
        artefact = Artefact(name, file, kind, sha256_bytes(data), len(data), above, dict(settings or {}), tuple(checks))
        self._artefacts[name] = artefact
        return artefact

    def __getitem__(self, name: str) -> Artefact:
        return self._artefacts[name]

    def __contains__(self, name: str) -> bool:
        return name in self._artefacts

    def measured_on(self, name: str, data: Artefact) -> None:
        """Say that the checks of an artefact were measured on another one."""
        mine = self._artefacts[name]
        checks = tuple(replace(check, data=data.sha256) if check.data is None else check for check in mine.checks)
        self._artefacts[name] = replace(mine, checks=checks)

    def finish(self, spec: ModelSpec, source: Source) -> Manifest:
        """Write the manifest, and read the whole bundle back."""
        artefacts = tuple(self._artefacts.values())
        manifest = Manifest(spec, source, own_version(), tool_versions(), artefacts)
        write_atomic(self.directory / MANIFEST, lambda stream: stream.write(manifest.to_bytes()))
        written = Bundle.open(self.directory)
        for _ in written.read_all():
            pass
        if written.strays():
            raise InputError(f"bundle: unlisted files {written.strays()} were left in it")
        return written.manifest


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON will give them back."""
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=float, allow_nan=False))
    return plain


def own_version() -> str:
    """This toolkit's version."""
    try:
        return importlib.metadata.version("landmark-toolkit")
    except importlib.metadata.PackageNotFoundError:
        return "source tree"


def tool_versions() -> dict[str, str]:
    """Versions of what shapes the artefacts."""
    installed = {name: list(importlib.metadata.distributions(name=name)) for name in TOOLS}
    return {name: found[0].version for name, found in installed.items() if found}


def refuse_target(target: Path, force: bool) -> None:
    """Validate the place of a new bundle before any slow step; only a bundle is ever replaced."""
    if target.is_symlink():
        raise UsageError(f"{target}: is a symbolic link; give the directory itself")
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target}: is a file; give a directory that does not exist yet")
    if target.is_dir() and any(target.iterdir()):
        if not (target / MANIFEST).is_file():
            raise UsageError(f"{target}: a directory with other things in it; give one that does not exist yet")
        if not force:
            raise UsageError(f"{target}: a bundle is there already; --force replaces it")
    parent = target.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UsageError(f"{target}: {parent} is not a directory that can be written")


@contextmanager
def new_bundle(target: Path, force: bool = False) -> Iterator[BundleWriter]:
    """Give a writer; on success its directory takes the target's name, on any failure nothing is left."""
    refuse_target(target, force)
    try:
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.absolute().parent))
    except OSError as error:
        raise DiskError(f"{target}: cannot write: {error.strerror or error}") from error
    try:
        yield BundleWriter(place)
        _put(place, target, force)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _put(place: Path, target: Path, force: bool) -> None:
    refuse_target(target, force)
    try:
        place.chmod(0o777 & ~_umask())
        if target.is_dir():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.absolute().parent))
            target.replace(old)
            try:
                place.replace(target)
            except OSError:
                old.replace(target)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            place.replace(target)
    except OSError as error:
        raise DiskError(f"{target}: cannot write: {error.strerror or error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
