"""What building leaves in the user's cache: tactic timings, how long it took, and old calibrators' tables.

Timings hold for one GPU, one TensorRT and one driver, so these are the file's name. Losing any of it costs time only.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.tensorrt_rules import Abilities
from runtime.errors import InputError
from runtime.files import DiskError, read_bytes, read_json, sha256_bytes, write_atomic, write_json
from runtime.gpu import Gpu

_MAX_BYTES = 256 << 20


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/landmark-toolkit/tensorrt, else below ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "landmark-toolkit" / "tensorrt"


@dataclass(frozen=True)
class BuildCache:
    """The cache of one GPU and one TensorRT."""

    key: str

    @staticmethod
    def of(gpu: Gpu, able: Abilities) -> BuildCache:
        parts = (gpu.name, f"sm{gpu.sm}", able.module, able.version, gpu.driver or gpu.cuda)
        return BuildCache("-".join(slug(part) for part in parts))

    @property
    def timings(self) -> Path:
        return cache_folder() / f"timings-{self.key}.bin"

    @property
    def _seconds(self) -> Path:
        return cache_folder() / f"seconds-{self.key}.json"

    def load(self) -> bytes:
        """The stored timings, empty where there are none."""
        return _read(self.timings)

    def store(self, data: bytes) -> None:
        """Keep timings for the next build; a full disk must not spoil an engine that is ready."""
        _write(self.timings, data)

    def last_seconds(self, what: str) -> float | None:
        """How long the same kind of build took here the last time."""
        value = self._all_seconds().get(what)
        return float(value) if isinstance(value, (int, float)) else None

    def took(self, what: str, seconds: float) -> None:
        """Remember how long a build took."""
        try:
            write_json(self._seconds, {**self._all_seconds(), what: round(seconds, 1)})
        except DiskError:
            return

    def _all_seconds(self) -> dict[str, Any]:
        try:
            found = read_json(self._seconds, 1 << 20)
        except InputError:
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class CalibrationTable:
    """A legacy calibrator's result, found again only for the same model, faces, method and TensorRT."""

    path: Path

    @staticmethod
    def of(model_sha256: str, faces_sha256: str, method: str, able: Abilities) -> CalibrationTable:
        key = sha256_bytes("\n".join((model_sha256, faces_sha256, method, able.title)).encode())
        return CalibrationTable(cache_folder() / f"calibration-{method}-{key[:32]}.table")

    def load(self) -> bytes | None:
        return _read(self.path) or None

    def store(self, data: bytes) -> None:
        _write(self.path, data)


def slug(text: str) -> str:
    """Lower case, for file names.

    >>> slug("NVIDIA GeForce RTX 4090")
    'nvidia-geforce-rtx-4090'
    """
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-") or "unknown"


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path, _MAX_BYTES)
    except InputError:
        return b""


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomic(path, lambda stream: stream.write(data))
    except DiskError:
        return
