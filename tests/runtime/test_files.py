from __future__ import annotations

import errno
from pathlib import Path

import pytest

from runtime.errors import InputError
from runtime.files import (
    DiskError,
    atomic_path,
    read_bytes,
    read_json,
    require_file,
    sha256_file,
    write_json,
    write_text,
)


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError, match="half way"), atomic_path(target) as temporary:
        temporary.write_text("new, but only ha")
        raise RuntimeError("half way")
    assert target.read_text() == "old"
    assert leftovers(tmp_path) == ["a.txt"]


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="disk is full"), atomic_path(tmp_path / "a.bin"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert leftovers(tmp_path) == []


def test_an_unwritable_place_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DiskError, match="cannot write"):
        write_text(tmp_path / "file" / "below", "x")


def test_json_is_sorted_and_byte_stable(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, "ü"]})
    write_json(tmp_path / "b.json", {"a": [1.5, "ü"], "b": 1})
    assert sha256_file(tmp_path / "a.json") == sha256_file(tmp_path / "b.json")
    assert read_json(tmp_path / "a.json") == {"a": [1.5, "ü"], "b": 1}


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("{not json")
    for path, words in (
        ("none", "no such file"),
        (".", "is a directory"),
        ("empty", "empty"),
        ("bad\0name", "cannot read|no such file"),
    ):
        with pytest.raises(InputError, match=words):
            require_file(tmp_path / path)
    with pytest.raises(InputError, match="not valid JSON"):
        read_json(tmp_path / "text")
    with pytest.raises(InputError, match="9 bytes, the limit here is 4"):
        read_bytes(tmp_path / "text", 4)
