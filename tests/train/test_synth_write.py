"""Synthetic faces on disk: WFLW's form, whole or not there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import ToolkitError, UsageError
from runtime.images import read_image
from train.data.open import open_source
from train.data.sample import ATTRIBUTES
from train.data.synth import SynthSource, write_synth
from train.data.synth.write import SUBSETS

COUNT, SEED, SIZE = 24, 7, 96
LISTS = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{}.txt"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synth(tmp_path_factory.mktemp("synth") / "faces", COUNT, SEED, SIZE, test_fraction=0.5)


def rows(path: Path) -> list[list[str]]:
    return [line.split(" ") for line in path.read_text().splitlines()]


def test_lists_have_the_columns_of_wflw(written: Path) -> None:
    train, test = (rows(written / LISTS.format(split)) for split in ("train", "test"))
    assert (len(train), len(test)) == (12, 12)
    assert {len(row) for row in train + test} == {207}
    assert all((written / "WFLW_images" / row[206]).is_file() for row in train + test)
    assert len({row[206] for row in train + test}) == COUNT


def test_labels_read_back_as_they_were(written: Path) -> None:
    source = SynthSource(COUNT, SEED, SIZE)
    for index, row in enumerate(rows(written / LISTS.format("train")) + rows(written / LISTS.format("test"))):
        sample = source.sample(index)
        np.testing.assert_allclose(np.array(row[:196], float).reshape(98, 2), sample.points, atol=6e-7 * SIZE)
        assert tuple(float(edge) for edge in row[196:200]) == sample.box
        assert tuple(flag == "1" for flag in row[200:206]) == sample.attributes
        np.testing.assert_array_equal(read_image(written / "WFLW_images" / row[206]), source.photo(index))


def test_subset_lists_hold_the_flagged_test_faces(written: Path) -> None:
    test = rows(written / LISTS.format("test"))
    assert SUBSETS == ("largepose", "expression", "illumination", "makeup", "occlusion", "blur")
    for column, name in enumerate(SUBSETS):
        subset = rows(written / "WFLW_annotations" / "list_98pt_test" / f"list_98pt_test_{name}.txt")
        assert subset == [[*row[:196], row[206]] for row in test if row[200 + column] == "1"]
    assert len(SUBSETS) == len(ATTRIBUTES)


def test_the_reader_gives_the_same_faces(written: Path) -> None:
    faces = open_source(str(written), split="test")
    source = SynthSource(COUNT, SEED, SIZE)
    assert len(faces) == 12
    for index in range(12):
        read, made = faces.sample(index), source.sample(12 + index)
        np.testing.assert_allclose(read.points, made.points, atol=1e-4)
        assert read.attributes == made.attributes
        assert read.angles == pytest.approx(made.angles, abs=1e-6)
        np.testing.assert_array_equal(faces.photo(index), source.photo(12 + index))


def tree_hash(root: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def test_the_same_seed_writes_the_same_bytes(written: Path, tmp_path: Path) -> None:
    again = write_synth(tmp_path / "again", COUNT, SEED, SIZE, test_fraction=0.5)
    other = write_synth(tmp_path / "other", COUNT, SEED + 1, SIZE, test_fraction=0.5)
    assert tree_hash(again) == tree_hash(written) != tree_hash(other)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    seen = []

    def stop() -> None:
        seen.append(1)
        if len(seen) == 3:
            raise error(28, "no space left")

    with pytest.raises((error, ToolkitError)):
        write_synth(tmp_path / "faces", 5, size=48, progress=stop)
    assert len(seen) == 3
    assert list(tmp_path.iterdir()) == []


def test_an_existing_data_set_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="not empty"):
        write_synth(tmp_path / "faces", 2, size=48)
    assert (tmp_path / "faces" / "mine.txt").read_text() == "keep"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    write_synth(tmp_path / "faces", 2, size=48)
    assert (tmp_path / "faces" / "angles.csv").is_file()


@pytest.mark.parametrize(("fraction", "tests"), [(0.0, 0), (1.0, 4), (0.25, 1)])
def test_the_test_share_is_what_was_asked(tmp_path: Path, fraction: float, tests: int) -> None:
    root = write_synth(tmp_path / "faces", 4, size=48, test_fraction=fraction)
    assert len(rows(root / LISTS.format("test"))) == tests
    assert len(rows(root / LISTS.format("train"))) == 4 - tests


def test_bad_requests_are_refused_before_the_first_face(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, count, fraction in ((tmp_path / "a", 0, 0.1), (tmp_path / "a", 3, 1.5), (tmp_path / "file", 3, 0.1)):
        with pytest.raises(UsageError):
            write_synth(path, count, test_fraction=fraction, progress=lambda: pytest.fail("a face was rendered"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_progress_counts_every_face(tmp_path: Path) -> None:
    ticks: list[int] = []
    write_synth(tmp_path / "faces", 6, size=48, progress=lambda: ticks.append(1))
    assert len(ticks) == 6
