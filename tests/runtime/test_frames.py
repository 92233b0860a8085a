"""Videos, folders and patterns: in a stable order, and whole to the last frame that can be read."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime.errors import InputError, ToolkitError, UsageError
from runtime.frames import VideoWriter, expand, kind_of, open_clip
from runtime.images import write_image


def write_video(path: Path, count: int = 6) -> Path:
    with VideoWriter(path, 10.0) as writer:
        for number in range(count):
            writer.write(np.full((64, 96, 3), 20 * (number % 10), np.uint8))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_what_is_written_can_be_read(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"a{suffix}")
    with open_clip(str(path)) as clip:
        frames = list(clip.frames)
    assert clip.count == 6 and clip.rate == pytest.approx(10)
    assert [f.number for f in frames] == list(range(6))
    assert np.allclose([f.seconds for f in frames], np.arange(6) / 10)
    assert [round(float(f.image.mean()) / 20) for f in frames if f.image is not None] == list(range(6))


def test_a_frame_that_fails_does_not_end_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.avi")

    class Faulty:
        """OpenCV's capture, with frames 1 and 4 beyond repair."""

        def __init__(self, source: str) -> None:
            self.inner, self.at = real(source), -1

        def grab(self) -> bool:
            self.at += 1
            return bool(self.inner.grab()) and self.at != 4

        def retrieve(self) -> tuple[bool, object]:
            return (False, None) if self.at == 1 else self.inner.retrieve()

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Faulty)
    with open_clip(str(path)) as clip:
        frames = list(clip.frames)
    assert [f.image is None for f in frames] == [False, True, False, False, True, False]


def test_bytes_damaged_in_the_middle_still_give_the_rest(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", 30)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(bytes(data))
    with open_clip(str(path)) as clip:
        assert sum(f.image is not None for f in clip.frames) >= 20


def test_videos_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    headless = tmp_path / "zero.avi"
    whole = write_video(tmp_path / "a.avi").read_bytes()
    headless.write_bytes(whole[: whole.index(b"movi") + 4])
    for name in ("text.mp4", "empty.mp4", "zero.avi"):
        with pytest.raises(ToolkitError, match=name), open_clip(str(tmp_path / name)) as clip:
            list(clip.frames)
    with pytest.raises(InputError, match="no camera with this number"), open_clip("99"):
        pass


def test_writer_leaves_all_or_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), VideoWriter(tmp_path / "a.mp4", 10) as writer:
        writer.write(np.zeros((64, 64, 3), np.uint8))
        raise ZeroDivisionError
    with pytest.raises(InputError, match="no frame was written"), VideoWriter(tmp_path / "b.mp4", 10):
        pass
    with pytest.raises(UsageError, match=r"written as \.mp4 or \.avi"):
        VideoWriter(tmp_path / "c.gif", 10)
    assert list(tmp_path.iterdir()) == []


def test_sources_expand_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "notes.txt").write_text("x")
    here = [str(tmp_path / name) for name in ("a.jpg", "b.png", "sub/c.png")]
    assert expand([str(tmp_path)]) == here
    assert expand([str(tmp_path / "*.png"), "0"]) == [here[1], "0"]
    assert expand([here[1], here[0]]) == [here[1], here[0]]
    strange = tmp_path / "odd[1].png"
    write_image(strange, np.zeros((4, 4, 3), np.uint8))
    assert expand([str(strange)]) == [str(strange)], "a name that looks like a pattern is a name when it exists"
    (tmp_path / "none").mkdir()
    for bad, words in (("*.tiff", "no file matches"), ("none", "without pictures"), ("x.png", "no such file")):
        with pytest.raises(InputError, match=words):
            expand([str(tmp_path / bad)])
    with pytest.raises(UsageError, match="at least one"):
        expand([])
    assert kind_of("clip.MKV") == "video" and kind_of("17") == "camera" and kind_of(str(tmp_path)) == "folder"
