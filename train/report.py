"""What lies in the run's folder at the end: results as JSON, curves, error distribution, predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from runtime.files import sha256_file, write_json
from train.checkpoint import load_checkpoint
from train.data.sample import FaceSource
from train.evaluate import Crops, Evaluation
from train.form import Form
from train.measure import Jury
from train.plots import draw_ced, draw_curves, draw_predictions
from train.recipe import Recipe
from train.rundir import RunDirectory
from train.state import Progress
from train.watch import Watch

VALIDATION = "validation"


def write_report(
    run: RunDirectory,
    recipe: Recipe,
    form: Form,
    jury: Jury,
    crops: Crops,
    tests: Sequence[tuple[str, FaceSource]],
    progress: Progress,
    watch: Watch,
) -> dict[str, Evaluation]:
    """Measure the best weights on the validation faces and, for the first and only time, on the test faces."""
    if not jury.team.leads:
        return {}
    best = load_checkpoint(run.best)
    running, average = form.unpack(best, str(run.best))
    weights = running if average is None else average
    measured = {VALIDATION: jury.examine(weights, crops)}
    for text, source in tests:
        measured[text] = jury.examine(weights, jury.cut(source, watch.working, whole=True))
    title = f"{recipe.model.architecture}, width {recipe.model.width:g}, {recipe.model.input_size} px{form.what}"
    if progress.rows:  # none when the time limit came before the end of the first epoch
        draw_curves(run.picture("curves"), progress.rows, title)
    draw_ced(run.picture("ced"), measured, title)
    draw_predictions(run.picture("predictions"), crops, measured[VALIDATION])
    write_json(run.results, _results(run, recipe, measured, progress))
    return measured


def _results(run: RunDirectory, recipe: Recipe, measured: dict[str, Evaluation], progress: Progress) -> dict[str, Any]:
    return {
        "checkpoint": run.best.name,
        "sha256": sha256_file(run.best),
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "recipe": recipe.to_dict(),
        "measured": {
            name: {
                "crop": found.crop,
                "normaliser": found.normaliser,
                "scores": {subset: asdict(scores) for subset, scores in found.scores.items()},
            }
            for name, found in measured.items()
        },
    }
