"""The AFLW2000 challenge form: a folder of photos with `annot.pkl`, a pickle of [file names, points of each].

A pickle can run any code, so it is not loaded: its opcodes are checked against a short list first, and the two numpy
names that it may use lead to inert stand-ins that only know how to become a number.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import InputError
from runtime.files import read_bytes
from train.data.lines import Line, LineError, check_points, layout_of_count
from train.data.problems import OnError, Problems
from train.data.readers import Entry, ListSource, Progress, assemble, split_of

ANNOTATION_NAMES = ("annot.pkl", "testing_annot.pkl", "training_annot.pkl")
MAX_BYTES = 64 << 20
MAX_OPCODES = 60_000_000
_PLAIN_TEXT = """
    PROTO FRAME STOP MARK POP POP_MARK MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET
    EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 NONE NEWTRUE NEWFALSE
    INT BININT BININT1 BININT2 LONG1 FLOAT BINFLOAT BINUNICODE SHORT_BINUNICODE UNICODE SHORT_BINBYTES BINBYTES
    STACK_GLOBAL GLOBAL REDUCE BUILD
"""
_PLAIN = frozenset(_PLAIN_TEXT.split())
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))


class _Kind:
    """Stands in for numpy.dtype: remembers a number format."""

    def __init__(self, code: object, *_: object) -> None:
        self.code = str(code).lstrip("<=|")
        self.order = "<"

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            self.order = ">"


_FORMATS = {
    "f8": "d",
    "f4": "f",
    "f2": "e",
    "i8": "q",
    "i4": "i",
    "i2": "h",
    "u1": "B",
    "u2": "H",
    "u4": "I",
    "u8": "Q",
}


def _scalar(kind: object, data: object) -> float:
    """Stands in for numpy.core.multiarray.scalar."""
    if not isinstance(kind, _Kind) or kind.code not in _FORMATS or not isinstance(data, bytes):
        raise pickle.UnpicklingError("a number of unknown format")
    return float(struct.unpack(kind.order + _FORMATS[kind.code], data)[0])


_STAND_INS = {
    ("numpy", "dtype"): _Kind,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed here") from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError(f"it asks for a persistent object {pid!r}")


def _refuse_other_opcodes(data: bytes) -> None:
    for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
        if opcode.name not in _PLAIN:
            raise pickle.UnpicklingError(f"opcode {opcode.name} at byte {position} is not allowed here")
        if count > MAX_OPCODES or (opcode.name in _PUTS and int(argument or 0) > len(data)):
            raise pickle.UnpicklingError(f"opcode {opcode.name} at byte {position} asks for too much memory")


def _load(path: Path) -> Any:
    data = read_bytes(path, MAX_BYTES)
    try:
        _refuse_other_opcodes(data)
        return _Reader(io.BytesIO(data)).load()
    except Exception as error:
        # An unpickler fed with garbage raises nearly anything; none of it is the user's business but the reason.
        raise InputError(f"{path}: not an annotation pickle of plain names and numbers: {str(error)[:200]}") from error


def read_challenge(path: Path, on_error: OnError = "skip", progress: Progress | None = None) -> ListSource:
    """Read `annot.pkl`: names and points; photos lie beside it or in an images folder."""
    content = _load(path)
    if (
        not isinstance(content, (list, tuple))
        or len(content) < 2
        or not all(isinstance(c, (list, tuple)) for c in content[:2])
    ):
        raise InputError(f"{path}: expected [file names, points of each], found {type(content).__name__}")
    names, faces = content[0], content[1]
    if len(names) != len(faces):
        raise InputError(f"{path}: {len(names)} file names but {len(faces)} faces")
    problems = Problems(on_error)
    entries: list[Entry] = []
    for number, (name, face) in enumerate(zip(names, faces, strict=True), start=1):
        where = f"{path}:{number}"
        try:
            line = _line(name, face)
            if entries and line.layout != entries[0].line.layout:
                raise LineError("columns", f"{line.layout.count} points, others have {entries[0].line.layout.count}")
        except LineError as error:
            problems.add(error.kind, where, str(error))
            continue
        entries.append(Entry(where, line.path, line))
    if not entries:
        raise InputError(f"{path}: no usable face; {problems.summary()}")
    split = split_of(path.stem) or split_of(path.parent.name)
    return assemble(path.parent.name, entries, path.parent, problems, split, progress)


def _line(name: object, face: object) -> Line:
    if not isinstance(name, str) or not name:
        raise LineError("text", f"the file name is {type(name).__name__}, expected text")
    if not isinstance(face, (list, tuple)) or len(face) > 1000:
        raise LineError("columns", f"{name}: the points are no list")
    layout = layout_of_count(len(face))
    if layout is None:
        raise LineError("columns", f"{name}: {len(face)} points fit no known layout")
    pairs = [pair for pair in face if isinstance(pair, (list, tuple)) and len(pair) == 2]
    numbers = [value for pair in pairs for value in pair if isinstance(value, (int, float))]
    if len(numbers) != 2 * len(face):
        raise LineError("number", f"{name}: expected {len(face)} pairs of numbers")
    try:
        return Line(name, check_points(np.array([float(value) for value in numbers])), layout, None, None)
    except OverflowError:
        raise LineError("points", f"{name}: a coordinate is beyond any photo") from None
