"""The training loop: faces in; the best checkpoint, the log and measurements out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from runtime.errors import UsageError
from runtime.files import write_text
from runtime.layouts import Normaliser
from train.board import Board
from train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from train.clock import Clock
from train.data.loader import Batch
from train.distributed import Team, average_gradients, join
from train.evaluate import Evaluation
from train.faces import Opened, augmentation, model_spec, open_all, prepare_faces
from train.failures import explained, refuse_divergence
from train.form import Form, PlainForm
from train.interrupt import Wish, listening
from train.leaks import shared_pictures
from train.losses import Extras
from train.machine import Machine, prepare, settled, without_denormals
from train.measure import Jury
from train.metrics import normaliser_for
from train.models.kernels import SWITCH, library
from train.models.norm import statistics_apart
from train.objective import make_objective
from train.recipe import Recipe
from train.report import write_report
from train.rundir import Row, RunDirectory
from train.state import TrainingState
from train.teachers import Fuse, Teachers
from train.watch import Moment, Unwatched, Watch

LOOK_EVERY = 25
"""On a GPU the losses are looked at every so many steps, because looking makes the GPU wait."""
INTERRUPTED = "interrupted"
UNTRAINED_EPOCH = 1 << 30


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    folder: RunDirectory
    finished: bool
    """False when it was stopped before its last epoch."""
    best_nme: float
    best_epoch: int
    measured: dict[str, Evaluation]
    """The best weights on the validation faces, then on each test source; empty when the run was interrupted."""


def train(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    force: bool = False,
    watch: Watch | None = None,
    fuse: Fuse | None = None,
    form: Form | None = None,
) -> Outcome:
    """Train by a recipe into a folder, or go on with the run that lies there.

    `fuse` makes teachers quicker; `form` is plain float training unless given.
    """
    if recipe.qat.enabled and form is None:
        raise UsageError("qat.enabled: int8 training is put together above this package; use toolkit.qat.train")
    run = RunDirectory(folder)
    start = load_checkpoint(run.last) if resume else None
    apart = statistics_apart(not recipe.run.joint_norms)
    with join(recipe.run.device) as team, listening() as wish, explained(run), without_denormals(), apart:
        machine = prepare(recipe.run, team.local_rank)
        opened = open_all(recipe)
        if team.leads and not resume:
            run.refuse_if_used(force)
        watch = watch if watch is not None and team.leads else Unwatched()
        training = Training(recipe, run, opened, machine, team, wish, watch, fuse, form)
        if team.leads and not resume:
            run.claim(force)
        return training.go(start)


class Training:
    """One run: `go` is the loop, `step` one step of it."""

    def __init__(
        self,
        recipe: Recipe,
        run: RunDirectory,
        opened: Opened,
        machine: Machine,
        team: Team,
        wish: Wish,
        watch: Watch,
        fuse: Fuse | None = None,
        form: Form | None = None,
    ) -> None:
        self.recipe, self.run, self.machine, self.team, self.wish, self.watch = recipe, run, machine, team, wish, watch
        self.opened = opened
        self.began = time.monotonic()
        self.form = form or PlainForm(model_spec(recipe, opened.layout), recipe.model.init, recipe.run.seed)
        self.spec = self.form.spec
        self.normaliser = normaliser_for(self.spec.point_layout, self.spec.normaliser)
        self.objective = make_objective(recipe, self.spec)
        self.teachers = Teachers(recipe.distill, self.spec, machine, fuse)
        augment = augmentation(recipe)
        faces = prepare_faces(recipe, self.spec, opened, watch.working)
        with_pose = self.objective.pose > 0
        self.loader = faces.loader(recipe, self.spec, augment, team, self.teachers.views, with_pose)
        self.jury = Jury(self.form, machine, team)
        self.faces, self.validation = faces, faces.validation
        self.crops = self.jury.cut(self.validation, watch.working)
        seen = faces.fingerprint(self.teachers.digest)
        self.state = TrainingState(
            recipe, self.form, machine, len(self.loader), seen, with_pose, self.objective.heatmaps
        )
        network = f"{self.state.describe()}, {machine.describe()}"
        for note in (*faces.notes, *self.teachers.describe(), network, *slow_blocks(self.form, machine)):
            watch.note(note)

    def go(self, start: Checkpoint | None) -> Outcome:
        """Train to the end, or to the first good reason to stop."""
        self.begin(start)
        recipe, state, progress = self.recipe, self.state, self.state.progress
        batches, epochs = len(self.loader), recipe.schedule.epochs
        board = Board(self.run.events, recipe.run.tensorboard and self.team.leads, self.watch.note, progress.epoch + 1)
        stop, saved = "", time.monotonic()
        with self.watch.training(epochs * batches, progress.step) as tell, settled():
            while progress.epoch < epochs and not stop:
                clock = Clock(progress.batch)
                totals = torch.tensor(progress.totals, dtype=torch.float64, device=self.machine.device)
                for batch in clock.timed(self.loader.epoch(progress.epoch, progress.batch)):
                    rate = state.set_rate()
                    seen = self.step(batch)
                    totals += seen[:2]
                    progress.batch += 1
                    progress.step += 1
                    if self.machine.is_cpu or progress.batch % LOOK_EVERY == 0 or progress.batch == batches:
                        progress.totals = (float(totals[0]), float(totals[1]))
                        refuse_divergence(progress, self.run)
                        loss, nme = (total / progress.batch for total in progress.totals)
                        speed = clock.speed(progress.batch, recipe.data.batch_size * self.team.size)
                        tell(Moment(progress.epoch + 1, progress.step, epochs * batches, loss, nme, speed))
                        if stop := self.reason_to_stop(seen):
                            break
                        if self.wants_to_save(time.monotonic() - saved):
                            self.save(self.run.last)
                            saved = time.monotonic()
                if progress.batch == batches:
                    row = self.finish_epoch(rate, clock)
                    board.write(row)
                    saved = time.monotonic()
        board.close()
        return self.finish(stop)

    def step(self, batch: Batch) -> Tensor:
        """One step of the optimizer; gives loss, NME, and whether somebody wants to stop or time is over."""
        state, machine, size = self.state, self.machine, self.spec.input_size
        images = batch.input(self.spec, str(machine.device), machine.channels_last)
        targets, weights, attributes, angles = (
            torch.from_numpy(part).to(machine.device, non_blocking=True)
            for part in (batch.targets, batch.weights, batch.attributes, batch.angles)
        )
        state.modules.train()
        with machine.mixed():
            output, guess, heatmaps = state.forward(images)
        # Losses work in pixels of the input, where the constants of wing loss mean something.
        points, truth = output.float().view_as(targets) * size, targets * size
        guessed = None if guess is None else guess.float()
        maps = None if heatmaps is None else heatmaps.float()
        loss = self.objective(points, truth, weights, Extras(guessed, angles, attributes, maps))
        loss = self.teachers.mixed(loss, points, batch, self.objective, Extras(heatmaps=maps))

        state.optimizer.zero_grad(set_to_none=True)
        state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        seen = torch.stack([loss.detach(), batch_nme(points.detach(), truth, weights, self.normaliser), *self.wishes()])
        average_gradients(
            self.team, state.parameters, [seen, *([] if self.recipe.run.joint_norms else state.statistics)]
        )
        if self.recipe.optimizer.clip:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.parameters, self.recipe.optimizer.clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.average is not None:
            state.average.update()
        return seen

    def begin(self, start: Checkpoint | None) -> None:
        """The weights and the progress to start from: an interrupted run's, another model's, or fresh ones."""
        if start is not None:
            self.state.restore(start, str(self.run.last))
            progress = self.state.progress
            self.watch.note(f"going on in epoch {progress.epoch + 1}, after step {progress.step}")
            before, now = start.progress.get("threads"), torch.get_num_threads()
            if before != now:
                self.watch.note(
                    f"the run used {before} threads, now {now}: it goes on, but not bit for bit as it would have"
                )
        else:
            if self.team.leads:
                for warning in shared_pictures(self.recipe, self.faces, self.opened, self.watch.working):
                    self.watch.note(warning)
            self.begin_fresh()
        if self.team.leads:
            write_text(self.run.recipe, self.recipe.to_toml())

    def begin_fresh(self) -> None:
        """The weights that the form starts from, the same in every process."""
        state, team = self.state, self.team
        if team.leads:
            state.begin(self.draw, self.watch.note)
        if team.size > 1:
            weights = team.tell({name: value.cpu() for name, value in state.model.state_dict().items()})
            state.model.load_state_dict(weights, strict=True)
            state.average_anew()

    def draw(self, count: int) -> NDArray[np.uint8]:
        """Augmented training faces, of epochs that are never trained."""
        found: list[NDArray[np.uint8]] = []
        epochs = -(-count // (len(self.loader) * self.recipe.data.batch_size))
        for batch in chain.from_iterable(self.loader.epoch(UNTRAINED_EPOCH + turn) for turn in range(epochs)):
            found.append(batch.images)
            if sum(map(len, found)) >= count:
                break
        return np.concatenate(found)[:count]

    def wishes(self) -> Tensor:
        """Reasons to stop that only this process knows; the step carries them to the others."""
        limit = self.recipe.run.max_minutes
        late = limit > 0 and time.monotonic() - self.began > 60 * limit
        return torch.tensor([float(bool(self.wish)), float(late)], device=self.machine.device)

    def reason_to_stop(self, seen: Tensor) -> str:
        """Why all processes stop after this step; empty when they go on."""
        reasons = self.wishes() if self.team.size == 1 else seen[2:]
        asked, late = (value > 0 for value in reasons.tolist())
        if asked:
            return INTERRUPTED
        return f"the time limit of {self.recipe.run.max_minutes:g} minutes is reached" if late else ""

    def wants_to_save(self, seconds: float) -> bool:
        """Whether last.ckpt is to be refreshed in the middle of an epoch."""
        return 0 < 60 * self.recipe.run.save_minutes < seconds

    def save(self, *paths: Path) -> None:
        """Write this moment under each of the names; only the leader does."""
        if self.team.leads:
            first, *copies = paths
            save_checkpoint(first, self.state.checkpoint(), *copies)

    def finish_epoch(self, rate: float, clock: Clock) -> Row:
        """Measure, log and save a finished epoch."""
        progress, every = self.state.progress, self.recipe.run.save_every
        loss, nme = (total / progress.batch for total in progress.totals)
        speed = clock.speed(progress.batch, self.recipe.data.batch_size * self.team.size)
        found, seconds = self.jury.judge(self.state.shipped_weights, self.crops)
        is_best = found.nme < progress.best_nme
        progress.epoch, progress.batch, progress.totals = progress.epoch + 1, 0, (0.0, 0.0)
        if is_best:
            progress.best_nme, progress.best_epoch = found.nme, progress.epoch
        row = {
            "epoch": float(progress.epoch),
            "lr": rate,
            "train_loss": loss,
            "train_nme": 100 * nme,
            "val_nme": 100 * found.nme,
            "val_fr": 100 * found.failure_rate,
            "val_auc": found.auc,
            "best_nme": 100 * progress.best_nme,
            "images_per_second": speed,
            "data_seconds": clock.waited,
            "model_seconds": clock.worked,
            "val_seconds": seconds,
        }
        progress.rows.append(row)
        self.state.schedule.observe(found.nme)
        # The best first: a crash in between repeats this epoch and comes to the same file.
        kept = [self.run.epoch(progress.epoch)] if every and progress.epoch % every == 0 else []
        self.save(*([self.run.best] if is_best else []), *kept, self.run.last)
        if self.team.leads:
            self.run.write_log(progress.rows)
        self.watch.epoch(row, is_best)
        return row

    def judge_unfinished_epoch(self) -> None:
        """At the time limit the weights of now may be the best."""
        progress = self.state.progress
        found, _ = self.jury.judge(self.state.shipped_weights, self.crops)
        if found.nme < progress.best_nme:
            progress.best_nme, progress.best_epoch = found.nme, progress.epoch + 1
            self.save(self.run.best)

    def finish(self, stop: str) -> Outcome:
        """Save where a run was stopped; measure, draw and report where it ended in peace."""
        progress = self.state.progress
        finished, interrupted = progress.epoch == self.recipe.schedule.epochs, stop == INTERRUPTED
        if not finished:
            if progress.batch and not interrupted:
                self.judge_unfinished_epoch()
            self.save(self.run.last)
            where = f"in epoch {progress.epoch + 1}, after step {progress.step}"
            self.watch.note(f"{stop}: stopped {where}; to go on: toolkit train --resume -o {self.run.path}")
        measured: dict[str, Evaluation] = {}
        if not interrupted and progress.best_epoch:
            crops = (
                self.crops if self.team.size == 1 else self.jury.cut(self.validation, self.watch.working, whole=True)
            )
            measured = write_report(
                self.run, self.recipe, self.form, self.jury, crops, self.opened.tests, progress, self.watch
            )
        return Outcome(self.run, finished, progress.best_nme, progress.best_epoch, measured)


def slow_blocks(form: Form, machine: Machine) -> list[str]:
    """What a user should know where the kernels for blocks of one branch cannot be had."""
    spec = form.spec
    wanted = (
        isinstance(form, PlainForm)
        and spec.architecture == "ghostone"
        and spec.branches == 1
        and machine.is_cpu
        and machine.channels_last
    )
    if not wanted or library() is not None:
        return []
    return [f"no C compiler works here (or {SWITCH}=0): blocks go branch by branch, at about half the speed"]


def batch_nme(points: Tensor, truth: Tensor, weights: Tensor, normaliser: Normaliser | str) -> Tensor:
    """Mean NME of a batch as a number to watch: faces whose normaliser is not labelled do not count."""
    if isinstance(normaliser, Normaliser):
        left, right = list(normaliser.left), list(normaliser.right)
        scale = torch.linalg.vector_norm(truth[:, left].mean(1) - truth[:, right].mean(1), dim=-1)
        known = (weights[:, left].amin(1) > 0) & (weights[:, right].amin(1) > 0) & (scale > 0)
    else:
        hidden = (weights <= 0)[..., None]
        extent = truth.masked_fill(hidden, -np.inf).amax(1) - truth.masked_fill(hidden, np.inf).amin(1)
        scale = extent.clamp_min(0).prod(-1).sqrt()
        known = scale > 0
    labelled = (weights > 0).to(points.dtype)
    gap = torch.linalg.vector_norm(points - truth, dim=-1) * labelled
    errors = gap.sum(1) / labelled.sum(1).clamp_min(1) / torch.where(known, scale, torch.ones_like(scale))
    mean: Tensor = torch.where(known, errors, torch.zeros_like(errors)).sum() / known.sum().clamp_min(1)
    return mean
