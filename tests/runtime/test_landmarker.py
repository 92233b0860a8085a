"""The front door: pictures of every kind in, faces in image pixels out."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime import Box, CropRule, Face, Landmarker, Region
from runtime.crops import cut, map_back
from runtime.detect import Detection, Detector, FaceRule
from runtime.errors import InputError, ToolkitError, UsageError
from runtime.geometry import output_to_points, warp
from runtime.images import write_image
from runtime.inputs import as_image
from tests.runtime.blobs import BlobFaces, Given, box_of, scene
from tests.runtime.small import small_spec

ROOT = Path(__file__).resolve().parents[2]


def picture(height: int = 90, width: int = 120, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


BOXES = [(10, 12, 50, 60), (60.5, 20.25, 100, 70), (-20, -15, 30, 25), (90, 60, 140, 100), (40, 40, 44, 44)]


def test_batch_equals_one_by_one(small_bundle: Path) -> None:
    lm = Landmarker(small_bundle, "onnx")
    image = picture()
    together = lm(image, BOXES * 20)
    alone = [lm(image, [box])[0] for box in BOXES]
    for place, face in enumerate(together):
        assert np.abs(face.points - alone[place % len(BOXES)].points).max() <= 1e-4
        assert face.box == alone[place % len(BOXES)].box
    assert np.array_equal(lm(image, BOXES)[2].points, lm(image, BOXES)[2].points)


def test_all_faces_go_through_in_one_batch() -> None:
    model = BlobFaces()
    assert len(Landmarker(model, score="none")(picture(), [(0, 0, 20, 20)] * 60)) == 60
    assert model.calls == [60]
    model.calls.clear()
    assert len(Landmarker(model, score="none")(picture(), [(0, 0, 20, 20)] * 150)) == 150
    assert model.calls == [64, 64, 22]


def test_landmarks_lie_on_the_face_wherever_it_is() -> None:
    lm = Landmarker(BlobFaces())
    for cx, cy, side in ((60.0, 45.0, 40), (8.0, 8.0, 40), (115.0, 80.0, 40), (30.0, 50.0, 12)):
        image = scene(120, 90, [(cx, cy, side, (200, 180, 160))])
        (face,) = lm(image, [box_of(cx, cy, side)])
        seen = Box(
            max(cx - side / 2, -0.5), max(cy - side / 2, -0.5), min(cx + side / 2, 119.5), min(cy + side / 2, 89.5)
        )
        away = np.abs(np.subtract(face.landmark_box.centre, seen.centre)).max()
        assert away < 0.1 * side, (cx, cy, side)


def test_crops_and_points_are_those_of_the_training_geometry() -> None:
    for spec in (
        small_spec(),
        replace(small_spec(), coordinates="corner", crop=CropRule(scale=1.2, padding=9, rounding="pixel")),
    ):
        regions = [Region(40.2, 30.7, 50.3), Region(3.0, 88.0, 41.0), Region(60.0, 40.0, 30.0, 0.4)]
        image = picture()
        crops = cut(image, regions, spec)
        for crop, region in zip(crops, regions, strict=True):
            assert np.array_equal(
                crop, warp(image, region.to_crop(spec.input_size), spec.input_size, spec.crop.padding)
            )
        outputs = np.random.default_rng(1).uniform(0, 1, (3, 98, 2)).astype(np.float32)
        wanted = [output_to_points(o, r, spec) for o, r in zip(outputs, regions, strict=True)]
        assert np.abs(map_back(outputs, regions, spec) - wanted).max() < 1e-4
        assert np.abs(map_back(outputs[:2], regions[:2], spec) - wanted[:2]).max() < 1e-4


def test_crops_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(small_spec(), crop=CropRule(scale=1.2, padding=77))
    regions = [
        Region(40.2, 30.7, 50.3),
        Region(3.0, 88.0, 41.0),
        Region(60.0, 40.0, 30.0, 0.4),
        Region(500.0, 9.0, 20.0),
    ]
    image = picture()
    wanted = cut(image, regions, spec)
    monkeypatch.setitem(sys.modules, "cv2", None)
    found = cut(image, regions, spec)
    away = np.abs(found.astype(int) - wanted)
    assert away.max() <= 4 and away.mean() < 0.3, "OpenCV rounds its weights to 1/32"
    faces = Landmarker(BlobFaces())(image, BOXES)
    assert len(faces) == len(BOXES)
    with pytest.raises(ToolkitError, match="needs the package cv2"):
        Landmarker(BlobFaces())("photo.jpg" if Path("photo.jpg").exists() else str(ROOT / "docs/images/synth.png"))


def test_without_opencv_a_back_end_that_can_cut_does(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cutter(BlobFaces):
        def crop(self, image: np.ndarray, box: Box) -> np.ndarray:
            self.calls.append(-1)
            return cut(image, [Region(*box.centre, 1.2 * box.width)], self.spec)[0]

    image = scene(120, 90, [(60, 45, 40, (200, 180, 160))])
    model = Cutter()
    wanted = Landmarker(model, score="none")(image, [box_of(60, 45, 40)])[0].points
    assert -1 not in model.calls
    monkeypatch.setitem(sys.modules, "cv2", None)
    found = Landmarker(model, score="none")(image, [box_of(60, 45, 40)])[0].points
    assert -1 in model.calls and np.abs(found - wanted).max() < 1


def test_a_numpy_alone_process_gets_landmarks(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.modules['cv2'] = sys.modules['onnxruntime'] = None\n"
        "import numpy as np\nfrom runtime import Landmarker, ModelSpec\n"
        "class M:\n    name = 'm'\n    spec = ModelSpec('pfld', input_size=64)\n"
        "    def landmarks(self, crops): return np.full((len(crops), 98, 2), 0.5, np.float32)\n"
        "f = Landmarker(M(), score='none')(np.zeros((50, 50, 3), np.uint8), [(10, 10, 30, 30)])[0]\n"
        "print(f.points[0].tolist(), sorted(m for m in ('cv2', 'torch', 'onnx') if sys.modules.get(m)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[20.0, 20.0] []"


def exif(image: np.ndarray, orientation: int) -> bytes:
    """A JPEG that says it must be turned."""
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    tiff = b"II*\0" + (8).to_bytes(4, "little") + (1).to_bytes(2, "little")
    tiff += (0x112).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")
    tiff += orientation.to_bytes(2, "little") + bytes(2) + bytes(4)
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]


def test_every_kind_of_picture(tmp_path: Path) -> None:
    image = picture()
    write_image(tmp_path / "a.png", image)
    data = (tmp_path / "a.png").read_bytes()
    forms = [image, tmp_path / "a.png", str(tmp_path / "a.png"), data, bytearray(data), memoryview(data)]
    for form in forms:
        assert np.array_equal(as_image(form), image)
    assert np.array_equal(as_image(image[..., ::-1], rgb=True), image)
    assert np.array_equal(as_image(np.dstack([image, image[..., :1]])), image)
    assert np.array_equal(as_image(np.dstack([image[..., ::-1], image[..., :1]]), rgb=True), image)
    grey = image[..., 0]
    assert np.array_equal(as_image(grey), np.dstack([grey] * 3)) and np.array_equal(
        as_image(grey[..., None]), as_image(grey)
    )
    assert as_image(image[::-1, ::2]).flags.c_contiguous
    for turn, orientation in (
        (None, 1),
        (cv2.ROTATE_180, 3),
        (cv2.ROTATE_90_CLOCKWISE, 6),
        (cv2.ROTATE_90_COUNTERCLOCKWISE, 8),
    ):
        stored = image if turn is None else cv2.rotate(image, {0: 2, 1: 1, 2: 0}[turn])
        assert np.abs(as_image(exif(stored, orientation)).astype(int) - image).mean() < 3, orientation


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.zeros((4, 4, 3), np.float32), "expected uint8, found float32"),
        (np.zeros((4, 4, 3), np.uint16), "expected uint8, found uint16"),
        (np.zeros((4, 4, 2), np.uint8), r"found \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), "found"),
        (np.zeros(5, np.uint8), "found"),
        (b"plain text, renamed to .jpg", "it holds text"),
        (b"", "first bytes are none"),
        ([1, 2], "expected an array, a path or bytes, found list"),
        ("no/such/file.jpg", "no such file"),
        (b"GIF89a" + bytes(20), "cannot be decoded"),
    ],
)
def test_what_is_no_picture_is_one_clear_line(bad: object, words: str) -> None:
    with pytest.raises(ToolkitError, match=words):
        Landmarker(BlobFaces())(bad, [(0, 0, 9, 9)])  # type: ignore[arg-type]


def test_damaged_and_odd_files(tmp_path: Path) -> None:
    lm = Landmarker(BlobFaces(), detector="whole")
    image = picture()
    png = cv2.imencode(".png", image)[1].tobytes()
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    for whole in (png, jpeg):
        for part in (0.3, 0.6, 0.95):
            with pytest.raises(InputError, match="cut off"):
                lm(whole[: int(len(whole) * part)])
    noise = bytearray(jpeg)
    noise[len(noise) // 2 :: 7] = b"\x55" * len(noise[len(noise) // 2 :: 7])
    try:
        assert len(lm(bytes(noise))) == 1
    except InputError as error:
        assert "decoded" in str(error)
    deep = cv2.imencode(".png", (image.astype(np.uint16) << 8) | 7)[1].tobytes()
    assert np.array_equal(as_image(deep), image) and len(lm(deep)) == 1
    one = cv2.imencode(".png", image[:1, :1])[1].tobytes()
    assert len(lm(one)) == 1
    bomb = png[:16] + (20000).to_bytes(4, "big") * 2 + png[24:]
    with pytest.raises(InputError, match="20000 x 20000 pixels, the limit is 100000000"):
        lm(bomb)


def test_gif_is_read_or_refused_in_words() -> None:
    gif = bytes.fromhex("47494638376101000100800000ffffff0000002c00000000010001000002024401003b")
    try:
        assert as_image(gif).shape == (1, 1, 3)
    except InputError as error:
        assert "cannot be decoded as a picture" in str(error)


def test_a_picture_of_20000_pixels_a_side_and_a_very_long_one() -> None:
    huge = np.zeros((20000, 20000, 3), np.uint8)
    huge[15000:15060, 19000:19060] = 200
    (face,) = Landmarker(BlobFaces())(huge, [(18999.5, 14999.5, 19059.5, 15059.5)])
    assert np.abs(np.subtract(face.landmark_box.centre, (19029.5, 15029.5))).max() < 3
    spec = small_spec()
    long = np.zeros((40, 40000, 3), np.uint8)
    long[10:30, 39000:39020] = 200
    (face,) = Landmarker(BlobFaces())(long, [(38999.5, 9.5, 39019.5, 29.5)])
    assert np.abs(np.subtract(face.landmark_box.centre, (39009.5, 19.5))).max() < 1
    wide = Region(20000.0, 20.0, 40000.0)
    assert cut(long, [wide], spec).shape == (1, 64, 64, 3)


def test_faces_are_frozen_and_complete() -> None:
    image = scene(120, 90, [(60, 45, 40, (200, 180, 160))])
    (face,) = Landmarker(BlobFaces(), detector="whole")(image)
    assert isinstance(face, Face) and face.points.dtype == np.float32 and face.points.shape == (98, 2)
    with pytest.raises(FrozenInstanceError):
        face.score = 1.0  # type: ignore[misc]
    back = (face.crop_points + 0.5) / 64 * face.region.side + [face.region.cx, face.region.cy] - face.region.side / 2
    assert np.abs(back - face.points).max() < 1e-2
    pose = face.pose
    assert pose is not None and max(abs(pose.yaw), abs(pose.pitch), abs(pose.roll)) < 5
    facts = face.to_dict()
    assert set(facts) == {"box", "points", "score", "detection", "track", "pose", "eye_opening", "mouth_opening"}
    assert face.track is None and face.eye_opening is not None and face.mouth_opening is not None


def test_a_second_pass_cuts_around_the_landmarks_of_the_first() -> None:
    image = scene(200, 200, [(110, 100, 60, (200, 180, 160))])
    loose = box_of(95, 95, 90)
    first = Landmarker(BlobFaces())(image, [loose])[0]
    second = Landmarker(BlobFaces(), passes=2)(image, [loose])[0]
    assert first.region.side == pytest.approx(108)
    assert second.region.side == pytest.approx(60 * 1.2, rel=0.1)
    assert abs(second.region.cx - 110) < 3 and second.box == loose


def test_upright_turns_the_crop_by_the_eyes() -> None:
    class Tilted(Given):
        def __call__(self, image: np.ndarray) -> list[Detection]:
            return [Detection(box_of(100, 100, 60), 0.9, ((90.0, 90.0), (100.0, 100.0)))]

    image = picture(200, 200)
    level = Landmarker(BlobFaces(), detector=Tilted())(image)[0]
    turned = Landmarker(BlobFaces(), detector=Tilted(), upright=True)(image)[0]
    assert level.region.angle == 0 and turned.region.angle == pytest.approx(np.pi / 4)


def test_the_rule_of_a_detector_and_of_own_boxes() -> None:
    detector = Given(FaceRule(0.5, (0.1, 0.2)))
    assert isinstance(detector, Detector)
    detector.boxes = [Box(0, 0, 80, 100)]
    image = picture(200, 200)
    (face,) = Landmarker(BlobFaces(), detector=detector)(image)
    assert (face.region.cx, face.region.cy, face.region.side) == pytest.approx((50, 70, 60))
    (own,) = Landmarker(BlobFaces(), box_rule=FaceRule(0.5))(image, np.array([[0, 0, 80, 100]]))
    assert (own.region.cx, own.region.cy, own.region.side) == pytest.approx((40, 50, 60))
    assert Landmarker(BlobFaces())(image, []) == []
    detector.boxes = []
    assert Landmarker(BlobFaces(), detector=detector)(image) == []


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([(1, 2, 3)], "found 3"),
        ([(5, 5, 1, 9)], "expected x0 < x1"),
        ([(0, 0, float("nan"), 1)], "must be finite"),
        ([("a", 1, 2, 3)], "expected four numbers"),
        ([5], "expected four numbers"),
        ([(0, 0, 1, 1)] * 2001, "the limit is 2000"),
    ],
)
def test_bad_boxes(boxes: list, words: str) -> None:
    with pytest.raises(ToolkitError, match=words):
        Landmarker(BlobFaces())(picture(), boxes)


def test_bad_settings(small_bundle: Path) -> None:
    for settings, words in (
        ({"passes": 3}, "expected 1 or 2"),
        ({"threads": 0}, "at least 1"),
        ({"score": "magic"}, "expected flip, shape, none"),
        ({"detector": "yunet:no-such.onnx"}, "no such file"),
        ({"backend": "nothing"}, "unknown back end"),
    ):
        with pytest.raises(ToolkitError, match=words):
            Landmarker(small_bundle, **settings)
    with pytest.raises(UsageError, match="unknown detector 'magic'; known: auto, haar, whole, yunet:FILE"):
        Landmarker(BlobFaces(), detector="magic")(picture())
    with pytest.raises(InputError, match="no such directory"):
        Landmarker("nowhere")


def test_numbers_that_are_no_numbers_are_an_error() -> None:
    class Broken(BlobFaces):
        def landmarks(self, crops: np.ndarray) -> np.ndarray:
            return np.full((len(crops), 98, 2), np.nan, np.float32)

    with pytest.raises(InputError, match="NaN or infinity"):
        Landmarker(Broken())(picture(), [(0, 0, 9, 9)])


def test_threads_may_share_a_landmarker_on_onnx_runtime(small_bundle: Path) -> None:
    lm = Landmarker(small_bundle, "onnx")
    wanted = [lm(picture(seed=seed), BOXES)[1].points for seed in range(4)]
    wrong: list[int] = []

    def work(seed: int) -> None:
        found = [lm(picture(seed=seed), BOXES)[1].points for _ in range(20)]
        wrong.extend(seed for points in found if not np.array_equal(points, wanted[seed]))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_times_and_the_front_doors(small_bundle: Path) -> None:
    import toolkit

    assert toolkit.Landmarker is Landmarker
    with toolkit.Landmarker(small_bundle, "onnx") as lm:
        result = lm.run(io.BytesIO(cv2.imencode(".png", picture())[1].tobytes()).getvalue(), BOXES)
    assert set(result.times.stages) == {"decode", "detect", "crop", "model", "back", "score"}
    assert all(seconds >= 0 for seconds in result.times.stages.values()) and result.times.total > 0
    assert (result.times + result.times).model == pytest.approx(2 * result.times.model)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        toolkit.nothing  # noqa: B018


def test_auto_without_a_detector_says_what_it_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.detect import choose

    monkeypatch.delenv(choose.VARIABLE, raising=False)
    choose._announced.clear()
    lm = Landmarker(BlobFaces())
    lm(picture())
    lm(picture())
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and told[0].startswith("detector: ")
    monkeypatch.setenv(choose.VARIABLE, "whole")
    assert Landmarker(BlobFaces()).detector.name == "whole image"
    assert os.environ[choose.VARIABLE] == "whole"
