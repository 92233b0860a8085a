"""The recipe of a new run from a file and flags; a fine-tuning for int8 takes its network from the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.errors import UsageError
from runtime.spec import ModelSpec
from train.checkpoint import load_checkpoint
from train.recipe import KEYS, Key, Recipe, overlay, read_sections, recipe_from

QAT_DEFAULTS: dict[str, dict[str, Any]] = {
    "optimizer": {"lr": 0.02, "weight_decay": 0.0},
    "schedule": {"epochs": 10, "warmup": 0.5},
    "average": {"decay": 0.99},
    "run": {"amp": "off"},
}
"""Where quantisation-aware fine-tuning starts from other values than float training."""
FLOAT_ONLY = ("optimizer", "schedule", "average")
"""Sections of a recipe for float training that say nothing about fine-tuning its result."""


def settle(config: Path | None, given: Mapping[Key, Any]) -> tuple[Recipe, list[str]]:
    """The recipe in effect, and what a user should know about how it came about."""
    data = {} if config is None else read_sections(config)
    where = str(config)
    plain = overlay(recipe_from(data, where), given)
    if not plain.qat.enabled:
        _refuse_stray(plain)
        return plain, []
    spec = _start_of(plain)
    notes: list[str] = []
    if not (isinstance(data.get("qat"), Mapping) and data["qat"].get("enabled") is True):
        left = [section for section in FLOAT_ONLY if section in data]
        if left:
            notes.append(f"{where}: its {', '.join(left)} are for float training; --qat has its own (see docs/int8.md)")
        data = {section: values for section, values in data.items() if section not in left}
    base = recipe_from(QAT_DEFAULTS | {"model": _model_section(spec)}, "QAT defaults")
    recipe = overlay(recipe_from(data, where, base), given)
    _refuse_contradictions(recipe, spec)
    if not recipe.distill.teacher and recipe.distill.weight:
        recipe = recipe_from({"distill": {"teacher": [recipe.model.init]}}, "QAT teacher", recipe)
    return recipe, notes


def _refuse_stray(recipe: Recipe) -> None:
    for (section, name), key in KEYS.items():
        if section == "qat" and getattr(recipe.qat, name) != key.default:
            raise UsageError(f"--{key.flag} is about quantisation-aware fine-tuning; add --qat and --init CHECKPOINT")


def _start_of(recipe: Recipe) -> ModelSpec:
    if not recipe.model.init:
        raise UsageError(
            "--qat fine-tunes a trained network: name its checkpoint with --init, e.g. runs/first/best.ckpt"
        )
    return load_checkpoint(recipe.model.init).spec


def _model_section(spec: ModelSpec) -> dict[str, Any]:
    return {
        "architecture": spec.architecture,
        "width": spec.width,
        "input_size": spec.input_size,
        "branches": spec.branches,
        "layout": spec.layout,
        "crop_scale": spec.crop.scale,
        "normaliser": spec.normaliser,
    }


def _refuse_contradictions(recipe: Recipe, spec: ModelSpec) -> None:
    for name, its in _model_section(spec).items():
        asked = getattr(recipe.model, name)
        if asked not in (its, "auto"):
            flag = KEYS["model", name].flag
            raise UsageError(
                f"--{flag} {asked}: {recipe.model.init} has {its}, and --qat keeps the network; leave --{flag} out"
            )
    if recipe.optimizer.name == "muon":
        raise UsageError("--optimizer muon: it turns float kernels, and --qat counts weights in steps; use adamw")
    if recipe.run.amp in ("bf16", "fp16"):
        raise UsageError(f"--amp {recipe.run.amp}: narrow floats cannot hold int8 sums; leave --amp out with --qat")
    if recipe.loss.aux_pose or recipe.loss.name == "pfld":
        flag = "--aux-pose" if recipe.loss.aux_pose else "--loss pfld"
        raise UsageError(f"{flag}: the auxiliary pose net is part of float training only; choose another with --qat")
