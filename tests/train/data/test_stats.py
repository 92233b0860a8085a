from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import UsageError
from runtime.images import read_image
from runtime.layouts import IBUG68, IBUG68_IN_WFLW98, WFLW98, plain_layout
from train.data.contact import MARGIN, contact_sheet, draw_points, face_cell, tile
from train.data.figures import draw_stats
from train.data.pack import FacePack
from train.data.pose import estimate_pose
from train.data.readers import ListSource, read_list
from train.data.stats import describe, rows
from train.data.synth import SynthSource, mean_face_3d, project

MakeList = Callable[..., Path]


@pytest.mark.parametrize("layout", ["wflw98", "ibug68"])
def test_the_pose_of_the_mean_face_is_found_again(layout: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        angles = rng.uniform((-1.0, -0.5, -0.6), (1.0, 0.5, 0.6)).tolist()
        points = project(mean_face_3d(), angles, 0.4, (100, 80), distance=900.0)
        small = layout == "ibug68"
        found = estimate_pose(points[list(IBUG68_IN_WFLW98)], IBUG68) if small else estimate_pose(points, WFLW98)
        assert found is not None
        np.testing.assert_allclose(np.degrees(found), np.degrees(angles), atol=5)


def test_the_pose_of_drawn_faces_is_close() -> None:
    source = SynthSource(60, seed=2)
    given = np.degrees([source.sample(i).angles for i in range(60)])
    found = np.degrees([estimate_pose(source.sample(i).points, WFLW98) for i in range(60)])
    assert np.median(np.abs(given - found), axis=0).max() < 5


def test_no_pose_where_none_can_be_told() -> None:
    assert estimate_pose(np.zeros((5, 2)), plain_layout(5)) is None
    points = np.full((98, 2), np.nan)
    points[:3] = 1
    assert estimate_pose(points, WFLW98) is None


def test_counts(tmp_path: Path, wflw_maker: MakeList) -> None:
    path = wflw_maker(tmp_path / "a", 7)
    lines = path.read_text().splitlines()
    moved = lines[0].split()
    moved[0] = "-3.25"
    path.write_text("\n".join([" ".join(moved), *lines[1:], lines[3], "broken", "1 2 3 x.png"]))
    stats = describe(read_list(path))
    assert (stats.faces, stats.photos, stats.groups, stats.split) == (8, 7, 7, "train")
    assert stats.faces_with_points_outside == 1
    assert stats.attributes == {
        "pose": 2, "expression": 1, "illumination": 1, "make-up": 2, "occlusion": 1, "blur": 1,
    }  # fmt: skip
    assert stats.annotated_boxes == 8
    assert stats.angles_given == 0
    table = dict(rows(stats))
    assert table["broken faces"] == "2"
    assert table["photo width, smallest / median / largest"] == "120 / 120 / 120"
    assert sum(stats.yaw_counts().values()) == 8
    plain = json.loads(json.dumps(stats.to_dict(), allow_nan=False))
    assert plain["broken"]["by_kind"] == {"wrong column count": 2}
    assert f"{path}:9" in plain["broken"]["faces"][0]


def test_given_angles_win(tmp_path: Path, wflw_maker: MakeList) -> None:
    path = wflw_maker(tmp_path / "a", 2)
    (tmp_path / "a" / "angles.csv").write_text(
        "path,yaw,pitch,roll\n" + "".join(f"train/{k:03d}.png,{y},0,0\n" for k, y in enumerate((-1.5, 0.6)))
    )
    stats = describe(read_list(path))
    assert stats.angles_given == 2
    assert stats.yaw_counts() == {"0-15": 0, "15-30": 0, "30-45": 1, "45-60": 0, "60-90": 1}


def test_sizes_of_photos_without_a_readable_header(pack: FacePack) -> None:
    """A pack has no files to look at: its pictures tell."""
    stats = describe(pack)
    assert stats.widths.tolist() == [96.0] * 23


def test_the_figure(faces: ListSource, pack: FacePack, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_stats([describe(faces), describe(pack)], tmp_path / "a.png")
    picture = read_image(tmp_path / "a.png")
    assert picture.shape == (700, 1200, 3)
    for panel in (picture[:350, :400], picture[350:, 400:800], picture[350:, 800:]):
        assert len(np.unique(panel.reshape(-1, 3), axis=0)) > 20


# Contact sheets


def test_a_sheet_has_the_asked_size(faces: ListSource) -> None:
    assert contact_sheet(faces, 10, columns=4, cell=64).shape == (3 * 64, 4 * 64, 3)
    assert contact_sheet(faces, 3, columns=6, cell=64).shape == (64, 3 * 64, 3)
    assert contact_sheet(faces, 1000, columns=6, cell=32).shape == (4 * 32, 6 * 32, 3)


def test_the_seed_chooses_the_faces(faces: ListSource) -> None:
    first = contact_sheet(faces, 5, seed=0, cell=64)
    np.testing.assert_array_equal(first, contact_sheet(faces, 5, seed=0, cell=64))
    assert (first != contact_sheet(faces, 5, seed=1, cell=64)).any()


def test_a_cell_shows_the_points_where_they_are(faces: ListSource) -> None:
    sample, size = faces.sample(3), 200
    photo = np.zeros_like(faces.photo(3))
    cell = face_cell(photo, sample.points, WFLW98, size)
    low, high = sample.points.min(0), sample.points.max(0)
    side = MARGIN * (high - low).max()
    expected = (sample.points - (low + high) / 2) * size / side + (size - 1) / 2
    for x, y in np.rint(expected).astype(int):
        assert cell[y, x].max() > 100


def test_unknown_points_are_not_drawn() -> None:
    image = np.zeros((50, 50, 3), np.uint8)
    draw_points(image, np.full((98, 2), np.nan), WFLW98)
    assert not image.any()
    points: NDArray[np.float64] = np.full((98, 2), np.nan)
    points[60] = 20, 30
    draw_points(image, points, WFLW98)
    assert image[30, 20].max() > 100
    assert (image > 0).any(axis=2).sum() < 20


def test_the_last_row_is_filled_up() -> None:
    cells = [np.full((8, 8, 3), value, np.uint8) for value in (1, 2, 3)]
    sheet = tile(cells, 2)
    assert sheet[::8, ::8, 0].tolist() == [[1, 2], [3, 0]]


@pytest.mark.parametrize("options", [{"count": 0}, {"columns": 0}, {"cell": 8}, {"cell": 4096}])
def test_impossible_sheets(faces: ListSource, options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="contact sheet"):
        contact_sheet(faces, **options)


def test_a_sheet_too_large(faces: ListSource) -> None:
    with pytest.raises(UsageError, match="too many"):
        contact_sheet(faces, indices=[0] * 100, cell=1024)
