from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import InputError, ToolkitError
from train.data.lines import MAX_LINE_BYTES
from train.data.photos import group_of, outside_photo
from train.data.problems import MAX_KEPT, Problems
from train.data.readers import ListSource, find_pts, read_list, read_pts, split_of

MakeList = Callable[..., Path]
MakePoints = Callable[..., NDArray[np.float64]]
MakeLine = Callable[..., str]


def edit(path: Path, line: int, change: Callable[[str], str]) -> None:
    lines = path.read_text().splitlines()
    lines[line - 1] = change(lines[line - 1])
    path.write_text("\n".join(lines) + "\n")


def replace_token(at: int, text: str) -> Callable[[str], str]:
    def change(line: str) -> str:
        tokens = line.split()
        tokens[at] = text
        return " ".join(tokens)

    return change


def test_a_wflw_list(wflw: Path, point_maker: MakePoints) -> None:
    source = read_list(wflw)
    assert (len(source), source.layout.name, source.split) == (6, "wflw98", "train")
    sample = source.sample(2)
    np.testing.assert_array_equal(sample.points, point_maker(2).astype(np.float32))
    assert sample.attributes == (False, False, True, False, False, False)
    assert sample.origin == f"{wflw}:3"
    assert sample.group == "train/002"
    assert source.photo_size(2) == (120, 120)
    assert source.photo(2).shape == (120, 120, 3)
    assert len(source.problems) == 0
    assert source.problems.summary() == "no broken faces"


def test_flags_that_no_line_sets_are_unknown(wflw: Path) -> None:
    lines = [" ".join([*line.split()[:200], *"000000", line.split()[-1]]) for line in wflw.read_text().splitlines()]
    wflw.write_text("\n".join(lines))
    assert read_list(wflw).sample(0).attributes is None


def test_images_folder_one_level_up(tmp_path: Path, wflw_maker: MakeList) -> None:
    """As in a set whose second label list lies in a subfolder: images/ beside that folder."""
    path = wflw_maker(tmp_path / "a", 3)
    (tmp_path / "b" / "derived").mkdir(parents=True)
    moved = path.rename(tmp_path / "b" / "derived" / path.name)
    (tmp_path / "a" / "WFLW_images").rename(tmp_path / "b" / "images")
    assert read_list(moved).sample(0).image == tmp_path / "b" / "images" / "train" / "000.png"


def test_images_folder_given(tmp_path: Path, wflw: Path) -> None:
    photos = (wflw.parents[2] / "WFLW_images").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="no usable face"):
        read_list(wflw)
    assert len(read_list(wflw, images=photos)) == 6


BROKEN = [
    (lambda line: " ".join(line.split()[1:]), "columns", "205 numbers"),
    (replace_token(4, "nan"), "points", "point 2"),
    (replace_token(4, "-9999"), "points", "outside the 120 x 120 photo"),
    (replace_token(-1, "gone.png"), "image", "gone.png"),
    (lambda line: line[:100] + "\x00" + line[100:], "columns", "columns"),
    (lambda line: "Lorem ipsum", "columns", "found 2 columns"),
    (lambda line: line.replace("train/", "train\x00/"), "image", "train?/002.png"),
    (replace_token(-1, "x" * 5000), "image", "xxx"),
]


@pytest.mark.parametrize(("change", "kind", "words"), BROKEN)
def test_a_broken_line_is_skipped_counted_and_named(
    wflw: Path, change: Callable[[str], str], kind: str, words: str
) -> None:
    edit(wflw, 3, change)
    source = read_list(wflw)
    assert len(source) == 5
    assert dict(source.problems.counts) == {kind: 1}
    (problem,) = source.problems
    assert problem.where == f"{wflw}:3"
    assert words in problem.text
    assert [source.sample(k).image.stem for k in range(5)] == ["000", "001", "003", "004", "005"]


@pytest.mark.parametrize(("change", "kind", "words"), BROKEN)
def test_a_broken_line_is_fatal_when_asked(wflw: Path, change: Callable[[str], str], kind: str, words: str) -> None:
    edit(wflw, 3, change)
    with pytest.raises(InputError, match=r"\.txt:3: "):
        read_list(wflw, on_error="fail")


def test_an_empty_photo(wflw: Path) -> None:
    (wflw.parents[2] / "WFLW_images" / "train" / "001.png").write_bytes(b"")
    source = read_list(wflw)
    assert source.problems.counts["image"] == 1
    assert "empty" in str(next(iter(source.problems)))


