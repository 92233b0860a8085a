"""A bundle: all artefacts of one model in a directory, with a manifest of hashes, parents and measured numbers.

Reading needs numpy and JSON only, and never hands out bytes whose hash is not the manifest's.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, UsageError
from runtime.files import read_bytes, sha256_bytes
from runtime.schema import validate
from runtime.spec import ModelSpec

if TYPE_CHECKING:
    import zipfile

FORMAT = "landmark-toolkit bundle"
SCHEMA = 1
MANIFEST = "manifest.json"
REPORT = "report.html"
"""A page for people; it may be written anew at any time and is no part of the proof: the manifest does not list it."""
MAX_MANIFEST_BYTES = 16 << 20
MAX_ARTEFACT_BYTES = 2 << 30
MAX_ARRAY_BYTES = 1 << 30


@dataclass(frozen=True)
class Check:
    """One measured number of a link, its limit, and what it was measured on."""

    name: str
    metric: str
    value: float
    limit: float
    data: str | None = None
    """sha256 of the file measured on; None when the number depends on no data."""
    seed: int | None = None

    @property
    def passed(self) -> bool:
        return self.value <= self.limit


@dataclass(frozen=True)
class Artefact:
    """One file of a bundle."""

    name: str
    file: str
    kind: str
    sha256: str
    bytes: int
    parent: str | None
    """sha256 of the artefact it was made from; None for a root."""
    settings: dict[str, Any]
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True)
class Source:
    """The file a bundle was made from; it lies outside."""

    sha256: str
    kind: str
    parent: str | None


@dataclass(frozen=True)
class Manifest:
    """What a bundle says about itself."""

    spec: ModelSpec
    source: Source
    toolkit: str
    tools: dict[str, str]
    artefacts: tuple[Artefact, ...]

    def artefact(self, name: str) -> Artefact:
        """Look an artefact up by name."""
        for candidate in self.artefacts:
            if candidate.name == name:
                return candidate
        raise UsageError(f"the bundle has no {name!r}; it has: {', '.join(a.name for a in self.artefacts)}")

    def has(self, name: str) -> bool:
        return any(a.name == name for a in self.artefacts)

    def parent_of(self, artefact: Artefact) -> Artefact | None:
        return next((a for a in self.artefacts if a.sha256 == artefact.parent), None)

    def to_bytes(self) -> bytes:
        """The one way these facts are written."""
        data: dict[str, Any] = {
            "format": FORMAT,
            "schema": SCHEMA,
            "toolkit": self.toolkit,
            "tools": self.tools,
            "source": asdict(self.source),
            "spec": self.spec.to_dict(),
            "artefacts": [asdict(a) for a in self.artefacts],
        }
        data["digest"] = sha256_bytes(_canonical(data))
        return _canonical(data)

    @staticmethod
    def from_bytes(data: bytes, where: str = MANIFEST) -> Manifest:
        """Read a manifest strictly; a file that differs by one byte from how it was written is refused."""
        try:
            values = json.loads(data)
        except (UnicodeDecodeError, ValueError, RecursionError) as error:
            raise InputError(f"{where}: not valid JSON: {error}") from error
        validate(values, "manifest", where)
        digest = values.pop("digest")
        line = f'\n "digest": "{digest}",'.encode("ascii")
        # All but this line was hashed, as it stands: writing it again to compare would cost most of the start.
        if data.count(line) != 1 or sha256_bytes(data.replace(line, b"")) != digest:
            raise InputError(f"{where}: was changed after it was written (its digest does not fit); export again")
        artefacts = tuple(
            Artefact(**{**a, "checks": tuple(Check(**check) for check in a["checks"])}) for a in values["artefacts"]
        )
        _refuse_bad_family(artefacts, where)
        return Manifest(
            ModelSpec.from_dict(values["spec"], f"{where}: spec"),
            Source(**values["source"]),
            values["toolkit"],
            values["tools"],
            artefacts,
        )


def _canonical(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def _refuse_bad_family(artefacts: tuple[Artefact, ...], where: str) -> None:
    names: set[str] = set()
    files: set[str] = {MANIFEST, REPORT}
    hashes: set[str] = set()
    for artefact in artefacts:
        if artefact.name in names or artefact.file in files:
            raise InputError(f"{where}: artefact {artefact.name!r} ({artefact.file}) is listed twice")
        if artefact.parent is not None and artefact.parent not in hashes:
            raise InputError(
                f"{where}: the parent of {artefact.name!r} ({artefact.parent[:12]}...) is not in the bundle; "
                "the chain is broken"
            )
        names.add(artefact.name)
        files.add(artefact.file)
        hashes.add(artefact.sha256)


@dataclass(frozen=True)
class Bundle:
    """An opened bundle; every read is checked against the manifest's hash.

    Example: `Bundle.open("out").read("fp32")` gives the bytes of model.onnx.
    """

    directory: Path
    manifest: Manifest

    @staticmethod
    def open(directory: Path | str) -> Bundle:
        """Read the manifest of a bundle directory."""
        place = Path(directory)
        if not place.is_dir():
            raise InputError(f"{place}: {'no such directory' if not place.exists() else 'not a bundle directory'}")
        path = place / MANIFEST
        if not path.is_file():
            raise InputError(f"{place}: a directory without {MANIFEST}, so not a bundle; make one with toolkit export")
        return Bundle(place, Manifest.from_bytes(read_bytes(path, MAX_MANIFEST_BYTES), str(path)))

    @property
    def spec(self) -> ModelSpec:
        return self.manifest.spec

    def read(self, name: str) -> bytes:
        """The bytes of an artefact, after its size and hash were found right."""
        artefact = self.manifest.artefact(name)
        path = self.directory / artefact.file
        self._refuse_links(path)
        if not path.exists():
            raise InputError(f"{path}: missing; the manifest lists it as {name!r}")
        data = read_bytes(path, MAX_ARTEFACT_BYTES)
        if len(data) != artefact.bytes or sha256_bytes(data) != artefact.sha256:
            raise InputError(
                f"{path}: sha256 {sha256_bytes(data)[:12]}..., the manifest says {artefact.sha256[:12]}...; "
                "the file was changed or damaged, export or copy the bundle again"
            )
        return data

    def read_all(self) -> Iterator[tuple[Artefact, bytes]]:
        """All artefacts in order, each one checked."""
        for artefact in self.manifest.artefacts:
            yield artefact, self.read(artefact.name)

    def strays(self) -> list[str]:
        """Files in the directory that the manifest does not know, the page for people left out."""
        known = {MANIFEST, REPORT, *(a.file for a in self.manifest.artefacts)}
        found = (p.relative_to(self.directory).as_posix() for p in self.directory.rglob("*") if not p.is_dir())
        return sorted(f for f in found if f not in known)

    def _refuse_links(self, path: Path) -> None:
        for part in [path, *path.parents]:
            if part == self.directory:
                return
            if part.is_symlink():
                raise InputError(f"{part}: a symbolic link inside a bundle; bundles hold plain files only")


def read_arrays(data: bytes, where: str) -> dict[str, NDArray[Any]]:
    """Read an .npz of plain arrays: no objects, and no more memory than it claims."""
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            total = sum(member.file_size for member in archive.infolist())
            if total > MAX_ARRAY_BYTES:
                raise InputError(f"{where}: unpacks to {total} bytes, the limit is {MAX_ARRAY_BYTES}")
            for member in archive.infolist():
                _refuse_forged_header(archive, member, where)
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: np.asarray(arrays[name]) for name in arrays.files}
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError, NotImplementedError) as error:
        raise InputError(f"{where}: not a readable .npz of plain arrays: {error}") from error


def _refuse_forged_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> None:
    """A header may claim a shape of any size; numpy would allocate it before it looks for the values."""
    if not member.filename.endswith(".npy"):
        raise InputError(f"{where}: holds {member.filename!r}, expected arrays (.npy) only")
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise InputError(
                f"{where}: {member.filename} has the array format {version}, this version reads 1.0 and 2.0"
            )
        shape, _, dtype = readers[version](stream)
    if math.prod(shape) * dtype.itemsize > member.file_size:
        raise InputError(f"{where}: {member.filename} claims the shape {shape} and holds {member.file_size} bytes")


def arrays_to_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """An .npz whose bytes depend on the arrays alone: sorted, stored, no time stamps."""
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), member.getvalue())
    return buffer.getvalue()
