"""Adding artefacts to a bundle that is there already: all of them with a new manifest, or none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.bundle import MANIFEST, Artefact, Bundle
from runtime.errors import UsageError
from runtime.files import DiskError, sha256_bytes, write_atomic


@dataclass(frozen=True)
class Addition:
    """A new artefact and its bytes."""

    artefact: Artefact
    data: bytes


def addition(artefact: Artefact, data: bytes) -> Addition:
    """Fill in what the bytes decide."""
    return Addition(replace(artefact, sha256=sha256_bytes(data), bytes=len(data)), data)


def refuse_addition(bundle: Bundle, names: Sequence[str], force: bool) -> None:
    """Say before the first slow step that something is there already."""
    for name in names:
        if bundle.manifest.has(name) and not force:
            raise UsageError(f"{bundle.directory}: has {name} already; --force replaces it")


def extend_bundle(bundle: Bundle, additions: Sequence[Addition], force: bool = False) -> Bundle:
    """Write the files, the manifest last; whatever interrupts it, the bundle is the old one or the new one."""
    refuse_addition(bundle, [a.artefact.name for a in additions], force)
    new = {a.artefact.name for a in additions}
    files = {a.artefact.file for a in additions}
    clash = [a.file for a in bundle.manifest.artefacts if a.file in files and a.name not in new]
    if clash:
        raise UsageError(f"{bundle.directory}: {clash[0]} belongs to another artefact")
    kept = tuple(a for a in bundle.manifest.artefacts if a.name not in new)
    manifest = replace(bundle.manifest, artefacts=(*kept, *(a.artefact for a in additions)))
    written: list[Path] = []
    old = bundle.directory / MANIFEST
    before = old.read_bytes()
    try:
        aside = Path(tempfile.mkdtemp(prefix=".old-", dir=bundle.directory))
    except OSError as error:
        raise DiskError(f"{bundle.directory}: cannot write: {error.strerror or error}") from error
    try:
        for index, item in enumerate(additions):
            target = bundle.directory / item.artefact.file
            if target.exists():
                shutil.copy2(target, aside / str(index))
            written.append(target)
            write_atomic(target, lambda stream, data=item.data: stream.write(data))  # type: ignore[misc]
        write_atomic(old, lambda stream: stream.write(manifest.to_bytes()))
        return Bundle.open(bundle.directory)
    except BaseException:
        if old.read_bytes() == before:
            _undo(written, aside)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _undo(written: Sequence[Path], aside: Path) -> None:
    for index, target in enumerate(written):
        saved = aside / str(index)
        if saved.exists():
            saved.replace(target)
        else:
            target.unlink(missing_ok=True)
            if target.parent.is_dir() and not any(target.parent.iterdir()):
                target.parent.rmdir()