def test_a_damaged_photo_is_named_with_its_line_when_read(wflw: Path) -> None:
    photo = wflw.parents[2] / "WFLW_images" / "train" / "001.png"
    photo.write_bytes(photo.read_bytes()[:60])
    source = read_list(wflw)
    with pytest.raises(InputError, match=r"\.txt:2: .*001\.png.*decoded"):
        source.photo(1)


def test_a_second_layout_in_one_list_is_broken(wflw: Path, point_maker: MakePoints, line_maker: MakeLine) -> None:
    edit(wflw, 4, lambda _: line_maker(point_maker(0)[:68], "train/000.png"))
    source = read_list(wflw)
    assert len(source) == 5
    assert "68 points, the lines above have 98" in str(next(iter(source.problems)))


def test_byte_order_mark_blank_lines_and_windows_ends(wflw: Path) -> None:
    text = wflw.read_text().replace("\n", "\r\n\r\n")
    wflw.write_bytes(b"\xef\xbb\xbf" + text.encode())
    source = read_list(wflw)
    assert len(source) == 6
    assert len(source.problems) == 0
    assert source.sample(1).origin.endswith(":3")


@pytest.mark.parametrize("length", [MAX_LINE_BYTES - 1, MAX_LINE_BYTES, MAX_LINE_BYTES + 1, 3 * MAX_LINE_BYTES + 7])
def test_an_endless_line_counts_as_one(wflw: Path, length: int) -> None:
    lines = wflw.read_bytes().splitlines()
    wflw.write_bytes(b"\n".join([lines[0], b"7" * length, *lines[1:]]) + b"\n")
    source = read_list(wflw)
    assert (len(source), len(source.problems)) == (6, 1)
    assert next(iter(source.problems)).where == f"{wflw}:2"
    assert source.sample(1).origin == f"{wflw}:3"


