"""Detectors: our own decoding against nets whose answer is known, and the words for what cannot be."""

from __future__ import annotations

import types
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime.detect import Detector, FaceRule
from runtime.detect.anchors import RetinaFace, Scrfd, priors
from runtime.detect.choose import open_detector
from runtime.detect.haar import missing_reason
from runtime.detect.scaling import without_overlaps
from runtime.detect.whole import WholeImage
from runtime.errors import InputError, MissingBackendError, ToolkitError, UsageError
from runtime.geometry import Box

SIDE = 64


def constant_net(path: Path, outputs: list[np.ndarray], side: int | str = SIDE) -> Path:
    """A net that says the same of every picture: each output is a constant plus nought times the input's mean."""
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nought"], ["nothing"]),
    ]
    weights = [numpy_helper.from_array(np.float32(0), "nought")]
    infos = []
    for place, values in enumerate(outputs):
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"c{place}"))
        nodes.append(helper.make_node("Add", [f"c{place}", "nothing"], [f"o{place}"]))
        infos.append(helper.make_tensor_value_info(f"o{place}", TensorProto.FLOAT, values.shape))
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, side, side])
    graph = helper.make_graph(nodes, "constant", [picture], infos, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(onnx.ModelProto.SerializeToString(model))
    return path


def scrfd_net(path: Path, wanted: list[tuple[int, int, int, Box, float]], side: int | str = SIDE) -> Path:
    """Two anchors per cell; `wanted` are (stride, column, row, box, score)."""
    levels: dict[int, list[np.ndarray]] = {}
    for stride in (8, 16, 32):
        cells = (SIDE // stride) ** 2 * 2
        levels[stride] = [np.zeros((1, cells, width), np.float32) for width in (1, 4, 10)]
    for stride, column, row, box, score in wanted:
        place = 2 * (row * (SIDE // stride) + column) + 1
        x, y = column * stride, row * stride
        levels[stride][0][0, place] = score
        levels[stride][1][0, place] = np.array([x - box.x0, y - box.y0, box.x1 - x, box.y1 - y]) / stride
        eyes = np.array([box.x0 + 3, box.y0 + 4, box.x1 - 3, box.y0 + 4, *[0] * 6]).reshape(5, 2)
        levels[stride][2][0, place] = ((eyes - [x, y]) / stride).reshape(-1)
    return constant_net(path, [levels[s][k] for k in range(3) for s in (8, 16, 32)], side)


def close(box: Box, other: Box, scale: float = 1.0) -> bool:
    """Equal after the photo was scaled; pixel centres are integers, so edges move by the half pixel too."""
    a = [(v + 0.5) / scale - 0.5 for v in (other.x0, other.y0, other.x1, other.y1)]
    return bool(np.allclose((box.x0, box.y0, box.x1, box.y1), a, atol=1e-3))


def test_scrfd_boxes_come_back(tmp_path: Path) -> None:
    small, large = Box(10, 12, 22, 25), Box(30, 20, 62, 60)
    wanted = [
        (8, 2, 2, small, 0.8),
        (32, 1, 1, large, 0.9),
        (8, 2, 3, Box(10.5, 12, 22, 25.5), 0.7),
        (16, 0, 0, small, 0.2),
    ]
    net = Scrfd(scrfd_net(tmp_path / "scrfd.onnx", wanted))
    found = net(np.zeros((SIDE, SIDE, 3), np.uint8))
    assert [round(d.score or 0, 3) for d in found] == [0.9, 0.8] and isinstance(net, Detector)
    assert close(found[0].box, large) and close(found[1].box, small)
    assert found[1].eyes is not None and np.allclose(found[1].eyes, [(13, 16), (19, 16)], atol=1e-3)


@pytest.mark.parametrize(("width", "height"), [(128, 128), (256, 64), (30, 50), (1, 1), (3000, 20)])
def test_boxes_are_in_photo_pixels_whatever_its_size(tmp_path: Path, width: int, height: int) -> None:
    face = Box(4, 1, 12, 8)
    net = Scrfd(scrfd_net(tmp_path / "scrfd.onnx", [(8, 1, 0, face, 0.9)]))
    found = net(np.zeros((height, width, 3), np.uint8))
    assert len(found) == 1 and close(found[0].box, face, min(1.0, SIDE / max(width, height)))


def test_retinaface_boxes_come_back(tmp_path: Path) -> None:
    centres, sides = priors(SIDE, SIDE)
    assert len(centres) == 2 * (64 + 16 + 4) and centres[0].tolist() == [4, 4] and sides[:2, 0].tolist() == [16, 32]
    box, place = Box(8, 20, 40, 50), 2 * 64 + 2 * 5
    location, classes = np.zeros((1, len(centres), 4)), np.tile([[[0.9, 0.1]]], (1, len(centres), 1))
    points = np.zeros((1, len(centres), 10))
    (cx, cy), side = centres[place], sides[place, 0]
    location[0, place] = [
        (box.centre[0] - cx) / side / 0.1,
        (box.centre[1] - cy) / side / 0.1,
        np.log(box.width / side) / 0.2,
        np.log(box.height / side) / 0.2,
    ]
    points[0, place, :4] = np.array([15 - cx, 30 - cy, 33 - cx, 30 - cy]) / side / 0.1
    classes[0, place] = [0.03, 0.97]
    for name, scores in (("soft.onnx", classes), ("raw.onnx", np.log(classes) + 3)):
        (found,) = RetinaFace(constant_net(tmp_path / name, [points, scores, location]))(
            np.zeros((64, 64, 3), np.uint8)
        )
        assert close(found.box, box) and found.score == pytest.approx(0.97, abs=1e-4)
        assert found.eyes is not None and np.allclose(found.eyes, [(15, 30), (33, 30)], atol=1e-3)


def test_a_file_of_another_kind_is_refused_in_words(tmp_path: Path) -> None:
    scrfd = scrfd_net(tmp_path / "a.onnx", [])
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(InputError, match="no RetinaFace"):
        RetinaFace(scrfd)(image)
    other = constant_net(tmp_path / "b.onnx", [np.zeros((1, 5, 2))])
    with pytest.raises(InputError, match="not an SCRFD with key points: its outputs are"):
        Scrfd(other)(image)
    (tmp_path / "text.onnx").write_text("hello")
    for kind in ("scrfd", "retinaface", "yunet"):
        with pytest.raises(ToolkitError, match=r"text\.onnx"):
            open_detector(f"{kind}:{tmp_path / 'text.onnx'}")(image)


def test_names(tmp_path: Path) -> None:
    path = scrfd_net(tmp_path / "my_scrfd_2.5g.onnx", [])
    assert open_detector(str(path)).name == open_detector(f"scrfd:{path}").name == "SCRFD"
    assert open_detector("whole").name == "whole image"
    rule = FaceRule(0.5, (0.1, 0.2))
    assert open_detector(f"scrfd:{path}", rule).rule == rule and open_detector("whole", rule).rule == rule
    for bad in ("scrfd", "yunet:", "nothing", "whole:file"):
        with pytest.raises(UsageError, match="detector"):
            open_detector(bad)


def test_whole_image() -> None:
    (found,) = WholeImage()(np.zeros((1, 1, 3), np.uint8))
    assert found.box == Box(-0.5, -0.5, 0.5, 0.5)


def test_haar_or_the_reason_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = missing_reason()
    if reason is None:
        assert open_detector("haar")(np.zeros((80, 80, 3), np.uint8)) == []
    else:
        with pytest.raises(MissingBackendError, match="Haar"):
            open_detector("haar")
    monkeypatch.delattr(cv2, "CascadeClassifier", raising=False)
    with pytest.raises(
        MissingBackendError, match=r"has no Haar cascades \(version 5 dropped them\); use detector='yunet:"
    ):
        open_detector("haar")


def test_haar_decodes_what_the_cascade_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The installed OpenCV may have none; a cascade that always answers stands in for it."""

    class Cascade:
        def __init__(self, path: str) -> None:
            self.path = path

        def empty(self) -> bool:
            return False

        def detectMultiScale(self, grey: np.ndarray, *_: object, **__: object) -> list[tuple[int, int, int, int]]:
            assert grey.ndim == 2 and max(grey.shape) == 1280
            return [(10, 10, 20, 20), (100, 50, 60, 60)]

    (tmp_path / "haarcascade_frontalface_default.xml").write_text("x")
    monkeypatch.setattr(cv2, "CascadeClassifier", Cascade, raising=False)
    monkeypatch.setattr(cv2, "data", types.SimpleNamespace(haarcascades=str(tmp_path)), raising=False)
    found = open_detector("haar")(np.zeros((1280, 2560, 3), np.uint8))
    assert [d.box.width for d in found] == [120, 40] and found[0].score is None
    assert close(found[0].box, Box(100, 50, 160, 110), 0.5)


def test_suppression_keeps_the_best_of_each_heap() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [0, 0, 10, 4]], float)
    assert without_overlaps(boxes, np.array([0.5, 0.9, 0.1, 0.8]), 0.4) == [1, 3, 2]
    assert without_overlaps(boxes, np.array([0.5, 0.9, 0.1, 0.8]), 0.3) == [1, 2]
    assert without_overlaps(np.zeros((0, 4)), np.zeros(0), 0.4) == []
