"""The loop: it learns, resumes to the bit, stops politely, keeps the last good checkpoint in every trouble."""

from __future__ import annotations

import csv
import errno
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from tiny import BATCHES, Teller, tiny

from runtime.errors import CheckFailedError, InputError, ToolkitError, UsageError
from runtime.spec import ModelSpec
from train import loop
from train.checkpoint import Checkpoint, load_checkpoint, load_model
from train.data.open import open_source
from train.distributed import Team
from train.evaluate import crop_faces, evaluate, torch_predictor
from train.form import PlainForm
from train.loop import Outcome, batch_nme
from train.machine import Machine
from train.measure import Jury
from train.metrics import nme_per_face, normaliser_for
from train.models.mobileone import branch_form
from train.recipe import KEYS, Recipe, read_recipe
from train.resume import resumed_recipe
from train.rundir import RunDirectory
from train.watch import Unwatched

TIMES = {"images_per_second", "data_seconds", "model_seconds", "val_seconds"}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Packs of this module's faces, made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "log.csv").open() as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]


def without_times(checkpoint: Checkpoint) -> list[dict[str, float]]:
    return [{n: v for n, v in row.items() if n not in TIMES} for row in checkpoint.progress["rows"]]


def same(a: object, b: object) -> bool:
    """Equal to the last bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def assert_same_run(first: Path, second: Path) -> None:
    a, b = load_checkpoint(first / "last.ckpt"), load_checkpoint(second / "last.ckpt")
    assert same(a.model, b.model) and same(a.ema, b.ema)
    assert same(a.state, b.state)
    assert without_times(a) == without_times(b)
    best = load_checkpoint(first / "best.ckpt"), load_checkpoint(second / "best.ckpt")
    assert same(best[0].model, best[1].model) and same(best[0].ema, best[1].ema)


def train(recipe: Recipe, folder: Path, *, report: bool = False, **options: object) -> Outcome:
    """Train; pictures and measurements at the end only where a test looks at them, because they take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        if not report:
            patch.setattr(loop, "write_report", lambda *_: {})
        return loop.train(recipe, folder, **options)


# ---------------------------------------------------------------------------------------------- a whole run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: None) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    recipe = tiny(schedule={"epochs": 12}, data={"test": ["synth:10@7"]}, run={"save_every": 5, "tensorboard": True})
    teller = Teller()
    outcome = train(recipe, folder, report=True, watch=teller)
    assert outcome.finished and list(outcome.measured) == ["validation", "synth:10@7"]
    assert outcome.measured["synth:10@7"].overall.count == 10
    assert outcome.measured["validation"].overall.nme == outcome.best_nme
    assert [moment.step for moment in teller.moments] == list(range(1, 12 * BATCHES + 1))
    return folder


def test_it_learns(finished: Path) -> None:
    log = rows(finished)
    assert [row["epoch"] for row in log] == list(range(1, 13))
    assert log[-1]["train_loss"] < 0.8 * log[0]["train_loss"]
    assert log[-1]["val_nme"] < 0.7 * log[0]["val_nme"]
    assert log[-1]["best_nme"] == min(row["val_nme"] for row in log)
    assert all(row["images_per_second"] > 0 for row in log)


