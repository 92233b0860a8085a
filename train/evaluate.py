"""Measure any predictor on any source of faces, cropped exactly as the runtime crops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, UsageError
from runtime.geometry import Box, Region, crop_region, network_input, output_to_points, warp
from runtime.layouts import IBUG68, IBUG68_IN_WFLW98, WFLW98, Layout
from runtime.spec import ModelSpec
from train.data.sample import ATTRIBUTES, FaceSample, FaceSource
from train.metrics import ALL, Scores, nme_per_face, normaliser_for, score_subsets

if TYPE_CHECKING:
    import torch

Predict = Callable[[NDArray[np.float32]], NDArray[Any]]
"""Normalised float32 (B, 3, S, S) -> (B, 2N) in [0, 1] of the crop."""

BATCH = 64
_POINT_MAPS: dict[tuple[str, str], tuple[int, ...]] = {(WFLW98.name, IBUG68.name): IBUG68_IN_WFLW98}


@dataclass(frozen=True)
class Crops:
    """Faces as the network sees them, with the truth in photo pixels."""

    images: NDArray[np.uint8]
    """(N, S, S, 3) BGR."""
    points: NDArray[np.float64]
    """(N, P, 2) photo pixels, in the source's layout."""
    regions: tuple[Region, ...]
    attributes: NDArray[np.bool_] | None
    """(N, 6) flags of `ATTRIBUTES`; None when the source knows none."""
    layout: Layout
    names: tuple[str, ...]
    """Where each face comes from."""

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Evaluation:
    """What a predictor scored, and how that was measured."""

    scores: dict[str, Scores]
    """`all` and each attribute subset that has faces."""
    errors: NDArray[np.float64]
    """NME of each face."""
    points: NDArray[np.float64]
    """(N, P, 2) predictions in photo pixels, in the layout of the truth."""
    normaliser: str
    crop: str
    """The crop in words, to stand beside every printed number."""

    @property
    def overall(self) -> Scores:
        return self.scores[ALL]


def crop_faces(
    source: FaceSource,
    spec: ModelSpec,
    indices: Sequence[int] | None = None,
    progress: Callable[[], object] | None = None,
    box_of: Callable[[FaceSource, int], Box] | None = None,
) -> Crops:
    """Cut the chosen faces out of their photos with the runtime's own crop; `box_of` replaces the spec's face box."""
    chosen = list(range(len(source)) if indices is None else indices)
    if not chosen:
        raise UsageError(f"{source.name}: no faces to crop")
    point_map(spec.point_layout, source.layout)
    size = spec.input_size
    images = np.empty((len(chosen), size, size, 3), dtype=np.uint8)
    samples: list[FaceSample] = []
    regions: list[Region] = []
    photo_of, photo = None, None
    for row, index in enumerate(chosen):
        sample = source.sample(index)
        region = crop_region(box_of(source, index) if box_of else face_box(sample, spec), spec.crop)
        if photo is None or sample.image != photo_of:
            photo_of, photo = sample.image, source.photo(index)
        images[row] = warp(photo, region.to_crop(size), size, spec.crop.padding)
        samples.append(sample)
        regions.append(region)
        if progress is not None:
            progress()
    return Crops(
        images,
        np.stack([np.asarray(s.points, dtype=np.float64) for s in samples]),
        tuple(regions),
        _attributes(samples),
        source.layout,
        tuple(s.origin or str(s.image) for s in samples),
    )


def face_box(sample: FaceSample, spec: ModelSpec) -> Box:
    """The box that the spec's crop rule starts from; of a face without points, the box it came with."""
    where = sample.origin or str(sample.image)
    if spec.crop.box == "landmarks":
        if not np.isfinite(sample.points).any():
            if sample.box is not None:
                return Box(*sample.box)
            raise InputError(f"{where}: no labelled point, so there is no landmark box")
        return Box.around(sample.points)
    if spec.crop.box == "annotation":
        if sample.box is None:
            raise InputError(f"{where}: the crop rule wants the annotated box, and this face has none")
        return Box(*sample.box)
    raise UsageError(
        f"crop rule starts from the box {spec.crop.box!r}, which a labelled face does not have; "
        "use 'landmarks' or 'annotation'"
    )


def _attributes(samples: Sequence[FaceSample]) -> NDArray[np.bool_] | None:
    if all(s.attributes is None for s in samples):
        return None
    unknown = (False,) * len(ATTRIBUTES)
    return np.array([s.attributes or unknown for s in samples], dtype=np.bool_)


def point_map(model: Layout, truth: Layout) -> NDArray[np.intp]:
    """For each point of the truth's layout, its index among the model's points."""
    if model.name == truth.name:
        return np.arange(truth.count)
    try:
        return np.asarray(_POINT_MAPS[model.name, truth.name], dtype=np.intp)
    except KeyError:
        raise UsageError(
            f"a model with {model.name} points cannot be measured on {truth.name} labels; use labels in {model.name}"
        ) from None


def predict_points(
    predict: Predict,
    crops: Crops,
    spec: ModelSpec,
    batch_size: int = BATCH,
    progress: Callable[[int], object] | None = None,
) -> NDArray[np.float64]:
    """Predictions of the model's own points in photo pixels, (N, spec.points, 2)."""
    points = np.empty((len(crops), spec.points, 2), dtype=np.float64)
    for start in range(0, len(crops), batch_size):
        images = crops.images[start : start + batch_size]
        output = np.asarray(predict(network_input(images, spec)))
        if output.shape != (len(images), 2 * spec.points):
            raise InputError(f"predictor: expected output {(len(images), 2 * spec.points)}, found {output.shape}")
        faces = output.reshape(len(images), spec.points, 2)
        for row, region in enumerate(crops.regions[start : start + batch_size]):
            points[start + row] = output_to_points(faces[row], region, spec)
        if progress is not None:
            progress(len(images))
    return points


def evaluate(
    predict: Predict,
    crops: Crops,
    spec: ModelSpec,
    normaliser: str | None = None,
    batch_size: int = BATCH,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """NME, failure rate and AUC over all faces and per subset; the normaliser is the spec's unless named."""
    name = normaliser or spec.normaliser
    divisor = normaliser_for(crops.layout, name)
    order = point_map(spec.point_layout, crops.layout)
    points = predict_points(predict, crops, spec, batch_size, progress)[:, order]
    errors = nme_per_face(points, crops.points, divisor)
    crop = f"{spec.crop.scale:g} x {spec.crop.box} box"
    return Evaluation(score_subsets(errors, crops.attributes), errors, points, name, crop)


def torch_predictor(model: torch.nn.Module) -> Predict:
    """A `Predict` from a torch model, run in eval mode where its parameters are; the model's mode is restored."""
    import torch

    device = next(model.parameters()).device

    def predict(batch: NDArray[np.float32]) -> NDArray[Any]:
        was_training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                output = model(torch.from_numpy(batch).to(device))
        finally:
            model.train(was_training)
        return np.asarray(output.float().cpu().numpy())

    return predict
