"""Reading PyTorch archives that may come from anywhere: sizes, checksums and pickle looked at before torch sees them.

`torch.load(weights_only=True)` runs no foreign code, but it neither bounds memory nor notices a flipped bit.
"""

from __future__ import annotations

import pickletools
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from runtime.errors import InputError
from runtime.files import require_file
from train.pickle_watch import TupleWatch

MAX_FILE_BYTES = 2 << 30
MAX_PICKLE_BYTES = 64 << 20
MAX_DIRECTORY_BYTES = 32 << 20
MAX_MEMBERS = 200_000

_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE_MAGIC = b"\x80"
_END, _END64 = b"PK\x05\x06", b"PK\x06\x06"
_TAIL_BYTES = (1 << 16) + 128
_CHUNK = 1 << 20

PLAIN_GLOBALS = frozenset({"torch._utils _rebuild_tensor_v2", "collections OrderedDict"})
"""All that a file of tensors and plain values needs; the storage classes (`torch FloatStorage`, ...) come on top."""


@dataclass(frozen=True)
class Expectation:
    """What a reader came for, and what a person can do whose file holds Python objects instead."""

    what: str
    way_out: str


CHECKPOINT = Expectation(
    "a checkpoint (.ckpt) written by this toolkit",
    "a checkpoint of another project comes in through 'toolkit import'",
)


def read_plain_archive(path: Path | str, expected: Expectation = CHECKPOINT) -> Any:
    """Load a file of tensors and plain values; anything else about it is one clear InputError.

    Memory stays within a small multiple of the file's size, which is at most `MAX_FILE_BYTES`.
    """
    source = guard_archive(path, expected)
    _refuse_foreign_pickle(source, expected)
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(
            f"{source}: PyTorch cannot read it ({_first_line(error)}); the file is damaged or foreign"
        ) from error
    limit = source.stat().st_size
    _refuse_odd_tensors(content, limit, source)
    return content


def guard_archive(path: Path | str, expected: Expectation = CHECKPOINT) -> Path:
    """Check that a file is a whole PyTorch archive of sane size, without unpacking it."""
    source = require_file(path)
    size = source.stat().st_size
    if size > MAX_FILE_BYTES:
        raise InputError(
            f"{source}: {size} bytes, the limit for a checkpoint is {MAX_FILE_BYTES}; is it the right file?"
        )
    try:
        with source.open("rb") as stream:
            head = stream.read(4)
            stream.seek(max(0, size - _TAIL_BYTES))
            tail = stream.read()
    except OSError as error:
        raise InputError(f"{source}: cannot read: {error.strerror or error}") from error
    if head != _ZIP_MAGIC:
        advice = f"; {expected.way_out}" if head[:1] == _PICKLE_MAGIC else ""
        raise InputError(f"{source}: {_what_is(head)}; expected {expected.what}{advice}")
    directory = _directory_bytes(tail)
    if directory is None:
        raise InputError(f"{source}: cut short (no end record); copy the file again or use an older checkpoint")
    if directory > MAX_DIRECTORY_BYTES:
        raise InputError(f"{source}: its table of contents claims {directory} bytes; damaged or not a checkpoint")
    _check_members(source, size)
    return source


def _what_is(head: bytes) -> str:
    if head[:1] == _PICKLE_MAGIC:
        return "a bare Python pickle (an old PyTorch file), which can hold code and is not loaded"
    if head[:4] == b"GGUF" or head[1:4] == b"ELF":
        return "a foreign binary file"
    if all(32 <= byte < 127 or byte in b"\r\n\t" for byte in head):
        return f"looks like text (starts with {head.decode('ascii')!r})"
    return f"not a PyTorch archive (starts with {head.hex(' ')})"


def _directory_bytes(tail: bytes) -> int | None:
    """Size of the zip's central directory according to its end record."""
    at = tail.rfind(_END)
    if at < 0 or at + 22 > len(tail):
        return None
    size = int(struct.unpack_from("<I", tail, at + 12)[0])
    if size != 0xFFFFFFFF:
        return size
    wide = tail.rfind(_END64)
    if wide < 0 or wide + 56 > len(tail):
        return None
    return int(struct.unpack_from("<Q", tail, wide + 40)[0])


def _check_members(source: Path, size: int) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            members = archive.infolist()
            _check_table(source, size, members)
            for member in members:
                with archive.open(member) as stream:
                    while stream.read(_CHUNK):
                        pass
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{source}: damaged ({_first_line(error)}); copy it again or use an older checkpoint"
        ) from error
    except OSError as error:
        raise InputError(f"{source}: cannot read: {error.strerror or error}") from error


def _check_table(source: Path, size: int, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_MEMBERS:
        raise InputError(f"{source}: {len(members)} members, the limit is {MAX_MEMBERS}; not a checkpoint")
    packed = [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise InputError(f"{source}: member {packed[0]!r} is compressed, PyTorch never writes that; not a checkpoint")
    total = sum(m.file_size for m in members)
    if total > size:
        raise InputError(f"{source}: members claim {total} bytes in a file of {size}; a forged archive, not loaded")
    pickles = [m for m in members if m.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise InputError(f"{source}: a zip file without PyTorch's data.pkl; not a checkpoint")
    if pickles[0].file_size > MAX_PICKLE_BYTES:
        raise InputError(f"{source}: its pickle has {pickles[0].file_size} bytes, the limit is {MAX_PICKLE_BYTES}")


def _refuse_foreign_pickle(source: Path, expected: Expectation) -> None:
    """Name the first object that is neither tensor nor plain value, before anything is built from it."""
    with zipfile.ZipFile(source) as archive:
        name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
        data = archive.read(name)
    watch = TupleWatch()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            watch.see(opcode, argument)
            if watch.problem:
                raise InputError(f"{source}: its pickle holds {watch.problem}; a pickle bomb, not loaded")
            if opcode.name == "GLOBAL" and _is_plain(str(argument)):
                continue
            if opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"):
                named = str(argument).replace(" ", ".") if argument else opcode.name
                raise InputError(
                    f"{source}: holds a Python object ({named}), which could run code, so it is not loaded; "
                    f"{expected.way_out}"
                )
    except (ValueError, LookupError, UnicodeDecodeError, struct.error) as error:
        raise InputError(f"{source}: its pickle is damaged ({_first_line(error)})") from error


def _is_plain(name: str) -> bool:
    return name in PLAIN_GLOBALS or (name.startswith("torch ") and name.endswith("Storage") and name.count(".") == 0)


def _refuse_odd_tensors(content: Any, limit: int, source: Path) -> None:
    """A tensor may claim more elements than it stores (stride 0); no weight does."""
    waiting: list[Any] = [content]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            claimed = value.numel() * value.element_size()
            if claimed > limit or claimed > value.untyped_storage().nbytes():
                raise InputError(
                    f"{source}: a tensor of shape {tuple(value.shape)} is larger than the file; not loaded"
                )
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
