"""Real photos, real detectors, the published GhostOne: what the issue asks of the whole runtime."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime import Box, FaceTracker, Landmarker
from runtime.detect import Detection, FaceRule
from runtime.geometry import crop_region
from runtime.images import Image, read_image

pytestmark = pytest.mark.data
MODEL = "landmarks/PFLD_GhostOne_112_1_opt_sim.onnx"
DETECTORS = {"yunet": "face_detection_yunet_2026may.onnx", "scrfd": "scrfd_2.5g_kps.onnx"}


@pytest.fixture(scope="session")
def ghostone(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published GhostOne, through our own importer and exporter into a bundle."""
    from export.importer import import_file
    from export.road import Options, export_bundle

    place = tmp_path_factory.mktemp("ghostone")
    import_file(shared / "models" / MODEL, place / "ghostone.ckpt")
    export_bundle(place / "ghostone.ckpt", place / "bundle", Options(exporter="torchscript", probes="synth:12@3"))
    return place / "bundle"


@pytest.fixture(scope="session")
def name_of(shared: Path) -> Callable[[str], str]:
    return lambda kind: f"{kind}:{shared / 'models' / 'detectors' / DETECTORS[kind]}"


@dataclass(frozen=True)
class Photo:
    image: Image
    truth: list[np.ndarray]
    boxes: list[Box]


@pytest.fixture(scope="session")
def photos(shared: Path) -> list[Photo]:
    folder = shared / "data" / "multiface"
    listed = json.loads((folder / "faces.json").read_text())
    return [
        Photo(
            read_image(folder / "images" / entry["image"]),
            [np.asarray(points, float).reshape(98, 2) for points in entry["landmarks98"]],
            [Box(x, y, x + w, y + h) for x, y, w, h in entry["boxes_xywh"] if min(w, h) > 0],
        )
        for entry in listed
    ]


def error_of(points: np.ndarray, truth: np.ndarray) -> float:
    return float(np.hypot(*(points - truth).T).mean() / np.hypot(*(truth[60] - truth[72])))


def overlap(one: Box, other: Box) -> float:
    w, h = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
    shared_area = max(w, 0) * max(h, 0)
    return shared_area / (one.width * one.height + other.width * other.height - shared_area)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(DETECTORS))
def test_faces_that_a_detector_finds_are_as_good_as_cut_by_their_labels(
    kind: str, ghostone: Path, photos: list[Photo], name_of: Callable[[str], str]
) -> None:
    lm = Landmarker(ghostone, "onnx", name_of(kind), score="none")
    found: list[float] = []
    oracle: list[float] = []
    labelled = 0
    for photo in photos:
        faces = lm(photo.image)
        truths = [Box.around(t) for t in photo.truth]
        labelled += len(truths)
        for truth, box, face in zip(photo.truth, truths, lm(photo.image, truths), strict=True):
            best = max(faces, key=lambda f: overlap(f.box, box), default=None)
            if best is not None and overlap(best.box, box) > 0.3:
                found.append(error_of(best.points, truth))
                oracle.append(error_of(face.points, truth))
    ratio = float(np.mean(found) / np.mean(oracle))
    print(
        f"{kind}: {len(found)} of {labelled}, NME {np.mean(found):.5f}, oracle {np.mean(oracle):.5f}, ratio {ratio:.4f}"
    )
    assert labelled == 109 and len(found) >= 0.9 * labelled
    assert np.mean(oracle) < 0.055 and ratio <= 1.10


def test_batch_equals_one_by_one_and_sixty_faces(ghostone: Path, photos: list[Photo]) -> None:
    """ONNX Runtime may sum a batch in another order than a single face: at most a few ten-thousandths of a pixel."""
    photo = max(photos, key=lambda p: len(p.boxes))
    box = Box.around(photo.truth[0]) if photo.truth else Box(100, 100, 200, 200)
    boxes = [box.expand(0.8 + place / 100) for place in range(60)]
    lm = Landmarker(ghostone, "onnx", "whole", score="none")
    together = lm(photo.image, boxes)
    assert len(together) == 60
    for place in (0, 7, 31, 59):
        (alone,) = lm(photo.image, [boxes[place]])
        assert np.abs(alone.points - together[place].points).max() <= 2e-6 * alone.region.side


