from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import InputError, ToolkitError, UsageError
from runtime.geometry import Box, Region, invert, transform, warp
from runtime.images import Image
from runtime.spec import CropRule, ModelSpec
from train.data import pack as pack_module
from train.data.combine import SubsetSource
from train.data.pack import FacePack, PackSettings, build_pack, cached_pack, fingerprint
from train.data.readers import ListSource, read_list

MakeList = Callable[..., Path]


def test_a_packed_face_is_the_runtimes_crop(faces: ListSource, pack: FacePack) -> None:
    assert len(pack) == len(faces)
    for index in (0, 7, 22):
        sample = faces.sample(index)
        box = Box.around(sample.points.astype(np.float64))
        region = Region(*box.centre, 1.8 * max(box.width, box.height))
        np.testing.assert_array_equal(pack.photo(index), warp(faces.photo(index), region.to_crop(96), 96))
        np.testing.assert_allclose(pack.regions[index], [region.cx, region.cy, region.side])
        packed = pack.sample(index)
        back = transform(invert(region.to_crop(96)), packed.points)
        np.testing.assert_allclose(back, sample.points, atol=1e-4)
        assert (packed.attributes, packed.origin, packed.group) == (sample.attributes, sample.origin, sample.group)
        np.testing.assert_allclose(pack.photo_boxes[index], [box.x0, box.y0, box.x1, box.y1])
    assert pack.split == "train"
    assert pack.name == faces.name


def test_boxes_and_angles(tmp_path: Path, wflw_maker: MakeList) -> None:
    path = wflw_maker(tmp_path / "a", 2)
    (tmp_path / "a" / "angles.csv").write_text("path,yaw,pitch,roll\ntrain/000.png,0.5,-0.25,0.125\n")
    source = read_list(path)
    pack = build_pack(source, tmp_path / "p", PackSettings(64))
    assert pack.sample(0).angles == (0.5, -0.25, 0.125)
    assert pack.sample(1).angles is None
    box = source.sample(1).box
    assert box is not None
    matrix = Region(*pack.regions[1]).to_crop(64)
    np.testing.assert_allclose(pack.sample(1).box or (), transform(matrix, np.reshape(box, (2, 2))).ravel())


def test_the_pixels_are_mapped_not_loaded(pack: FacePack) -> None:
    assert isinstance(pack.images, np.memmap)
    assert not pack.images.flags.writeable


def test_sizes_for_a_model() -> None:
    assert PackSettings.for_spec(ModelSpec("ghostone")) == PackSettings(192, 1.8)
    larger = PackSettings.for_spec(ModelSpec("ghostone", input_size=224, crop=CropRule(scale=1.0)))
    assert larger.size >= 224 * 1.8
    for size, margin in ((8, 1.8), (4096, 1.8), (192, 0.5), (192, 9.0)):
        with pytest.raises(UsageError, match="pack"):
            PackSettings(size, margin)


@pytest.fixture
def copy(pack: FacePack, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pack.directory, tmp_path / "copy"))


def meta_edit(**changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        meta = json.loads((folder / "pack.json").read_text())
        (folder / "pack.json").write_text(json.dumps({**meta, **changes}))

    return damage


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-1])  # type: ignore[return-value]


def same_size(name: str) -> Callable[[Path], None]:
    """Other content of the same length: a header that lies."""

    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(b"\x93NUMPY" + bytes(path.stat().st_size - 6))

    return damage


DAMAGE = {
    "no meta": lambda folder: (folder / "pack.json").unlink(),
    "meta is no JSON": lambda folder: (folder / "pack.json").write_text("{"),
    "meta is a list": lambda folder: (folder / "pack.json").write_text("[]"),
    "old format": meta_edit(format=0),
    "other count": meta_edit(count=5),
    "negative count": meta_edit(count=-1),
    "count is text": meta_edit(count="7"),
    "unknown layout": meta_edit(layout="martian5"),
    "unknown key": meta_edit(extra=1),
    "no bytes": meta_edit(bytes={}),
    "other settings": meta_edit(settings={"size": 112, "margin": 1.8}),
    "settings with text": meta_edit(settings={"size": "96", "margin": 1.8}),
    "settings missing": meta_edit(settings={}),
    "faces missing": lambda folder: (folder / "faces.npy").unlink(),
    "faces cut": cut("faces.npy"),
    "points cut": cut("points.npy"),
    "texts cut": cut("texts.json"),
    "faces with a lying header": same_size("faces.npy"),
    "points with a lying header": same_size("points.npy"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_half_a_pack_is_refused(copy: Path, name: str) -> None:
    FacePack(copy)
    DAMAGE[name](copy)
    with pytest.raises(ToolkitError) as caught:
        FacePack(copy)
    assert str(copy) in str(caught.value) or name == "unknown layout"


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch evil-was-here",)


def test_a_pickled_table_is_never_loaded(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(copy / "points.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    meta_edit(bytes={p.name: p.stat().st_size for p in copy.iterdir() if p.name != "pack.json"})(copy)
    with pytest.raises(InputError, match=r"points\.npy"):
        FacePack(copy)
    assert not (tmp_path / "evil-was-here").exists()


def test_faces_stay_in_order_however_many_wait(
    faces: ListSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_module, "QUEUE", 3)
    pack = build_pack(faces, tmp_path / "p", PackSettings(64))
    assert [pack.sample(i).origin for i in range(23)] == [faces.sample(i).origin for i in range(23)]


def test_the_key_follows_labels_photos_and_settings(tmp_path: Path, wflw_maker: MakeList) -> None:
    path = wflw_maker(tmp_path / "a", 4)
    settings = PackSettings(64)
    keys = {fingerprint(read_list(path), settings), fingerprint(read_list(path), PackSettings(64, 2.0))}
    text = path.read_text()
    path.write_text(text.replace(text.split()[0], "31.5", 1))
    keys.add(fingerprint(read_list(path), settings))
    path.write_text(text)
    assert fingerprint(read_list(path), settings) in keys
    photo = tmp_path / "a" / "WFLW_images" / "train" / "001.png"
    photo.write_bytes(photo.read_bytes() + b"\0")
    keys.add(fingerprint(read_list(path), settings))
    assert len(keys) == 4


def test_a_stale_pack_says_so(pack: FacePack) -> None:
    FacePack(pack.directory, expect_key=pack.key)
    with pytest.raises(InputError, match=r"stale.*toolkit data pack"):
        FacePack(pack.directory, expect_key="0" * 64)


class Failing(SubsetSource):
    """Raises at the photo of one face."""

    def __init__(self, source: ListSource, at: int, error: BaseException) -> None:
        super().__init__(source, range(len(source)))
        self.at, self.error = at, error

    def photo(self, index: int) -> Image:
        if index == self.at:
            raise self.error
        return super().photo(index)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.EIO, "bad disk"), ToolkitError),
        (RuntimeError("a bug"), RuntimeError),
    ],
)
def test_an_interrupted_build_leaves_nothing(
    faces: ListSource, tmp_path: Path, error: BaseException, expected: type[BaseException]
) -> None:
    with pytest.raises(expected):
        build_pack(Failing(faces, 9, error), tmp_path / "p", PackSettings(64))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(faces: ListSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pack_module.np, "save", full)
    with pytest.raises(ToolkitError, match=r"p: cannot write the pack: No space left"):
        build_pack(faces, tmp_path / "p", PackSettings(64))
    assert list(tmp_path.iterdir()) == []


