from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import InputError, UsageError
from runtime.layouts import IBUG68, IBUG68_IN_WFLW98, WFLW98, plain_layout
from train.data.combine import ConcatSource, LayoutSource, SubsetSource, in_layout
from train.data.open import open_source, splits_in
from train.data.pack import FacePack, build_pack
from train.data.readers import ListSource, read_list
from train.data.split import split_by_group

MakeList = Callable[..., Path]
MakePoints = Callable[..., NDArray[np.float64]]


@pytest.fixture
def both(tmp_path: Path, wflw_maker: MakeList) -> Path:
    """A WFLW root with a train list of 6, a test list of 4 and a subset list."""
    root = tmp_path / "WFLW"
    wflw_maker(root, 6, "train")
    path = wflw_maker(root, 4, "test")
    subset = root / "WFLW_annotations" / "list_98pt_test" / "list_98pt_test_blur.txt"
    subset.parent.mkdir()
    subset.write_text("\n".join(" ".join([*x.split()[:196], x.split()[-1]]) for x in path.read_text().splitlines()[:2]))
    return root


@pytest.mark.parametrize("place", ["", "WFLW_annotations", "WFLW_annotations/list_98pt_rect_attr_train_test"])
def test_a_wflw_root_by_split(both: Path, place: str) -> None:
    assert len(open_source(both / place, split="train")) == 6
    assert len(open_source(str(both / place), split="test")) == 4
    assert splits_in(both / place) == ["train", "test"]


def test_two_lists_and_no_split(both: Path) -> None:
    with pytest.raises(UsageError, match=r"_test\.txt.*_train\.txt.*split"):
        open_source(both)


def test_a_single_list_needs_no_split(tmp_path: Path, wflw_maker: MakeList) -> None:
    root = wflw_maker(tmp_path / "a", 3).parents[2]
    assert len(open_source(root)) == len(open_source(root, split="train")) == 3
    assert splits_in(root) == []
    with pytest.raises(UsageError, match="no test list"):
        open_source(root, split="test")


def test_a_named_file(both: Path) -> None:
    subset = both / "WFLW_annotations" / "list_98pt_test" / "list_98pt_test_blur.txt"
    assert len(open_source(subset)) == 2
    with pytest.raises(UsageError, match="its name says test"):
        open_source(subset, split="train")


def test_a_list_with_a_name_of_its_own(tmp_path: Path, wflw_maker: MakeList) -> None:
    path = wflw_maker(tmp_path / "a", 3)
    folder = tmp_path / "mine"
    folder.mkdir()
    path.rename(folder / "faces.txt")
    (folder / "notes.txt").write_text("these are my faces\n")
    (tmp_path / "a" / "WFLW_images").rename(folder / "images")
    assert len(open_source(folder)) == len(open_source(folder, split="test")) == 3


def test_the_list_with_flags_wins_over_a_bare_one_beside_it(tmp_path: Path, wflw_maker: MakeList) -> None:
    path = wflw_maker(tmp_path / "a", 3)
    bare = "\n".join(" ".join([*line.split()[:196], line.split()[-1]]) for line in path.read_text().splitlines()[:2])
    (path.parent / "list_98pt_train.txt").write_text(bare)
    source = open_source(tmp_path / "a")
    assert len(source) == 3
    assert source.sample(0).attributes is not None


def test_pts_folders(tmp_path: Path, point_maker: MakePoints) -> None:
    for name in ("helen/trainset/a", "helen/trainset/b", "helen/testset/c"):
        path = tmp_path / f"{name}.pts"
        path.parent.mkdir(parents=True, exist_ok=True)
        body = "\n".join(f"{x} {y}" for x, y in point_maker(3)[:68] + 1)
        path.write_text(f"version: 1\nn_points: 68\n{{\n{body}\n}}")
        cv2.imwrite(str(path.with_suffix(".png")), np.zeros((120, 120, 3), np.uint8))
    assert len(open_source(tmp_path, split="train")) == 2
    assert len(open_source(tmp_path, split="test")) == 1
    assert splits_in(tmp_path) == ["train", "test"]
    with pytest.raises(UsageError, match="choose the train or test"):
        open_source(tmp_path)
    assert len(open_source(tmp_path / "helen" / "trainset")) == 2
    with pytest.raises(UsageError, match="no test faces"):
        open_source(tmp_path / "helen" / "trainset", split="test")
    assert len(open_source(tmp_path / "helen" / "testset" / "c.pts")) == 1


def test_a_pack(faces: ListSource, tmp_path: Path) -> None:
    built = build_pack(faces, tmp_path / "p")
    for name in ("p", "p/pack.json"):
        opened = open_source(tmp_path / name, split="train")
        assert isinstance(opened, FacePack)
        assert opened.key == built.key
    with pytest.raises(UsageError, match="its name says train"):
        open_source(tmp_path / "p", split="test")


