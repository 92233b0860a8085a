"""Small data sets made on the spot: smooth noise as photos, a plausible frontal face as points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.layouts import IBUG68_IN_WFLW98, WFLW98
from train.data.pack import FacePack, PackSettings, build_pack
from train.data.readers import ListSource, read_list

SIZE = 120
LIST_FOLDER = Path("WFLW_annotations") / "list_98pt_rect_attr_train_test"


def frontal_points() -> NDArray[np.float64]:
    """98 points, mirror images of each other about x = 0, left eye at negative x; about -1..1."""
    rng = np.random.default_rng(98)
    points = np.zeros((98, 2))
    flip = WFLW98.flip
    for index in range(98):
        partner = flip[index]
        if partner == index:
            points[index] = 0.0, rng.uniform(-0.8, 0.9)
        elif index < partner:
            points[index] = rng.uniform(-1, -0.1), rng.uniform(-0.8, 0.9)
            points[partner] = -points[index, 0], points[index, 1]
    points[60], points[72] = (-0.6, -0.3), (0.6, -0.3)
    return points


def face_points(seed: int, size: int = SIZE) -> NDArray[np.float64]:
    """The frontal face somewhere on a photo, rounded as lists round."""
    rng = np.random.default_rng(seed)
    centre, radius = size / 2 + rng.uniform(-6, 6, 2), rng.uniform(0.2, 0.3) * size
    return np.round(frontal_points() * radius + centre + rng.normal(0, 0.5, (98, 2)), 4)


def smooth_photo(seed: int, size: int = SIZE) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    blurred = cv2.GaussianBlur(noise, (0, 0), 3).astype(np.float32)
    return np.clip((blurred - 127) * 5 + 127, 0, 255).astype(np.uint8)


def list_line(points: NDArray[np.float64], name: str, flags: Sequence[int] | None = None) -> str:
    numbers = " ".join(f"{value:.4f}" for value in points.ravel())
    low, high = points.min(0), points.max(0)
    box = " ".join(str(int(v)) for v in (*np.floor(low), *np.ceil(high)))
    return f"{numbers} {box} {' '.join(map(str, flags or [0] * 6))} {name}"


def write_photos(folder: Path, names: Sequence[str]) -> None:
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), smooth_photo(seed))


def write_wflw(root: Path, count: int = 6, split: str = "train", points: int = 98) -> Path:
    """A WFLW root with one list; face k lies on photo k, flag k % 6 is set."""
    names = [f"{split}/{index:03d}.png" for index in range(count)]
    write_photos(root / "WFLW_images", names)
    lines = []
    for index, name in enumerate(names):
        labelled = face_points(index)
        labelled = labelled if points == 98 else labelled[list(IBUG68_IN_WFLW98)]
        lines.append(list_line(labelled, name, [int(at == index % 6) for at in range(6)]))
    path = root / LIST_FOLDER / f"list_{points}pt_rect_attr_{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def wflw(tmp_path: Path) -> Path:
    """The list of a small WFLW root."""
    return write_wflw(tmp_path / "wflw")


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> ListSource:
    return read_list(write_wflw(tmp_path_factory.mktemp("faces"), 23))


@pytest.fixture(scope="session")
def pack(faces: ListSource, tmp_path_factory: pytest.TempPathFactory) -> FacePack:
    return build_pack(faces, tmp_path_factory.mktemp("packs") / "faces.pack", PackSettings(96))


@pytest.fixture(scope="session")
def pack68(tmp_path_factory: pytest.TempPathFactory) -> FacePack:
    source = read_list(write_wflw(tmp_path_factory.mktemp("faces68"), 9, points=68))
    return build_pack(source, tmp_path_factory.mktemp("packs") / "faces68.pack", PackSettings(96))


@pytest.fixture(scope="session")
def wflw_maker() -> Callable[..., Path]:
    return write_wflw


@pytest.fixture(scope="session")
def point_maker() -> Callable[..., NDArray[np.float64]]:
    return face_points


@pytest.fixture(scope="session")
def line_maker() -> Callable[..., str]:
    return list_line