def test_unreadable_photos_are_left_out_and_counted(faces: ListSource, tmp_path: Path) -> None:
    broken = Failing(faces, 9, InputError("cannot be decoded"))
    pack = build_pack(broken, tmp_path / "p", PackSettings(64))
    assert (len(pack), pack.left_out, pack.problems.counts["image"]) == (22, 1, 1)
    assert pack.sample(9).origin == faces.sample(10).origin
    np.testing.assert_array_equal(pack.photo(21), build_pack(faces, tmp_path / "q", PackSettings(64)).photo(22))
    with pytest.raises(InputError, match=r"txt:10.*cannot be decoded"):
        build_pack(broken, tmp_path / "r", PackSettings(64), on_error="fail")


def test_nothing_is_overwritten_unasked(faces: ListSource, tmp_path: Path) -> None:
    small = SubsetSource(faces, range(4))
    build_pack(faces, tmp_path / "p", PackSettings(64))
    with pytest.raises(UsageError, match="is a pack already"):
        build_pack(small, tmp_path / "p", PackSettings(64))
    assert len(build_pack(small, tmp_path / "p", PackSettings(64), force=True)) == 4
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose")
    with pytest.raises(UsageError, match="is no pack"):
        build_pack(small, tmp_path / "mine", PackSettings(64), force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "p"]


def test_a_failed_replacement_keeps_the_old_pack(faces: ListSource, tmp_path: Path) -> None:
    before = build_pack(faces, tmp_path / "p", PackSettings(64)).key
    with pytest.raises(RuntimeError):
        build_pack(Failing(faces, 3, RuntimeError()), tmp_path / "p", PackSettings(48), force=True)
    assert FacePack(tmp_path / "p").key == before


def test_the_same_faces_give_the_same_bytes(faces: ListSource, tmp_path: Path) -> None:
    first, second = (build_pack(faces, tmp_path / name, PackSettings(64)).directory for name in "ab")
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_the_cache_packs_once(faces: ListSource, tmp_path: Path) -> None:
    steps: list[int] = []
    settings = PackSettings(64)
    first = cached_pack(faces, tmp_path, settings, progress=lambda: steps.append(1))
    second = cached_pack(faces, tmp_path, settings, progress=lambda: steps.append(1))
    assert len(steps) == len(faces)
    assert first.directory == second.directory
    assert cached_pack(faces, tmp_path, PackSettings(48)).directory != first.directory
    assert cached_pack(first, tmp_path) is first


def test_the_cache_mends_itself(faces: ListSource, tmp_path: Path) -> None:
    directory = cached_pack(faces, tmp_path, PackSettings(64)).directory
    (directory / "faces.npy").write_bytes(b"")
    assert len(cached_pack(faces, tmp_path, PackSettings(64))) == len(faces)


def test_what_a_killed_build_left_in_the_cache_is_swept_a_day_later(faces: ListSource, tmp_path: Path) -> None:
    packs = tmp_path / "packs"
    old, young = packs / ".faces-1.tmp-a", packs / ".faces-1.tmp-b"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "faces.npy").write_bytes(b"half")
    os.utime(old, (0, 0))
    cached_pack(faces, tmp_path, PackSettings(64))
    assert not old.exists()
    assert young.exists()


def test_too_small_a_disk_is_noticed_before_the_work(
    faces: ListSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 200_000))  # type: ignore[attr-defined]
    broken = Failing(faces, 0, AssertionError("no photo may be read"))
    with pytest.raises(ToolkitError, match=r"needs 0 MB|needs \d+ MB, 0 MB are free"):
        build_pack(broken, tmp_path / "deep" / "p", PackSettings(64))


def test_the_default_cache_follows_the_environment(
    faces: ListSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cached_pack(faces, settings=PackSettings(64)).directory.parent == tmp_path / "landmark-toolkit" / "packs"


def test_no_faces(faces: ListSource, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no faces"):
        build_pack(SubsetSource(faces, []), tmp_path / "p")
