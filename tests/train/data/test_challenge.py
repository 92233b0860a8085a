from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import InputError, ToolkitError
from train.data.challenge import read_challenge

MakePoints = Callable[..., NDArray[np.float64]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "aflw_val"
    root.mkdir()
    for index in range(3):
        cv2.imwrite(str(root / f"image{index}.jpg"), np.full((120, 120, 3), 60, np.uint8))
    return root


def content(point_maker: MakePoints, scalar: Callable[[float], Any]) -> list[Any]:
    names = [f"image{index}.jpg" for index in range(3)]
    faces = [[(scalar(x), scalar(y)) for x, y in point_maker(index)[:68]] for index in range(3)]
    return [names, faces]


def save(folder: Path, value: object, protocol: int = 4) -> Path:
    path = folder / "annot.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize(("protocol", "scalar"), [(2, float), (4, float), (4, np.float64), (5, np.float32)])
def test_names_and_points(folder: Path, point_maker: MakePoints, scalar: Callable[[float], Any], protocol: int) -> None:
    source = read_challenge(save(folder, content(point_maker, scalar), protocol))
    assert (len(source), source.layout.name) == (3, "ibug68")
    np.testing.assert_allclose(source.sample(2).points, point_maker(2)[:68], atol=1e-4)
    assert source.photo(1).shape == (120, 120, 3)


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch evil-was-here",)


def test_code_in_the_pickle_is_refused_and_not_run(
    folder: Path, point_maker: MakePoints, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"annot\.pkl: .*system"):
        read_challenge(save(folder, [*content(point_maker, float), Evil()]))
    assert not (tmp_path / "evil-was-here").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x95\x00",
        b"not a pickle",
        b"\x80\x04]r\xff\xff\xff\x7f.",  # a memo slot of 2 GiB
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\x00\x00.",  # bytes of nearly 2^48
        b"\x80\x04C\x01a\x85R.",
        b"(i__builtin__\neval\n.",
    ],
)
def test_damaged_and_hostile_pickles(folder: Path, data: bytes) -> None:
    (folder / "annot.pkl").write_bytes(data)
    with pytest.raises(InputError, match=r"annot\.pkl"):
        read_challenge(folder / "annot.pkl")


@pytest.mark.parametrize(
    ("data", "opcode"),
    [
        (b"\x80\x05\x96\x01\x00\x00\x00\x00\x00\x00\x00a.", "BYTEARRAY8"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"Pname\n.", "PERSID"),
    ],
)
def test_opcodes_that_no_annotation_needs(folder: Path, data: bytes, opcode: str) -> None:
    (folder / "annot.pkl").write_bytes(data)
    with pytest.raises(InputError, match=f"opcode {opcode} at byte"):
        read_challenge(folder / "annot.pkl")


def test_other_content_is_refused(folder: Path) -> None:
    for value in ({}, [], [1, 2], [["a"], []], "text"):
        with pytest.raises(InputError, match=r"annot\.pkl"):
            read_challenge(save(folder, value))


def test_broken_faces_are_counted(folder: Path, point_maker: MakePoints) -> None:
    value = content(point_maker, float)
    value[1][1] = value[1][1][:5]
    value[0][2] = "gone.jpg"
    source = read_challenge(save(folder, value))
    assert len(source) == 1
    assert dict(source.problems.counts) == {"columns": 1, "image": 1}


def test_mutated_pickles_raise_nothing_but_our_own_errors(folder: Path, point_maker: MakePoints) -> None:
    original = save(folder, content(point_maker, np.float64)).read_bytes()
    rng = np.random.default_rng(5)
    path = folder / "annot.pkl"
    for _ in range(40):
        data = bytearray(original[: int(rng.integers(1, len(original) + 1))])
        for _ in range(int(rng.integers(1, 12))):
            data[int(rng.integers(min(len(data), 3000)))] = int(rng.integers(256))
        path.write_bytes(bytes(data))
        try:
            read_challenge(path)
        except ToolkitError:
            continue
