"""Quantisation-aware fine-tuning put together: the checkpoint fused, calibrated, and trained by the usual loop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from calib.qat import Origin, QatForm
from export.fuse import fuse
from runtime.errors import InputError, UsageError
from runtime.files import sha256_file
from train.checkpoint import load_checkpoint, model_of
from train.loop import Outcome
from train.loop import train as train_form
from train.models.zoo import FAMILY
from train.recipe import Recipe

if TYPE_CHECKING:
    from train.watch import Watch


def train(
    recipe: Recipe, folder: Path, *, resume: bool = False, force: bool = False, watch: Watch | None = None
) -> Outcome:
    """Train by a recipe, in float or, where it says so, as the int8 network computes."""
    form = make_form(recipe) if recipe.qat.enabled else None
    return train_form(recipe, folder, resume=resume, force=force, watch=watch, fuse=fuse, form=form)


def make_form(recipe: Recipe) -> QatForm:
    """Load, check and fuse what a recipe starts from."""
    path = recipe.model.init
    if not path:
        raise UsageError(
            "--qat fine-tunes a trained network: name its checkpoint with --init, e.g. runs/first/best.ckpt"
        )
    checkpoint = load_checkpoint(path)
    spec = checkpoint.spec
    if spec.architecture not in FAMILY:
        raise UsageError(f"{path}: int8 knows {', '.join(FAMILY)}, this is {spec.architecture}; train it in float")
    model = model_of(checkpoint, path)
    if checkpoint.kind != "fused":
        try:
            model = fuse(model, spec)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    start = Origin(model, path, sha256_file(path))
    return QatForm(spec, recipe.qat, start, recipe.run.seed)