def test_synthetic_faces() -> None:
    source = open_source("synth:12@5", split="train")
    assert (len(source), source.layout.name, source.name) == (12, "wflw98", "synth:12@5")
    with pytest.raises(UsageError, match="another seed"):
        open_source("synth:12@5", split="test")


@pytest.mark.parametrize(
    "text", ["synth:", "synth:0", "synth:-4", "synth:4@", "synth:4@x", "synth:99999999", "synth:4 "]
)
def test_bad_synthetic_texts(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected synth:N"):
        open_source(text)


@pytest.mark.parametrize("text", ["nowhere", "", "a\0b", "x" * 5000])
def test_nothing_there(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        open_source(text)


def test_broken_lines_can_be_fatal(both: Path) -> None:
    path = next(both.rglob("*attr_train.txt"))
    path.write_text("broken\n" + path.read_text())
    source = open_source(both, split="train")
    assert isinstance(source, ListSource)
    assert len(source.problems) == 1
    with pytest.raises(InputError, match=r"train\.txt:1"):
        open_source(both, split="train", on_error="fail")


# Combined sources


def test_subset(faces: ListSource) -> None:
    subset = SubsetSource(faces, [5, 0])
    assert len(subset) == 2
    assert subset.sample(0) is faces.sample(5)
    np.testing.assert_array_equal(subset.photo(1), faces.photo(0))
    with pytest.raises(UsageError, match="face 23"):
        SubsetSource(faces, [23])


def test_concatenation(faces: ListSource) -> None:
    joined = ConcatSource([SubsetSource(faces, [1, 2]), faces])
    assert len(joined) == 2 + len(faces)
    assert joined.sample(2).image == faces.sample(0).image
    assert joined.sample(0).group != joined.sample(3).group, "groups of two sources must not meet by name"
    np.testing.assert_array_equal(joined.photo(1), faces.photo(2))
    with pytest.raises(IndexError):
        joined.sample(len(joined))
    with pytest.raises(UsageError, match="ibug68, wflw98"):
        ConcatSource([faces, LayoutSource(faces, IBUG68)])


def test_layouts_there_and_back(faces: ListSource) -> None:
    small = in_layout(faces, IBUG68)
    assert small.sample(3).points.shape == (68, 2)
    large = in_layout(small, WFLW98).sample(3).points
    np.testing.assert_array_equal(large[list(IBUG68_IN_WFLW98)], small.sample(3).points)
    assert int(np.isnan(large[:, 0]).sum()) == 30
    assert in_layout(faces, WFLW98) is faces
    with pytest.raises(UsageError, match="no way from layout"):
        in_layout(faces, plain_layout(5))


# Validation split


@pytest.fixture
def crowded(tmp_path: Path, wflw_maker: MakeList) -> ListSource:
    """24 faces on 12 photos."""
    path = wflw_maker(tmp_path / "crowd", 12)
    path.write_text(path.read_text() * 2)
    return read_list(path)


def test_no_photo_on_both_sides(crowded: ListSource) -> None:
    train, validation = split_by_group(crowded, 0.25, seed=3)
    assert sorted([*train, *validation]) == list(range(24))
    assert len(validation) == 6
    assert not {crowded.sample(i).group for i in train} & {crowded.sample(i).group for i in validation}


def test_the_seed_chooses(crowded: ListSource) -> None:
    first = split_by_group(crowded, 0.25, seed=0)[1].tolist()
    assert first == split_by_group(crowded, 0.25, seed=0)[1].tolist()
    assert any(first != split_by_group(crowded, 0.25, seed=seed)[1].tolist() for seed in range(1, 5))


def test_more_faces_move_few_others(crowded: ListSource, tmp_path: Path, wflw_maker: MakeList) -> None:
    few = read_list(wflw_maker(tmp_path / "few", 40))
    many = read_list(wflw_maker(tmp_path / "many", 44))
    before = {few.sample(int(i)).group for i in split_by_group(few, 0.25, 0)[1]}
    after = {many.sample(int(i)).group for i in split_by_group(many, 0.25, 0)[1]}
    assert len(before - after) <= 3


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 7, float("nan")])
def test_impossible_fractions(crowded: ListSource, fraction: float) -> None:
    with pytest.raises(UsageError, match="fraction"):
        split_by_group(crowded, fraction, 0)


def test_both_sides_have_a_face_however_small_the_fraction(crowded: ListSource) -> None:
    for fraction in (0.001, 0.999):
        train, validation = split_by_group(crowded, fraction, 0)
        assert len(train) >= 1
        assert len(validation) >= 1


def test_one_photo_cannot_be_split(faces: ListSource) -> None:
    with pytest.raises(UsageError, match="two photos"):
        split_by_group(SubsetSource(faces, [4, 4]), 0.5, 0)
