"""One text names any source of faces: a list, a folder, a pack, or `synth:N`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, cast

from runtime.errors import InputError, UsageError
from train.data.challenge import ANNOTATION_NAMES, read_challenge
from train.data.pack import META_NAME, FacePack
from train.data.problems import OnError
from train.data.readers import (
    Progress,
    find_pts,
    looks_like_list,
    read_list,
    read_pts,
    split_of,
)
from train.data.sample import FaceSource

Split = Literal["train", "test"]
SYNTH_PREFIX = "synth:"
MAX_SYNTH = 10_000_000
_SYNTH = re.compile(r"synth:(\d{1,9})(?:@(\d{1,9}))?$")
_LIST_FOLDERS = (
    "",
    "list_98pt_rect_attr_train_test",
    "WFLW_annotations",
    "WFLW_annotations/list_98pt_rect_attr_train_test",
)

FORMS = (
    "a WFLW root, a folder with a landmark list, a list file, a folder of .pts files, "
    "a challenge folder with annot.pkl, a pack, or synth:N"
)


def open_source(
    text: str | Path,
    *,
    split: Split | None = None,
    on_error: OnError = "skip",
    progress: Progress | None = None,
) -> FaceSource:
    """Open whatever `text` names; `split` chooses between a train and a test list that lie side by side."""
    if str(text).startswith(SYNTH_PREFIX):
        return _synth(str(text), split)
    path = Path(text)
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, ValueError) as error:
        raise InputError(f"{str(text)[:200]!r}: cannot be opened: {error}") from error
    if is_file:
        return _open_file(path, split, on_error, progress)
    if is_folder:
        return _open_folder(path, split, on_error, progress)
    raise InputError(f"{path}: no such file or folder; expected {FORMS}")


def splits_in(text: str | Path) -> list[Split]:
    """Train and test, when `text` names a folder that holds both; else nothing to choose from."""
    folder = Path(text)
    if str(text).startswith(SYNTH_PREFIX) or not folder.is_dir() or (folder / META_NAME).is_file():
        return []
    lists = _lists(folder)
    names = [split_of(path.stem) for path in lists] if lists else _pts_splits(folder, find_pts(folder))
    return ["train", "test"] if {"train", "test"} <= set(names) else []


def _synth(text: str, split: Split | None) -> FaceSource:
    found = _SYNTH.match(text)
    if not found or not 0 < int(found[1]) <= MAX_SYNTH:
        raise UsageError(f"{text!r}: expected synth:N or synth:N@SEED with N in 1..{MAX_SYNTH}, e.g. synth:4000@1")
    if split == "test":
        raise UsageError(
            f"{text}: synthetic faces have no test list; name other faces by another seed, e.g. {text.split('@')[0]}@99"
        )
    from train.data.synth import SynthSource

    return cast("FaceSource", SynthSource(int(found[1]), seed=int(found[2] or 0)))


def _agree(path: Path, named: str | None, wanted: Split | None) -> None:
    if wanted and named and wanted != named:
        raise UsageError(f"{path}: its name says {named}, but the {wanted} split was asked for")


def _open_file(path: Path, split: Split | None, on_error: OnError, progress: Progress | None) -> FaceSource:
    if path.name == META_NAME:
        return _open_folder(path.parent, split, on_error, progress)
    _agree(path, split_of(path.stem), split)
    if path.suffix.lower() == ".pts":
        return read_pts([path], path.parent, on_error, progress=progress)
    if path.suffix.lower() == ".pkl":
        return read_challenge(path, on_error, progress)
    return read_list(path, on_error=on_error, progress=progress)


def _open_folder(folder: Path, split: Split | None, on_error: OnError, progress: Progress | None) -> FaceSource:
    if (folder / META_NAME).is_file():
        pack = FacePack(folder)
        _agree(folder, pack.split, split)
        return pack
    lists = _lists(folder)
    if lists:
        return read_list(_choose(folder, lists, split), on_error=on_error, progress=progress)
    for name in ANNOTATION_NAMES:
        if (folder / name).is_file():
            _agree(folder, split_of(name) or split_of(folder.name), split)
            return read_challenge(folder / name, on_error, progress)
    files = find_pts(folder)
    if files:
        return _open_pts(folder, files, split, on_error, progress)
    raise InputError(f"{folder}: nothing to read here; expected {FORMS}")


def _lists(folder: Path) -> list[Path]:
    """Landmark lists of a folder; those with box and flags win over bare subset lists."""
    for place in _LIST_FOLDERS:
        if not (folder / place).is_dir():
            continue
        found = sorted(path for path in (folder / place).glob("*.txt") if path.is_file())
        found = [path for path in found if path.name.startswith("list_") or looks_like_list(path)]
        rich = [path for path in found if "rect_attr" in path.name]
        if found:
            return rich or found
    return []


def _choose(folder: Path, lists: list[Path], split: Split | None) -> Path:
    if split is None:
        if len(lists) == 1:
            return lists[0]
        raise UsageError(
            f"{folder} holds several lists: {_names(lists)}; name one of them, or choose the train or test split"
        )
    fitting = [path for path in lists if split_of(path.stem) == split]
    unnamed = [path for path in lists if split_of(path.stem) is None]
    chosen = fitting or unnamed
    if not chosen:
        raise UsageError(f"{folder} has no {split} list; it has: {_names(lists)}")
    if len(chosen) > 1:
        raise UsageError(f"{folder} holds several {split} lists: {_names(chosen)}; name one of them")
    return chosen[0]


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:8]) + (", ..." if len(paths) > 8 else "")


def _pts_splits(folder: Path, files: list[Path]) -> list[str | None]:
    return [split_of(path.relative_to(folder).parent.as_posix()) or split_of(folder.name) for path in files]


def _open_pts(
    folder: Path, files: list[Path], split: Split | None, on_error: OnError, progress: Progress | None
) -> FaceSource:
    """300-W keeps its splits in folders: helen/trainset, helen/testset."""
    splits = _pts_splits(folder, files)
    if split is None:
        named = {name for name in splits if name}
        if len(named) > 1:
            raise UsageError(
                f"{folder} holds train and test faces (.pts); choose the train or test split, or name one folder"
            )
        return read_pts(files, folder, on_error, next(iter(named), None), progress)
    chosen = [path for path, name in zip(files, splits, strict=True) if name == split]
    if not chosen and any(splits):
        raise UsageError(f"{folder} has no {split} faces; its .pts files are of the other split")
    chosen = chosen or files
    return read_pts(chosen, folder, on_error, split, progress)
