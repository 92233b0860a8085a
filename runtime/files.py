"""Files that are whole or not there: atomic writes, hashes, capped reads."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from runtime.errors import InputError, ToolkitError

HASH_BLOCK = 1 << 20


class DiskError(ToolkitError):
    """The disk is full, or the place cannot be written."""


def _explain(path: Path, error: OSError) -> DiskError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskError(f"{path}: the disk is full; free some space and run again (nothing half-written was left)")
    return DiskError(f"{path}: cannot write: {error.strerror or error}")


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it takes the final name, on failure it is gone.

    >>> import tempfile; target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with atomic_path(target) as t: _ = t.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    import tempfile  # with what it pulls in, a few milliseconds that readers need not spend

    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.tmp-", suffix=target.suffix, dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise _explain(target, error) from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:
        raise _explain(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_atomic(path: Path | str, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a binary file that appears under its name only when complete."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        write(stream)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomic(path, lambda stream: stream.write(text.encode("utf-8")))


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON atomically, sorted and byte-stable."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path | str, max_bytes: int = 64 << 20) -> Any:
    """Read a JSON file, with a size cap and an error that names the file."""
    data = read_bytes(path, max_bytes)
    try:
        return json.loads(data)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error


def read_bytes(path: Path | str, max_bytes: int) -> bytes:
    """Read a regular file of at most `max_bytes`."""
    source = require_file(path)
    size = source.stat().st_size
    if size > max_bytes:
        raise InputError(f"{source}: {size} bytes, the limit here is {max_bytes}; is it the right file?")
    try:
        return source.read_bytes()
    except OSError as error:
        raise InputError(f"{source}: cannot read: {error.strerror or error}") from error


def require_file(path: Path | str) -> Path:
    """Return `path` when it is a readable, non-empty regular file; say what is wrong otherwise."""
    source = Path(path)
    try:
        if source.is_dir():
            raise InputError(f"{source}: is a directory, expected a file")
        if not source.exists():
            raise InputError(f"{source}: no such file")
        if not source.is_file():
            raise InputError(f"{source}: not a regular file")
        if source.stat().st_size == 0:
            raise InputError(f"{source}: the file is empty")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot read: {error}") from error
    return source


def sha256_bytes(data: bytes) -> str:
    """Hex sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path | str) -> str:
    """Hex sha256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with require_file(path).open("rb") as stream:
        while block := stream.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()
