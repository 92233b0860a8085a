"""Evaluation: the runtime's crop, the way back to the photo, layouts, and upstream's published behaviour."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.errors import InputError, UsageError
from runtime.geometry import network_input, points_to_target
from runtime.images import Image, read_image
from runtime.layouts import IBUG68, IBUG68_IN_WFLW98, WFLW98, Layout
from runtime.spec import CropRule, ModelSpec
from train.data.sample import FaceSample
from train.evaluate import crop_faces, evaluate, face_box, predict_points, torch_predictor

SPEC = ModelSpec("ghostone", input_size=64)


@dataclass
class Memory:
    """Faces in memory."""

    faces: list[FaceSample]
    layout: Layout = WFLW98
    name: str = "memory"
    fetched: int = 0

    def __len__(self) -> int:
        return len(self.faces)

    def sample(self, index: int) -> FaceSample:
        return self.faces[index]

    def photo(self, index: int) -> Image:
        self.fetched += 1
        return np.random.default_rng(index).integers(0, 256, (90, 120, 3), dtype=np.uint8)


def some_faces(count: int = 5, layout: Layout = WFLW98, attributes: bool = True) -> Memory:
    generator = np.random.default_rng(4)
    faces = [
        FaceSample(
            image=Path(f"photo{index // 2}.jpg"),
            points=generator.uniform(20, 80, (layout.count, 2)).astype(np.float32),
            layout=layout.name,
            attributes=(index % 2 == 0, False, False, False, False, True) if attributes else None,
            origin=f"list.txt:{index + 1}",
        )
        for index in range(count)
    ]
    return Memory(faces, layout)


def oracle(source: Memory, spec: ModelSpec, shift: float = 0.0):
    """A predictor that knows the answer, moved by `shift` photo pixels in x."""
    crops = crop_faces(source, spec)
    answers = {
        network_input(crops.images[i : i + 1], spec).tobytes(): points_to_target(
            crops.points[i] + [shift, 0], crops.regions[i], spec
        ).reshape(-1)
        for i in range(len(crops))
    }
    return lambda batch: np.stack([answers[batch[i : i + 1].tobytes()] for i in range(len(batch))])


@pytest.mark.parametrize("coordinates", ["centre", "corner"])
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_a_known_shift_gives_its_error(coordinates: str, batch_size: int) -> None:
    spec = replace(SPEC, coordinates=coordinates)
    source = some_faces()
    crops = crop_faces(source, spec)
    found = evaluate(oracle(source, spec, shift=2.0), crops, spec, batch_size=batch_size)
    eyes = np.linalg.norm(crops.points[:, 60] - crops.points[:, 72], axis=1)
    assert found.errors == pytest.approx(2.0 / eyes, rel=1e-9)
    assert found.points == pytest.approx(crops.points + np.array([2.0, 0.0]), abs=1e-9)
    assert list(found.scores) == ["all", "pose", "blur"] and found.scores["pose"].count == 3
    assert found.normaliser == "inter-ocular" and found.crop == "1.2 x landmarks box"
    box = evaluate(oracle(source, spec, shift=2.0), crops, spec, normaliser="box")
    extent = np.ptp(crops.points, axis=1)
    assert box.errors == pytest.approx(2.0 / np.sqrt(extent.prod(1)), rel=1e-9)


def test_a_98_point_model_is_measured_on_68_point_labels() -> None:
    source = some_faces(3, IBUG68, attributes=False)
    crops = crop_faces(source, SPEC)
    assert crops.attributes is None

    def predict(batch: np.ndarray) -> np.ndarray:
        full = np.full((len(batch), 98, 2), 0.5)
        for row in range(len(batch)):
            full[row, list(IBUG68_IN_WFLW98)] = points_to_target(crops.points[row], crops.regions[row], SPEC)
        return full.reshape(len(batch), -1)

    found = evaluate(predict, crops, SPEC)
    assert found.points.shape == (3, 68, 2) and found.overall.nme < 1e-9
    with pytest.raises(UsageError, match="ibug68 points cannot be measured on wflw98"):
        crop_faces(some_faces(), replace(SPEC, layout="ibug68", points=68))


def test_a_photo_with_many_faces_is_fetched_once() -> None:
    source = some_faces(6)
    crop_faces(source, SPEC)
    assert source.fetched == 3


def test_chosen_faces_and_progress() -> None:
    source, ticks = some_faces(), []
    crops = crop_faces(source, SPEC, [4, 1], lambda: ticks.append(1))
    assert crops.names == ("list.txt:5", "list.txt:2") and len(ticks) == 2
    assert np.array_equal(crops.points[0], source.faces[4].points.astype(np.float64))
    with pytest.raises(UsageError, match="no faces"):
        crop_faces(source, SPEC, [])


def test_the_box_comes_from_where_the_rule_says() -> None:
    face = replace(some_faces(1).faces[0], box=(1.0, 2.0, 30.0, 40.0))
    annotated = replace(SPEC, crop=CropRule(box="annotation"))
    assert face_box(face, annotated).x1 == 30.0 and face_box(face, SPEC).x1 > 60
    with pytest.raises(InputError, match=r"list\.txt:1.*has none"):
        face_box(replace(face, box=None), annotated)
    with pytest.raises(UsageError, match="'scrfd'"):
        face_box(face, replace(SPEC, crop=CropRule(box="scrfd")))
    unlabelled = replace(face, points=np.full((98, 2), np.nan, dtype=np.float32))
    assert face_box(unlabelled, SPEC).x1 == 30.0
    with pytest.raises(InputError, match="no labelled point"):
        face_box(replace(unlabelled, box=None), SPEC)


def test_a_predictor_of_the_wrong_shape_is_named() -> None:
    crops = crop_faces(some_faces(), SPEC)
    with pytest.raises(InputError, match=r"expected output \(5, 196\), found \(5, 136\)"):
        predict_points(lambda batch: np.zeros((len(batch), 136)), crops, SPEC)


def test_torch_predictor_runs_in_eval_mode_and_restores_the_mode() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.9), torch.nn.Linear(3 * 64 * 64, 4))
    model.train()
    predict = torch_predictor(model)
    batch = np.ones((2, 3, 64, 64), dtype=np.float32)
    assert np.array_equal(predict(batch), predict(batch)) and predict(batch).dtype == np.float32
    assert model.training


# ---------------------------------------------------------------------------------------------- real faces


def real_data(*parts: str) -> Path:
    root = Path(os.environ.get("LANDMARK_DATA", Path(__file__).resolve().parents[2] / ".." / "shared"))
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"real-face material not found ({'/'.join(parts)}); set LANDMARK_DATA to its folder")
    return path


class ListedFaces(Memory):
    """The plainest reader of a WFLW list, so that this test stands on its own."""

    def photo(self, index: int) -> Image:
        return read_image(self.faces[index].image)


def wflw_faces(root: Path) -> ListedFaces:
    listing = root / "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_test.txt"
    faces = []
    for line in listing.read_text().splitlines():
        fields = line.split()
        points = np.array(fields[:196], dtype=np.float32).reshape(98, 2)
        flags = tuple(flag == "1" for flag in fields[200:206])
        faces.append(FaceSample(root / "WFLW_images" / fields[206], points, "wflw98", attributes=flags))
    return ListedFaces(faces)


@pytest.mark.data
def test_upstream_ghostone_scores_what_upstream_scores() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    source = wflw_faces(real_data("data", "wflw_real"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = real_data("models", "landmarks", "PFLD_GhostOne_112_1_opt_sim.onnx")
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    spec = ModelSpec("ghostone", coordinates="corner", crop=CropRule(rounding="pixel"))
    found = evaluate(lambda batch: session.run(None, {"input": batch})[0], crop_faces(source, spec), spec, batch_size=1)
    percent = {name: 100 * scores.nme for name, scores in found.scores.items()}
    assert found.overall.count == 466
    assert percent["all"] == pytest.approx(5.571, abs=0.02)
    assert 100 * found.overall.failure_rate == pytest.approx(7.73, abs=0.01)
    assert found.overall.auc == pytest.approx(0.478, abs=0.001)
    published = {"pose": 9.542, "expression": 5.571, "illumination": 5.121, "make-up": 5.348, "occlusion": 6.265}
    for name, value in {**published, "blur": 6.090}.items():
        assert percent[name] == pytest.approx(value, abs=0.05), name
