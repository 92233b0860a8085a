"""Labels pinned to the 68 points of real faces are those that were derived for them by other code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from toolkit.labelling import open_members
from train.data.combine import SubsetSource
from train.data.open import open_source
from train.label.ensemble import Ensemble
from train.label.job import label_faces
from train.label.rules import Rules
from train.label.variations import VARIATIONS

pytest.importorskip("onnxruntime")
TEACHERS = (
    "PFLD_GhostOne_112_1_opt_sim.onnx",
    "PFLD_GhostNet_112_1_opt_sim.onnx",
    "PFLD_GhostNet_Slim_112_1_opt_sim.onnx",
    "PFLD_GhostOne_112_1_retrained_sim.onnx",
)
FACES = 6


def test_pinned_labels_equal_the_derived_ones(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "h300w_68"
    source = SubsetSource(open_source(folder, split="test"), range(FACES))
    derived = open_source(folder / "derived98", split="test")
    places = {derived.sample(i).image.name: derived.sample(i).points for i in range(len(derived))}
    members = open_members([str(shared / "models" / "landmarks" / name) for name in TEACHERS])
    labels, _ = label_faces(source, Ensemble(members, VARIATIONS["flip"]), Rules(pin=True), tmp_path / "job")
    assert labels.fates == ("kept",) * FACES
    for face in range(FACES):
        expected = places[source.sample(face).image.name]
        size = np.sqrt(np.prod(np.ptp(expected, axis=0)))
        assert np.abs(labels.points[face] - expected).max() / size < 0.003
        free = np.abs(labels.weights[face] - 1) > 1e-6
        assert free.sum() == 98 - 68