def test_what_lies_in_the_folder(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {
        *("best.ckpt", "last.ckpt", "epoch-0005.ckpt", "epoch-0010.ckpt", "recipe.toml", "log.csv", "results.json"),
        *("curves.png", "ced.png", "predictions.png", "tensorboard"),
    }
    assert list((finished / "tensorboard").glob("events.out.tfevents.*"))
    recipe = read_recipe(finished / "recipe.toml")
    assert recipe.schedule.epochs == 12 and recipe.data.test == ("synth:10@7",)
    results = json.loads((finished / "results.json").read_text())
    assert set(results["measured"]) == {"validation", "synth:10@7"}
    assert results["measured"]["validation"]["scores"]["all"]["count"] == 12


def test_best_holds_the_weights_that_scored_best(finished: Path) -> None:
    from train.data.open import open_source

    model, checkpoint = load_model(finished / "best.ckpt")
    found = evaluate(torch_predictor(model), crop_faces(open_source("synth:12@2"), checkpoint.spec), checkpoint.spec)
    assert found.overall.nme == pytest.approx(checkpoint.progress["best_nme"], rel=1e-5)
    assert 100 * checkpoint.progress["best_nme"] == pytest.approx(
        min(row["val_nme"] for row in rows(finished)), rel=1e-5
    )
    assert load_checkpoint(finished / "epoch-0005.ckpt").progress["epoch"] == 5


def test_running_twice_gives_the_same(tmp_path: Path) -> None:
    recipe = tiny(schedule={"epochs": 2})
    train(recipe, tmp_path / "a")
    train(tiny(schedule={"epochs": 2}, data={"workers": 3}), tmp_path / "b")
    a, b = load_checkpoint(tmp_path / "a/last.ckpt"), load_checkpoint(tmp_path / "b/last.ckpt")
    assert same(a.model, b.model) and same(a.ema, b.ema) and without_times(a) == without_times(b)
    train(tiny(schedule={"epochs": 2}, run={"seed": 4}), tmp_path / "c")
    assert not same(a.model, load_checkpoint(tmp_path / "c/last.ckpt").model)


@pytest.mark.parametrize(
    "sections",
    [
        {"optimizer": {"name": "sgd", "lr": 1e-4, "clip": 1.0}, "schedule": {"name": "plateau", "patience": 0}},
        {"loss": {"name": "pfld", "option": ["base=wing"], "aux_pose": 0.5}},
        {
            "optimizer": {"name": "adam"},
            "schedule": {"name": "multistep", "milestones": [1]},
            "average": {"decay": 0.0},
        },
        {"model": {"architecture": "ghostone", "branches": 1}},
        {"optimizer": {"name": "muon"}, "model": {"architecture": "ghostone", "branches": 2}},
        {
            "model": {"architecture": "ghostnet", "layout": "ibug68"},
            "run": {"channels_last": True, "deterministic": True, "amp": "bf16"},
        },
        {
            "model": {"normaliser": "box"},
            "loss": {"name": "nme"},
            "augment": {"preset": "none", "change": ["flip=0.5"]},
        },
    ],
    ids=lambda sections: "-".join(sections),
)
def test_every_option_trains_and_resumes(sections: dict[str, dict[str, object]], tmp_path: Path) -> None:
    schedule = {**sections.get("schedule", {}), "epochs": 2}
    try:
        train(tiny(**{**sections, "schedule": schedule}), tmp_path / "straight")
        train(
            tiny(**{**sections, "schedule": {**schedule, "epochs": 2}}),
            tmp_path / "stopped",
            watch=Teller(raise_at(BATCHES + 1)),
        )
    except Stop:
        pass
    train(resumed_recipe(RunDirectory(tmp_path / "stopped"), {}), tmp_path / "stopped", resume=True)
    torch.use_deterministic_algorithms(False)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


class Stop(Exception):  # noqa: N818 - no error, an end
    """Ends a run from inside, like a crash."""


def raise_at(step: int):
    def after(moment) -> None:
        if moment.step == step:
            raise Stop

    return after


def test_the_auxiliary_net_learns_along(tmp_path: Path) -> None:
    one_epoch = {"schedule": {"epochs": 1, "warmup": 0.0}}
    train(tiny(**one_epoch), tmp_path / "without")
    train(tiny(**one_epoch, loss={"aux_pose": 5.0}), tmp_path / "with")
    assert rows(tmp_path / "with")[0]["train_loss"] > rows(tmp_path / "without")[0]["train_loss"] + 0.1
    assert not load_checkpoint(tmp_path / "without/last.ckpt").state["pose"]
    learned = load_checkpoint(tmp_path / "with/last.ckpt").state["pose"]
    assert float(learned["angles.2.bias"].abs().min()) > 0, "the last bias starts at zero"


# ---------------------------------------------------------------------------------------------- resume


def shot_dead(folder: Path, step: int) -> None:
    """Train in a process of its own that is killed with SIGKILL after a step."""
    command = [sys.executable, str(Path(__file__).with_name("shot.py")), str(folder), str(step)]
    assert subprocess.run(command, timeout=300).returncode == -signal.SIGKILL


def test_four_epochs_equal_two_then_kill_nine_then_resume(tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    train(tiny(), straight)
    shot_dead(killed, 2 * BATCHES + 3)
    half = load_checkpoint(killed / "last.ckpt")
    assert (half.progress["epoch"], half.progress["batch"]) == (2, 0)
    assert not list(killed.glob(".*tmp*"))
    train(resumed_recipe(RunDirectory(killed), {}), killed, resume=True)
    assert_same_run(straight, killed)
    a, b = rows(straight), rows(killed)
    assert [{n: v for n, v in row.items() if n not in TIMES} for row in a] == [
        {n: v for n, v in row.items() if n not in TIMES} for row in b
    ]


def test_a_checkpoint_in_the_middle_of_an_epoch_goes_on_to_the_bit(tmp_path: Path) -> None:
    train(tiny(schedule={"epochs": 2}), tmp_path / "straight")
    with pytest.raises(Stop):
        train(
            tiny(schedule={"epochs": 2}, run={"save_minutes": 1e-9}),
            tmp_path / "stopped",
            watch=Teller(raise_at(BATCHES + 3)),
        )
    half = load_checkpoint(tmp_path / "stopped/last.ckpt")
    assert (half.progress["epoch"], half.progress["batch"]) == (1, 2)
    recipe = resumed_recipe(RunDirectory(tmp_path / "stopped"), {KEYS["run", "save_minutes"]: 0.0})
    train(recipe, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


def test_resume_keeps_the_recipe(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "a")
    train(tiny(schedule={"epochs": 1}), run.path)
    with pytest.raises(UsageError, match=r"--lr 0\.5: the run in .* was begun with 0\.005"):
        resumed_recipe(run, {KEYS["optimizer", "lr"]: 0.5})
    assert resumed_recipe(run, {KEYS["optimizer", "lr"]: 5e-3}) == tiny(schedule={"epochs": 1})
    longer = resumed_recipe(run, {KEYS["schedule", "epochs"]: 2})
    outcome = train(longer, run.path, resume=True)
    assert outcome.finished and len(rows(run.path)) == 2
    with pytest.raises(UsageError, match=r"no last\.ckpt"):
        resumed_recipe(RunDirectory(tmp_path / "none"), {})


def test_resume_refuses_other_faces_and_files_without_state(tmp_path: Path) -> None:
    from dataclasses import replace

    from train.checkpoint import save_checkpoint

    run = RunDirectory(tmp_path / "a")
    train(tiny(schedule={"epochs": 1}), run.path)
    with pytest.raises(InputError, match="training faces changed"):
        train(tiny(data={"train": ["synth:49@1"]}), run.path, resume=True)
    bare = load_checkpoint(run.last)
    save_checkpoint(run.last, replace(bare, state={}))
    with pytest.raises(InputError, match="no training state"):
        train(tiny(schedule={"epochs": 2}), run.path, resume=True)
    save_checkpoint(run.last, replace(bare, state={**bare.state, "optimizer": {"state": {}, "param_groups": []}}))
    with pytest.raises(InputError, match="does not fit this run"):
        train(tiny(schedule={"epochs": 2}), run.path, resume=True)


# ---------------------------------------------------------------------------------------------- stopping


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(UsageError, match=r"is not empty.*--force"):
        train(tiny(schedule={"epochs": 1}), tmp_path)
    train(tiny(schedule={"epochs": 1}, run={"save_every": 1}), tmp_path, force=True)
    with pytest.raises(UsageError, match="--resume"):
        train(tiny(), tmp_path)
    train(tiny(schedule={"epochs": 1}), tmp_path, force=True)
    assert (tmp_path / "mine.txt").read_text() == "keep me" and not (tmp_path / "epoch-0001.ckpt").exists()
    with pytest.raises(UsageError, match="is a file"):
        train(tiny(), tmp_path / "mine.txt")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_signal_saves_and_says_how_to_go_on(number: signal.Signals, tmp_path: Path) -> None:
    def interrupt(moment) -> None:
        if moment.step == BATCHES + 2:
            os.kill(os.getpid(), number)

    train(tiny(schedule={"epochs": 2}), tmp_path / "straight")
    before = signal.getsignal(number)
    teller = Teller(interrupt)
    outcome = train(tiny(schedule={"epochs": 2}), tmp_path / "a", watch=teller)
    assert signal.getsignal(number) is before
    assert not outcome.finished and outcome.measured == {}
    assert "interrupted: stopped in epoch 2" in teller.notes[-1]
    assert f"toolkit train --resume -o {tmp_path / 'a'}" in teller.notes[-1]
    train(resumed_recipe(outcome.folder, {}), tmp_path / "a", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "a")


def test_the_time_limit_ends_in_a_measured_model(tmp_path: Path) -> None:
    teller = Teller(lambda moment: time.sleep(0.02))
    outcome = train(
        tiny(schedule={"epochs": 500}, run={"max_minutes": 0.03}), tmp_path / "a", report=True, watch=teller
    )
    assert not outcome.finished and "time limit of 0.03 minutes" in teller.notes[-1]
    assert outcome.measured["validation"].overall.nme == pytest.approx(outcome.best_nme)
    assert (tmp_path / "a/predictions.png").exists() and load_checkpoint(tmp_path / "a/last.ckpt")


def broken_loss(monkeypatch: pytest.MonkeyPatch, at: int, happen) -> None:
    """From step `at` on, the loss does what `happen` does to it."""
    real, calls = loop.make_objective, [0]

    def make(recipe, spec):
        inner = real(recipe, spec)

        def loss(*arguments):
            calls[0] += 1
            value = inner(*arguments)
            return happen(value) if calls[0] >= at else value

        loss.pose, loss.heatmaps = inner.pose, inner.heatmaps
        return loss

    monkeypatch.setattr(loop, "make_objective", make)


@pytest.mark.parametrize(("bad", "word"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
def test_a_diverging_loss_is_one_clear_line(bad, word, tmp_path, monkeypatch) -> None:
    broken_loss(monkeypatch, BATCHES + 3, lambda value: value * bad)
    with pytest.raises(
        CheckFailedError, match=rf"loss became {word} in epoch 2, batch 3, step 6; intact in .*last\.ckpt"
    ):
        train(tiny(), tmp_path / "a")
    assert load_checkpoint(tmp_path / "a/last.ckpt").progress["epoch"] == 1
    assert CheckFailedError.exit_code == 1


def test_weights_that_diverge_at_the_last_step_are_not_saved(tmp_path, monkeypatch) -> None:
    def poison(value):
        return value + 0 * value  # a finite loss ...

    class Gradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("nan")  # ... whose gradient is not

    broken_loss(monkeypatch, 2 * BATCHES, lambda value: Gradient.apply(poison(value)))
    with pytest.raises(CheckFailedError, match="NaN or infinite"):
        train(tiny(), tmp_path / "a")
    assert load_checkpoint(tmp_path / "a/last.ckpt").progress["epoch"] == 1


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch) -> None:
    real = os.fsync

    def fill(moment) -> None:
        if moment.step == BATCHES + 1:
            monkeypatch.setattr(os, "fsync", full)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ToolkitError, match=r"disk is full.*intact in .*last\.ckpt, best\.ckpt"):
        train(tiny(), tmp_path / "a", watch=Teller(fill))
    monkeypatch.setattr(os, "fsync", real)
    assert load_checkpoint(tmp_path / "a/last.ckpt").progress["epoch"] == 1
    assert not list((tmp_path / "a").glob(".*tmp*"))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_out_of_memory_is_one_clear_line(error, tmp_path, monkeypatch) -> None:
    def burst(value):
        raise error

    broken_loss(monkeypatch, BATCHES + 2, burst)
    with pytest.raises(ToolkitError, match=r"out of memory; intact in .*--batch-size"):
        train(tiny(), tmp_path / "a")
    assert load_checkpoint(tmp_path / "a/last.ckpt").progress["epoch"] == 1


def test_other_errors_keep_their_name(tmp_path, monkeypatch) -> None:
    def burst(value):
        raise RuntimeError("a bug")

    broken_loss(monkeypatch, 2, burst)
    with pytest.raises(RuntimeError, match="a bug"):
        train(tiny(), tmp_path / "a")


# ---------------------------------------------------------------------------------------------- start, data


def test_starting_from_the_weights_of_another_run(finished: Path, tmp_path: Path) -> None:
    init = str(finished / "best.ckpt")
    outcome = train(tiny(model={"init": init}, schedule={"epochs": 1}, optimizer={"lr": 1e-6}), tmp_path / "a")
    best = load_checkpoint(finished / "best.ckpt").progress["best_nme"]
    assert outcome.best_nme == pytest.approx(best, rel=0.05)
    with pytest.raises(InputError, match=r"best\.ckpt: weight"):
        train(tiny(model={"init": init, "width": 0.05}), tmp_path / "b")
    with pytest.raises(InputError, match=r"best\.ckpt: cannot be grown"):
        train(tiny(model={"init": init, "width": 0.2}), tmp_path / "c")


@pytest.mark.parametrize(
    ("sections", "error"),
    [
        ({"data": {"train": []}}, "no training faces"),
        ({"data": {"train": ["/nowhere/at/all"]}}, "no such file or folder"),
        ({"data": {"train": ["synth:48:0"]}}, "weight must lie above 0"),
        ({"model": {"input_size": 100}}, "multiple of 16"),
        ({"model": {"architecture": "ghostone"}, "loss": {"aux_pose": 1.0}}, "aux-pose 1: only the network pfld"),
        ({"data": {"batch_size": 4096}}, "batch"),
        ({"run": {"amp": "fp16", "device": "cpu"}}, "fp16"),
        ({"run": {"device": "tpu"}}, "device 'tpu'"),
        ({"augment": {"change": ["rotaton=3"]}}, "rotaton"),
        ({"augment": {"change": ["rotation=much"]}}, "rotation must be a number"),
        ({"augment": {"change": ["rotation"]}}, "expected NAME=VALUE"),
        ({"loss": {"option": ["u=3"]}}, "no option 'u'"),
        ({"model": {"normaliser": "nose"}}, "nose"),
        ({"model": {"init": "/nowhere.ckpt"}}, "no such file"),
    ],
)
def test_impossible_recipes_are_refused_before_anything_is_written(sections, error, tmp_path) -> None:
    with pytest.raises(ToolkitError, match=error):
        train(tiny(**sections), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_weights_decide_how_often_faces_are_shown(tmp_path: Path) -> None:
    from train.distributed import Team
    from train.faces import augmentation, model_spec, open_all, prepare_faces
    from train.watch import Unwatched

    recipe = tiny(data={"train": ["synth:40@1:3", "synth:40@2"], "batch_size": 16})
    opened = open_all(recipe)
    spec = model_spec(recipe, opened.layout)
    faces = prepare_faces(recipe, spec, opened, Unwatched().working)
    batches = list(faces.loader(recipe, spec, augmentation(recipe), Team()).epoch(0))
    shown = np.concatenate([batch.indices for batch in batches])
    assert len(shown) == 80 and (shown < 40).sum() == 60


def test_held_out_faces_are_not_trained_on(tmp_path: Path) -> None:
    from train.faces import model_spec, open_all, prepare_faces
    from train.watch import Unwatched

    recipe = tiny(data={"train": ["synth:60@5"], "val": [], "val_fraction": 0.2})
    opened = open_all(recipe)
    faces = prepare_faces(recipe, model_spec(recipe, opened.layout), opened, Unwatched().working)
    part = faces.parts[0]
    trained = {part.pack.sample(int(i)).image.name for i in part.indices}
    held = {faces.validation.sample(i).image.name for i in range(len(faces.validation))}
    assert len(held) == 12 and len(trained) == 48 and not trained & held


def test_batch_nme_is_the_mean_of_the_faces_nme() -> None:
    generator = np.random.default_rng(1)
    from runtime.layouts import WFLW98

    truth = generator.uniform(0, 60, (5, 98, 2))
    points = truth + generator.normal(0, 2, truth.shape)
    known = np.ones((5, 98))
    known[1, 10:20] = 0
    known[2, 60] = 0  # its normaliser is not labelled
    hidden = np.where(known[..., None] > 0, truth, np.nan)
    tensors = [torch.from_numpy(a) for a in (points, np.nan_to_num(hidden, nan=30.0), known)]
    counted = [0, 1, 3, 4]
    for name in ("inter-ocular", "box"):
        normaliser = normaliser_for(WFLW98, name)
        faces = counted if name != "box" else [0, 1, 2, 3, 4]
        wanted = nme_per_face(points[faces], hidden[faces], normaliser).mean()
        assert float(batch_nme(*tensors, normaliser)) == pytest.approx(wanted, rel=1e-9)


def test_time_limit_before_the_first_epoch_ends_still_reports(tmp_path: Path) -> None:
    outcome = loop.train(tiny(run={"max_minutes": 1e-9}), tmp_path / "run")
    assert not outcome.finished and outcome.best_epoch == 1
    assert outcome.folder.results.is_file() and not outcome.folder.picture("curves").exists()


def test_what_stays_is_hidden_from_the_garbage_collector_and_shown_again(tmp_path, monkeypatch) -> None:
    frozen, step = [], loop.Training.step

    def watched(self: loop.Training, batch: object) -> object:
        frozen.append(gc.get_freeze_count())
        return step(self, batch)

    monkeypatch.setattr(loop.Training, "step", watched)
    loop.train(tiny(schedule={"epochs": 1}, run={"tensorboard": False}), tmp_path / "run")
    assert min(frozen) > 10_000
    assert gc.get_freeze_count() < 10_000


def test_the_jury_folds_branches_and_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    form = PlainForm(ModelSpec("ghostone", 0.1, 98, 32, branches=2))
    jury = Jury(form, Machine(torch.device("cpu"), None, channels_last=True), Team())
    weights, crops = jury.model.state_dict(), jury.cut(open_source("synth:8@3"), Unwatched().working)
    folded = jury.examine(weights, crops)
    monkeypatch.setattr("train.measure.branch_form", lambda _: branch_form("loop"))
    loops = jury.examine(weights, crops)
    assert np.abs(folded.points - loops.points).max() < 1e-4 * np.abs(loops.points).max()
    assert (folded.points != loops.points).any(), "computed in another way"


def test_denormal_numbers_are_back_after_training(tmp_path: Path) -> None:
    loop.train(tiny(schedule={"epochs": 1, "warmup": 0.5}), tmp_path / "run")
    smallest = torch.finfo(torch.float32).tiny
    assert float(torch.tensor(smallest) / 2) > 0
