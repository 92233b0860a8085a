from __future__ import annotations

import zlib

import numpy as np
import pytest

from runtime.errors import UsageError
from train.data.draws import Draws, shuffled

COUNT = 100_000
GOLDEN_BITS = 1863458961267992007


MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mixed(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def by_hand(seed: int, epoch: int, face: int, name: str) -> int:
    key = mixed((mixed((seed * GOLDEN + epoch) & MASK) + mixed((face + GOLDEN) & MASK)) & MASK)
    return mixed((key + zlib.crc32(name.encode()) * GOLDEN) & MASK)


def test_the_numbers_are_fixed_for_ever() -> None:
    """A resumed run must see the same faces in the next version too."""
    faces = [0, 1, 2_000_000_000]
    drawn = Draws(3, 2, np.array(faces))
    for name in ("rotation", "order"):
        assert drawn.bits(name).tolist() == [by_hand(3, 2, face, name) for face in faces]
    assert drawn.bits("rotation")[0] == GOLDEN_BITS
    assert drawn.uniform("rotation")[0] == (GOLDEN_BITS >> 11) / 2**53


def test_uniform_numbers_are_uniform() -> None:
    drawn = Draws(0, 0, np.arange(COUNT))
    values = drawn.uniform("a")
    assert 0 <= values.min() < 1e-3 < 1 - 1e-3 < values.max() < 1
    counts, _ = np.histogram(values, bins=50, range=(0, 1))
    assert ((counts - COUNT / 50) ** 2 / (COUNT / 50)).sum() < 90  # chi square, 49 degrees of freedom, p = 0.0003


@pytest.mark.parametrize(
    "other",
    [
        lambda: Draws(0, 0, np.arange(COUNT)).uniform("b"),
        lambda: Draws(0, 1, np.arange(COUNT)).uniform("a"),
        lambda: Draws(1, 0, np.arange(COUNT)).uniform("a"),
        lambda: Draws(0, 0, np.arange(COUNT) + 1).uniform("a"),
        lambda: Draws(0, 0, np.arange(COUNT), np.ones(COUNT, np.int64)).uniform("a"),
    ],
)
def test_streams_do_not_resemble_each_other(other) -> None:  # type: ignore[no-untyped-def]
    here = Draws(0, 0, np.arange(COUNT)).uniform("a")
    assert abs(np.corrcoef(here, other())[0, 1]) < 0.015


def test_a_face_does_not_depend_on_its_batch() -> None:
    whole = Draws(5, 6, np.arange(100)).uniform("a", -3, 3)
    part = Draws(5, 6, np.array([70, 3])).uniform("a", -3, 3)
    np.testing.assert_array_equal(part, whole[[70, 3]])


def test_chances_and_whole_numbers() -> None:
    drawn = Draws(0, 0, np.arange(COUNT))
    assert not drawn.happens("x", 0.0).any()
    assert drawn.happens("x", 1.0).all()
    assert abs(drawn.happens("x", 0.3).mean() - 0.3) < 0.01
    assert set(drawn.integer("y", 5).tolist()) == {0, 1, 2, 3, 4}


def test_orders() -> None:
    faces = np.arange(1000)
    first = shuffled(faces, 0, 0)
    assert sorted(first.tolist()) == faces.tolist()
    assert (first != shuffled(faces, 0, 1)).mean() > 0.9
    assert (first != faces).mean() > 0.9


@pytest.mark.parametrize(("seed", "epoch"), [(-1, 0), (0, -1), (1 << 63, 0)])
def test_impossible_seeds(seed: int, epoch: int) -> None:
    with pytest.raises(UsageError, match="seed"):
        Draws(seed, epoch, np.arange(3))