@pytest.mark.parametrize("content", [b"", b"\n\n", b"hello\n", bytes(range(256)) * 50, b"\x00" * 100_000])
def test_a_file_that_is_no_list(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "list_train.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"list_train\.txt"):
        read_list(path)


def test_a_folder_or_nothing_instead_of_a_list(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.txt"):
        with pytest.raises(InputError):
            read_list(path)


def test_points_a_little_outside_are_kept(wflw: Path) -> None:
    edit(wflw, 1, replace_token(0, "-20.5"))
    source = read_list(wflw)
    assert len(source) == 6
    assert source.sample(0).points[0, 0] == -20.5


def test_outside_rules() -> None:
    face = np.array([[10, 10], [40, 10], [10, 50], [40, 50]], dtype=np.float32)
    assert outside_photo(face, (60, 60)) == ""
    assert outside_photo(face, (30, 60)) == ""
    assert outside_photo(face, (60, 30)) == "", "the photo may be turned by its EXIF"
    assert "3 of 4 points" in outside_photo(face, (30, 30))
    far = np.concatenate([face, [[41, 50], [40, 140]]]).astype(np.float32)
    assert "point 5 at (40, 140) is 80 px outside" in outside_photo(far, (60, 60))


def test_the_report_keeps_a_thousand_and_counts_all() -> None:
    report = Problems()
    for number in range(MAX_KEPT + 5):
        report.add("number", f"f:{number}", "bad")
    assert len(report) == MAX_KEPT + 5
    assert len(list(report)) == MAX_KEPT


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("list_98pt_rect_attr_train", "train"),
        ("list_98pt_test_blur", "test"),
        ("helen/trainset", "train"),
        ("afw", None),
        ("contest", None),
        ("greatest_hits", None),
        ("testing_annot", "test"),
    ],
)
def test_split_names(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_groups() -> None:
    assert group_of("0--Parade/a_29_f0.jpg") == group_of("0--Parade/a_29_f12.jpg") == "0--Parade/a_29"
    assert group_of("indoor_001.png") != group_of("indoor_002.png")


def test_angles_beside_the_photos(wflw: Path) -> None:
    table = wflw.parents[2] / "angles.csv"
    table.write_text("path,yaw,pitch,roll\ntrain/001.png,0.5,-0.25,0.125\n")
    source = read_list(wflw)
    assert source.sample(1).angles == (0.5, -0.25, 0.125)
    assert source.sample(0).angles is None


@pytest.mark.parametrize(
    "row", ["train/001.png,1,2", "train/001.png,a,b,c", "train/001.png,nan,0,0", "train/001.png,90,0,0"]
)
def test_broken_angles_are_named(wflw: Path, row: str) -> None:
    (wflw.parents[2] / "angles.csv").write_text(f"path,yaw,pitch,roll\n{row}\n")
    with pytest.raises(InputError, match=r"angles\.csv:2"):
        read_list(wflw)


# .pts


def write_pts(root: Path, names: list[str], point_maker: MakePoints, count: int = 68) -> None:
    import cv2

    for seed, name in enumerate(names):
        path = root / f"{name}.pts"
        path.parent.mkdir(parents=True, exist_ok=True)
        points = point_maker(seed)[:count] + 1
        body = "\n".join(f"{x:.4f} {y:.4f}" for x, y in points)
        path.write_text(f"version: 1\nn_points:  {count}\n{{\n{body}\n}}\n")
        cv2.imwrite(str(path.with_suffix(".jpg")), np.full((120, 120, 3), 90, np.uint8))


def open_pts(root: Path) -> ListSource:
    return read_pts(find_pts(root), root)


def test_pts_count_pixels_from_one(tmp_path: Path, point_maker: MakePoints) -> None:
    write_pts(tmp_path, ["helen/a", "helen/b"], point_maker)
    source = open_pts(tmp_path)
    assert (len(source), source.layout.name) == (2, "ibug68")
    np.testing.assert_allclose(source.sample(1).points, point_maker(1)[:68], atol=1e-4)
    assert source.sample(1).origin == f"{tmp_path / 'helen' / 'b.pts'}:1"


def test_pts_of_a_layout_nobody_knows(tmp_path: Path, point_maker: MakePoints) -> None:
    write_pts(tmp_path, ["a"], point_maker, 39)
    assert open_pts(tmp_path).layout.name == "plain39"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "text"),
        ("version: 1", "text"),
        ("n_points: 68\n{\n1 2\n3 4\n}", "columns"),
        ("n_points: 2\n{\n1 2\n3\n}", "columns"),
        ("n_points: 2\n{\n1 2\n3 x\n}", "number"),
        ("n_points: 2\n{\n1 2\n3 nan\n}", "points"),
        ("n_points: 2\n{\n1 2\n30 40\n}", "columns"),
    ],
)
def test_broken_pts(tmp_path: Path, point_maker: MakePoints, text: str, kind: str) -> None:
    write_pts(tmp_path, ["a", "b", "c"], point_maker)
    (tmp_path / "b.pts").write_text(text)
    source = open_pts(tmp_path)
    assert len(source) == 2
    assert dict(source.problems.counts) == {kind: 1}
    assert next(iter(source.problems)).where == f"{tmp_path / 'b.pts'}:1"


def test_pts_without_a_photo(tmp_path: Path, point_maker: MakePoints) -> None:
    write_pts(tmp_path, ["a", "b"], point_maker)
    (tmp_path / "b.jpg").unlink()
    source = open_pts(tmp_path)
    assert (len(source), source.problems.counts["image"]) == (1, 1)


# Damage


@pytest.mark.parametrize("seed", range(6))
def test_mutated_lists_raise_nothing_but_our_own_errors(wflw: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    original = b"\n".join(wflw.read_bytes().splitlines()[:3])
    for _ in range(60):
        data = bytearray(original)
        for _ in range(rng.integers(1, 30)):
            at = int(rng.integers(len(data)))
            match rng.integers(5):
                case 0:
                    data[at] = rng.integers(256)
                case 1:
                    del data[at : at + int(rng.integers(1, 200))]
                case 2:
                    data[at:at] = rng.integers(0, 256, int(rng.integers(1, 40)), dtype=np.uint8).tobytes()
                case 3:
                    data[at:at] = [b"nan ", b"1e999 ", b"\n", b"-", b"\x00", b"\xff", b" ../../etc/passwd\n"][
                        rng.integers(7)
                    ]
                case 4:
                    data[at : at + 1] = data[at : at + 60] * 3
            if not data:
                break
        wflw.write_bytes(bytes(data))
        for on_error in ("skip", "fail"):
            try:
                source = read_list(wflw, on_error=on_error)  # type: ignore[arg-type]
            except ToolkitError:
                continue
            for index in range(len(source)):
                assert np.isfinite(source.sample(index).points).all()