@pytest.mark.slow
def test_c_and_onnx_runtime_find_the_same_points(ghostone: Path, photos: list[Photo], tmp_path: Path) -> None:
    """Needs a compiler: the C of the same checkpoint, through the whole landmarker."""
    from export.links_c import CRequest
    from export.road import Options, export_bundle
    from runtime.backends.choose import open_backend
    from runtime.bundle import Bundle
    from runtime.errors import MissingBackendError

    options = Options(exporter="torchscript", probes="synth:12@3", c=CRequest())
    try:
        export_bundle(ghostone.parent / "ghostone.ckpt", tmp_path / "bundle", options)
        open_backend(Bundle.open(tmp_path / "bundle"), "c")
    except MissingBackendError as error:
        pytest.skip(str(error))
    c, ort = (Landmarker(tmp_path / "bundle", backend, "whole", score="none") for backend in ("c", "onnx"))
    away, alone = [], []
    for photo in photos[:8]:
        boxes = [box for box in photo.boxes if box.width > 8]
        together = c(photo.image, boxes)
        away += [np.abs(f.points - g.points).max() for f, g in zip(together, ort(photo.image, boxes), strict=True)]
        alone += [
            np.array_equal(c(photo.image, [box])[0].points, f.points)
            for box, f in zip(boxes[:2], together[:2], strict=True)
        ]
    print(f"C against ONNX Runtime: {max(away):.6f} px of the photo, {len(away)} faces")
    assert max(away) <= 0.01 and all(alone)


def montage(photos: list[Photo], count: int, side: int) -> tuple[Image, list[np.ndarray]]:
    """A photo of many faces of one size, with their labels."""
    tiles, truths = [], []
    large = [(p, t) for p in photos for t in p.truth if np.ptp(t, axis=0).max() > 60]
    columns = 10
    for place in range(count):
        photo, truth = large[place % len(large)]
        (cx, cy), reach = Box.around(truth).centre, np.ptp(truth, axis=0).max()
        tile = 2 * side
        scale = side / reach
        move = np.array([[scale, 0, tile / 2 - scale * cx], [0, scale, tile / 2 - scale * cy]])
        tiles.append(cv2.warpAffine(photo.image, move, (tile, tile), flags=cv2.INTER_AREA))
        corner = np.array([place % columns, place // columns]) * tile
        truths.append(truth @ move[:, :2].T + move[:, 2] + corner)
    rows = [np.hstack(tiles[at : at + columns]) for at in range(0, count, columns)]
    return np.vstack(rows), truths


def test_a_crowd_of_sixty(ghostone: Path, photos: list[Photo], name_of: Callable[[str], str]) -> None:
    image, truths = montage(photos, 60, 48)
    faces = Landmarker(ghostone, "onnx", name_of("yunet"))(image)
    hits = [max((overlap(f.box, Box.around(t)) for f in faces), default=0) > 0.3 for t in truths]
    assert sum(hits) >= 50
    assert np.mean([f.score for f in faces]) > 0.8


def test_faces_of_twelve_pixels(ghostone: Path, photos: list[Photo], name_of: Callable[[str], str]) -> None:
    image, truths = montage(photos, 20, 12)
    lm = Landmarker(ghostone, "onnx", name_of("yunet"))
    own = lm(image, [Box.around(t) for t in truths])
    assert len(own) == 20 and all(np.isfinite(f.points).all() for f in own)
    assert np.median([error_of(f.points, t) for f, t in zip(own, truths, strict=True)]) < 0.15
    for face in lm(image):
        assert face.box.width < 40


def test_faces_cut_by_the_border(ghostone: Path, photos: list[Photo], name_of: Callable[[str], str]) -> None:
    lm = Landmarker(ghostone, "onnx", name_of("scrfd"))
    errors = []
    for photo in photos[:12]:
        for truth in photo.truth:
            x, y = int(truth[:, 0].min() + 0.15 * np.ptp(truth[:, 0])), max(0, int(truth[:, 1].min()) - 4)
            part = np.ascontiguousarray(photo.image[y:, x:])
            (face,) = lm(part, [Box.around(truth - [x, y])])
            errors.append(error_of(face.points, truth - [x, y]))
            assert all(np.isfinite(f.points).all() for f in lm(part))
    assert len(errors) >= 5 and np.median(errors) < 0.12


def test_no_face(ghostone: Path, name_of: Callable[[str], str]) -> None:
    noise = np.random.default_rng(0).integers(0, 60, (300, 400, 3), dtype=np.uint8)
    for kind in DETECTORS:
        lm = Landmarker(ghostone, "onnx", name_of(kind))
        for image in (noise, np.zeros((1, 1, 3), np.uint8), np.full((7, 2000, 3), 128, np.uint8)):
            assert lm(image) == []


def test_rotated_photos(ghostone: Path, photos: list[Photo], name_of: Callable[[str], str]) -> None:
    """Turned by 40 degrees: with `upright` the crop follows the eyes, and landmarks are much better than without."""
    level, upright = [], []
    lms = [Landmarker(ghostone, "onnx", name_of("scrfd"), upright=flag, score="none") for flag in (False, True)]
    for photo in [p for p in photos if p.truth][:10]:
        height, width = photo.image.shape[:2]
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), 40, 0.8)
        image = cv2.warpAffine(photo.image, turn, (width, height))
        for results, lm in zip((level, upright), lms, strict=True):
            faces = lm(image)
            for truth in photo.truth:
                moved = truth @ turn[:, :2].T + turn[:, 2]
                best = max(faces, key=lambda f: overlap(f.box, Box.around(moved)), default=None)
                if best is not None and overlap(best.box, Box.around(moved)) > 0.2:
                    results.append(error_of(best.points, moved))
    print(f"level {np.mean(level):.4f} upright {np.mean(upright):.4f} of {len(upright)}")
    assert len(upright) >= 5 and np.median(upright) < 0.09 and np.mean(upright) < np.mean(level)


