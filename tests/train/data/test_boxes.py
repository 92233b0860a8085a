"""Photos with boxes: read strictly, cut by their box, useless where landmarks are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calib.select import select_faces
from runtime.errors import InputError
from runtime.images import write_image
from runtime.spec import ModelSpec
from train.data.boxes import open_unlabelled
from train.data.problems import problems_of
from train.data.synth import SynthSource
from train.evaluate import face_box

SPEC = ModelSpec("pfld", input_size=32)
HEAD = "path,x0,y0,x1,y1\n"


def photos(folder: Path, count: int) -> list[str]:
    """A folder of synthetic photos and its rows."""
    faces = SynthSource(count, seed=5)
    rows = []
    for index in range(count):
        points = faces.sample(index).points
        write_image(folder / f"photo {index}.png", faces.photo(index))
        rows.append(",".join([f"photo {index}.png", *(f"{v:.2f}" for v in (*points.min(0), *points.max(0)))]))
    return rows


def test_a_box_cuts_as_the_landmarks_would_and_calibration_takes_it(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text(HEAD + "\n".join(photos(tmp_path, 3)))
    for text in (tmp_path, tmp_path / "boxes.csv"):
        source = open_unlabelled(text)
        assert len(source) == 3
    labelled = SynthSource(3, seed=5)
    for index in range(3):
        ours, theirs = (face_box(s.sample(index), SPEC) for s in (source, labelled))
        np.testing.assert_allclose(
            (ours.x0, ours.y0, ours.x1, ours.y1), (theirs.x0, theirs.y0, theirs.x1, theirs.y1), atol=0.01
        )
    assert len(select_faces(source, SPEC, 2)) == 2


def test_broken_rows_are_named_and_left_out(tmp_path: Path) -> None:
    good = photos(tmp_path, 1)
    bad = [
        "absent.png,0,0,9,9",
        "photo 0.png,9,0,3,9",
        "photo 0.png,1,2",
        "photo 0.png,a,0,3,9",
        "photo 0.png,nan,0,3,9",
    ]
    (tmp_path / "boxes.csv").write_text(HEAD + "\n".join(good + bad) + "\n\n")
    source = open_unlabelled(tmp_path)
    assert len(source) == 1
    assert [str(p).split("boxes.csv:")[1].split(":")[0] for p in problems_of(source)] == ["3", "4", "5", "6", "7"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "file is empty"),
        (b"a,b\n", "the first line must be 'path,x0,y0,x1,y1', found 'a,b'"),
        (HEAD.encode(), "no usable face"),
        (HEAD.encode() + b"absent.png,0,0,9,9\n", "no usable face in it; the first problem: .*absent.png"),
        (b"\xff\xfe\x00", "not a table"),
    ],
)
def test_useless_tables_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "boxes.csv").write_bytes(content)
    with pytest.raises(InputError, match=words):
        open_unlabelled(tmp_path)
