"""A whole small bundle, float16 and int8 included, made in seconds."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))

from family import state, trained

from calib.quantize import quantize
from export.road import Options, export_bundle
from runtime.geometry import crop_region, points_to_target
from runtime.spec import ModelSpec
from train.checkpoint import Checkpoint, save_checkpoint
from train.data.open import open_source
from train.evaluate import face_box

SPEC = ModelSpec("ghostone", width=0.125, input_size=64, branches=1)
QUICK = {"equalise": False, "bias": False, "noise_steps": 0, "distill_steps": 0, "augmented_faces": 32}


def face_like(spec: ModelSpec) -> nn.Module:
    """A model with random weights whose output moves around the mean of a few faces."""
    model = trained(spec)
    source = open_source("synth:8@9")
    faces = [
        points_to_target(sample.points, crop_region(face_box(sample, spec), spec.crop), spec)
        for sample in map(source.sample, range(8))
    ]
    fc: nn.Linear = model.get_submodule("fc")  # type: ignore[assignment]
    with torch.no_grad():
        fc.bias.copy_(torch.from_numpy(np.mean(faces, axis=0).reshape(-1).astype(np.float32)))
        fc.weight.mul_(0.005)
    return model


def small_bundle(target: Path, spec: ModelSpec = SPEC) -> Path:
    """Export a random model whose output looks like a face."""
    checkpoint = target.with_suffix(".ckpt")
    save_checkpoint(checkpoint, Checkpoint("multi-branch", spec, state(face_like(spec))))
    options = Options(
        exporter="torchscript", fp16=True, int8="fast", audit="synth:20@5", calib_count=20, probes="synth:12@3"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.road_int8.quantize", partial(quantize, algorithms=QUICK, shift_limit=0.03))
        export_bundle(checkpoint, target, options)
    return target