def test_score_tells_faces_from_other_things(ghostone: Path, photos: list[Photo]) -> None:
    lm = Landmarker(ghostone, "onnx", "whole")
    rng = np.random.default_rng(0)
    good: list[float] = []
    bad: list[float] = []
    for photo in photos[:24]:
        good += [f.score for f in lm(photo.image, [Box.around(t) for t in photo.truth])]
        height, width = photo.image.shape[:2]
        squares = [Box(x, y, x + s, y + s) for x, y, s in _empty_squares(photo, width, height, rng)]
        bad += [f.score for f in lm(photo.image, squares)]
    wins = np.mean(np.asarray(good)[:, None] > np.asarray(bad)[None])
    print(f"ROC area {wins:.4f}, {len(good)} faces, {len(bad)} squares")
    assert wins > 0.97


def _empty_squares(photo: Photo, width: int, height: int, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Places that touch no box of the photo; docs/runtime.md has the full measurement."""
    found = []
    for _ in range(60):
        side = rng.uniform(30, 120)
        x, y = rng.uniform(0, max(1, width - side)), rng.uniform(0, max(1, height - side))
        if all(overlap(Box(x, y, x + side, y + side), box) == 0 for box in photo.boxes):
            found.append((x, y, side))
    return found[:6]


def test_two_people_cross(ghostone: Path, photos: list[Photo], shared: Path) -> None:
    """Two real faces slide past each other, one in front; a detector that misses the hidden one."""
    people = [p for p in photos if p.truth]
    chosen = [(p.image, t) for p in people for t in p.truth if np.ptp(t, axis=0).max() > 90][:2]
    cards = []
    for image, truth in chosen:
        (cx, cy), reach = Box.around(truth).centre, np.ptp(truth, axis=0).max()
        scale = 100 / reach
        move = np.array([[scale, 0, 80 - scale * cx], [0, scale, 80 - scale * cy]])
        cards.append(cv2.warpAffine(image, move, (160, 160), flags=cv2.INTER_AREA))

    class Told:
        name, rule = "told", FaceRule()

        def __init__(self) -> None:
            self.boxes: list[Box] = []

        def __call__(self, image: Image) -> list[Detection]:
            return [Detection(box, 0.9) for box in self.boxes]

    told = Told()
    tracker = FaceTracker(Landmarker(ghostone, "onnx", told))
    where: list[dict[int, float]] = []
    for step in range(56):
        image = np.full((240, 700, 3), 90, np.uint8)
        left, right = 100 + 9 * step, 600 - 9 * step
        image[50:210, left - 80 : left + 80] = cards[0]
        image[40:200, right - 80 : right + 80] = cards[1]
        told.boxes = [Box(right - 50, 70, right + 50, 170)]
        if abs(left - right) > 90:
            told.boxes.append(Box(left - 50, 80, left + 50, 180))
        where.append({int(f.track or 0): f.landmark_box.centre[0] for f in tracker(image, step / 25)})
    first, last = where[2], where[-1]
    assert set(first) == {1, 2} == set(last)
    assert all((last[n] - first[n]) * (1 if first[n] < 350 else -1) > 200 for n in (1, 2)), (first, last)


def test_a_clip_has_one_face_and_one_id(ghostone: Path, shared: Path, name_of: Callable[[str], str]) -> None:
    from runtime.frames import open_clip

    lm = Landmarker(ghostone, "onnx", name_of("yunet"))
    tracker = FaceTracker(lm)
    ids: set[int] = set()
    seen = 0
    with open_clip(str(shared / "data" / "video" / "d18.mp4")) as clip:
        for frame in clip.frames:
            if frame.number == 45:
                break
            faces = tracker(frame.image, frame.seconds) if frame.image is not None else []
            ids |= {int(f.track or 0) for f in faces}
            seen += len(faces)
    assert ids == {1} and seen == 45


def test_regions_of_the_published_spec_are_upstream_s(ghostone: Path) -> None:
    lm = Landmarker(ghostone, "onnx", "whole", score="none")
    assert lm.spec.crop.rounding == "pixel" and lm.spec.coordinates == "corner"
    region = lm.region_of(Detection(Box(10.4, 20.6, 110.2, 100.9)), FaceRule())
    assert region == crop_region(FaceRule().apply(Box(10.4, 20.6, 110.2, 100.9)), lm.spec.crop)
