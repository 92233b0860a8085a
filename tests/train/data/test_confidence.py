"""Weights of points: beside the list, through readers, layouts, packs and mirrored crops, into the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.errors import InputError
from runtime.layouts import IBUG68, IBUG68_IN_WFLW98, WFLW98
from runtime.spec import ModelSpec
from train.data.augment import AugmentConfig
from train.data.combine import in_layout
from train.data.confidence import WeightTable, full_weights, weights_beside, weights_text
from train.data.loader import BatchLoader
from train.data.open import open_source
from train.data.pack import FacePack, PackSettings, build_pack, fingerprint
from train.data.readers import read_list
from train.data.sample import FaceSource

SPEC = ModelSpec("ghostone", input_size=32)
FACES = 4


@pytest.fixture
def weighted(wflw: Path) -> Path:
    """A list with weights beside it: point p of face f weighs (1 + f + p / 100) / 8, point 5 nothing."""
    path = wflw
    names = [line.rsplit(" ", 1)[1] for line in path.read_text().splitlines()]
    rows = [((1 + f + np.arange(98) / 100) / 8).astype(np.float32) for f in range(len(names))]
    for row in rows:
        row[5] = 0
    weights_beside(path).write_text(weights_text(names, rows))
    return path


def expected(face: int) -> np.ndarray:
    weights = (1 + face + np.arange(98) / 100) / 8
    weights[5] = 0
    return weights.astype(np.float32)


def test_the_reader_takes_them_from_beside_the_list(weighted: Path) -> None:
    for source in (read_list(weighted), open_source(weighted.parents[2], split="train")):
        for face in range(len(source)):
            np.testing.assert_allclose(source.sample(face).weights, expected(face), rtol=1e-3)


def test_broken_lines_do_not_shift_them(weighted: Path) -> None:
    lines = weighted.read_text().splitlines()
    lines[1] = lines[1].replace(lines[1].split()[7], "rubbish", 1)
    weighted.write_text("\n\n".join(lines) + "\n")
    source = read_list(weighted)
    assert len(source.problems) == 1
    np.testing.assert_allclose(source.sample(1).weights, expected(2), rtol=1e-3)


def edit(weighted: Path, line: int, old: str, new: str) -> Path:
    place = weights_beside(weighted)
    rows = place.read_text().splitlines()
    assert old in rows[line]
    rows[line] = rows[line].replace(old, new, 1)
    place.write_text("\n".join(rows) + "\n")
    return place


@pytest.mark.parametrize(
    ("line", "old", "new", "said"),
    [
        (0, "path", "photo", ":1: expected the columns path"),
        (2, "train/001.png", "train/007.png", ":3: weights of 'train/007.png', the list's line shows 'train/001.png'"),
        (2, ",0.25", "", ":3: 97 weights, the face has 98 points"),
        (3, ",0.375", ",-1", ":4: point 0 weighs -1, expected 0..100"),
        (3, ",0.375", ",nan", ":4: point 0 weighs nan"),
        (3, ",0.375", ",much", ":4: could not convert"),
    ],
)
def test_what_does_not_fit_is_refused(weighted: Path, line: int, old: str, new: str, said: str) -> None:
    place = edit(weighted, line, old, new)
    with pytest.raises(InputError, match=r"weights\.csv") as error:
        read_list(weighted)
    assert f"{place}{said}" in str(error.value)


def test_a_list_of_another_length_is_refused(weighted: Path) -> None:
    lines = weighted.read_text().splitlines()
    for text in ("\n".join(lines[:-1]), "\n".join([*lines, lines[-1]])):
        weighted.write_text(text + "\n")
        with pytest.raises(InputError, match="one of them was changed"):
            read_list(weighted)


def test_text_and_table_agree(tmp_path: Path) -> None:
    names, rows = ["a b.png", 'c,"d".png'], [np.array([0, 0.125], np.float32), np.array([1, 2.5], np.float32)]
    path = tmp_path / "faces.txt"
    weights_beside(path).write_text(weights_text(names, rows))
    table = WeightTable.beside(path)
    assert table is not None and len(table) == 2
    for number, (name, row) in enumerate(zip(names, rows, strict=True)):
        np.testing.assert_array_equal(table.row(number, name, 2), row)
    assert WeightTable.beside(tmp_path / "other.txt") is None


def test_unlabelled_points_weigh_nothing() -> None:
    points = np.zeros((3, 2), dtype=np.float32)
    points[1] = np.nan
    assert full_weights(None, points).tolist() == [1, 0, 1]
    assert full_weights(np.full(3, 0.5, np.float32), points).tolist() == [0.5, 0, 0.5]


def test_packs_keep_them(weighted: Path, tmp_path: Path) -> None:
    source = read_list(weighted)
    pack = build_pack(source, tmp_path / "p", PackSettings(48))
    for face in range(len(pack)):
        np.testing.assert_array_equal(pack.sample(face).weights, source.sample(face).weights)
    np.testing.assert_array_equal(FacePack(tmp_path / "p").weights, pack.weights)
    (tmp_path / "p" / "weights.npy").unlink()
    with pytest.raises(InputError, match=r"weights\.npy: missing"):
        FacePack(tmp_path / "p")


def test_the_key_of_a_pack_knows_them(weighted: Path) -> None:
    keys = {fingerprint(read_list(weighted), PackSettings())}
    edit(weighted, 1, ",0.125", ",0.126")
    keys.add(fingerprint(read_list(weighted), PackSettings()))
    weights_beside(weighted).unlink()
    keys.add(fingerprint(read_list(weighted), PackSettings()))
    assert len(keys) == 3


def test_packs_without_them_are_as_they_were(wflw: Path, tmp_path: Path) -> None:
    pack = build_pack(read_list(wflw), tmp_path / "p", PackSettings(48))
    assert pack.weights is None
    assert pack.sample(0).weights is None
    assert not (tmp_path / "p" / "weights.npy").exists()


def batch_weights(sources: list[FacePack], flip: float, spec: ModelSpec = SPEC) -> np.ndarray:
    augment = AugmentConfig.from_dict({**AugmentConfig.none().to_dict(), "flip": flip})
    loader = BatchLoader(sources, spec, augment, FACES, shuffle=False, drop_last=False, threads=0)
    return np.concatenate([batch.weights for batch in loader.epoch(0)])


def test_the_batch_has_them_and_a_mirror_swaps_them(weighted: Path, tmp_path: Path) -> None:
    pack = build_pack(read_list(weighted), tmp_path / "p", PackSettings(48))
    plain, mirrored = batch_weights([pack], 0.0), batch_weights([pack], 1.0)
    for face in range(len(pack)):
        np.testing.assert_allclose(plain[face], expected(face), rtol=1e-3)
        np.testing.assert_array_equal(mirrored[face], plain[face][list(WFLW98.flip)])
    assert (plain[:, 5] == 0).all() and (mirrored[:, WFLW98.flip[5]] == 0).all()


def test_mixed_with_faces_that_have_none(weighted: Path, tmp_path: Path, pack68: FacePack) -> None:
    pack = build_pack(read_list(weighted), tmp_path / "p", PackSettings(48))
    weights = batch_weights([pack, pack68], 0.0)
    assert weights[0] == pytest.approx(expected(0), rel=1e-3)
    rest = weights[len(pack) :]
    assert (rest[:, list(IBUG68_IN_WFLW98)] == 1).all() and (rest.sum(1) == 68).all()


def test_in_another_layout(weighted: Path, tmp_path: Path) -> None:
    source = read_list(weighted)
    fewer = in_layout(source, IBUG68)
    np.testing.assert_array_equal(fewer.sample(2).weights, source.sample(2).weights[list(IBUG68_IN_WFLW98)])  # type: ignore[index]
    again: FaceSource = in_layout(fewer, WFLW98)
    back = again.sample(2).weights
    assert back is not None and (back > 0).sum() == 68  # point 5 is none of the 68
    pack = build_pack(source, tmp_path / "p", PackSettings(48))
    spec = ModelSpec("ghostone", points=68, layout="ibug68", input_size=32)
    np.testing.assert_array_equal(batch_weights([pack], 0.0, spec)[2], fewer.sample(2).weights)
