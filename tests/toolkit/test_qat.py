"""`toolkit train --qat`: what lies in its checkpoint, resuming to the bit, learning, and refusals."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))

from tiny import BATCHES, Teller, tiny

from calib.fake_net import FakeQuantNet, net_of
from calib.graph import Graph
from calib.observe import Observation, observe_peaks
from calib.plan import Plan, plain_weight_scales, to_batch
from calib.ranges import group_scales
from calib.sites import find_sites
from calib.trace import trace
from export.fuse import fuse
from runtime.errors import InputError, ToolkitError, UsageError
from runtime.spec import ModelSpec
from toolkit import qat
from toolkit.cli import train as command
from toolkit.qat import make_form
from train import loop
from train.checkpoint import Checkpoint, load_checkpoint, model_of, save_checkpoint
from train.data.open import open_source
from train.evaluate import crop_faces, evaluate, torch_predictor
from train.loop import Outcome
from train.models.zoo import build
from train.recipe import KEYS, Recipe
from train.resume import resumed_recipe
from train.rundir import RunDirectory
from train.settle import settle

LEARNING_STEPS = 50
FLAGS = {key.flag: key for key in KEYS.values()}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Packs of this module's faces, made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, cache: None) -> Path:
    """A float run of a few epochs."""
    folder = tmp_path_factory.mktemp("runs") / "float"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "write_report", lambda *_: {})
        loop.train(tiny(schedule={"epochs": 10}), folder)
    return folder / "best.ckpt"


@pytest.fixture(autouse=True)
def quick_start(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain ranges instead of the whole calibration, which takes seconds and has tests of its own."""
    if "whole_calibration" in request.keywords:
        return

    def plain(graph: Graph, spec: ModelSpec, images: Any, *_: Any) -> Any:
        sites = find_sites(graph)
        seen = Observation(observe_peaks(graph, sites, images, spec), {})
        plan = Plan(graph, sites, group_scales(sites, seen), plain_weight_scales(graph, sites))
        return SimpleNamespace(plan=plan, why=lambda: "min-max")

    monkeypatch.setattr("calib.qat.starting_plan", plain)


def recipe_for(start: Path, **sections: dict[str, object]) -> Recipe:
    """The tiny run's faces, by the way of the command: a recipe with flags over it."""
    base = tiny().to_dict()
    given: dict[str, Any] = {"qat": True, "init": str(start), "qat-faces": 32, "epochs": 3, "ema": 0.9}
    for section in ("data", "run"):
        for name, value in {**base[section], **sections.get(section, {})}.items():
            given[KEYS[section, name].flag] = value
    given |= {KEYS[s, n].flag: v for s, values in sections.items() for n, v in values.items()}
    given.pop("amp")
    return settle(None, {FLAGS[flag]: value for flag, value in given.items()})[0]


def train(recipe: Recipe, folder: Path, *, report: bool = False, **options: Any) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        if not report:
            patch.setattr(loop, "write_report", lambda *_: {})
        return qat.train(recipe, folder, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, start: Path) -> Path:
    folder = tmp_path_factory.mktemp("qat") / "whole"
    outcome = train(recipe_for(start), folder, report=True)
    assert outcome.finished and outcome.measured["validation"].overall.nme == outcome.best_nme
    return folder


# ---------------------------------------------------------------------------------------------- the checkpoint


def test_the_checkpoint_is_a_fused_one_that_carries_its_steps(finished: Path, start: Path) -> None:
    best = load_checkpoint(finished / "best.ckpt")
    assert best.kind == "fused" and best.ema is None and best.int8 is not None
    assert best.spec == load_checkpoint(start).spec
    model = model_of(best)
    assert set(best.int8.weights) == {n for n, w in model.state_dict().items() if w.dim() == 4}
    for name, steps in best.int8.weights.items():
        codes = best.model[name] / steps.view(-1, 1, 1, 1)
        assert torch.allclose(codes, codes.round(), atol=1e-3) and codes.abs().max() < 127.5


def test_the_best_is_judged_as_integers(finished: Path) -> None:
    """The NME in the log is that of the integer network that the file describes."""
    best = load_checkpoint(finished / "best.ckpt")
    crops = crop_faces(open_source("synth:12@2"), best.spec)
    found = evaluate(torch_predictor(net_of(best)), crops, best.spec).overall.nme
    assert found == pytest.approx(best.progress["best_nme"], rel=1e-12)
    in_float = evaluate(torch_predictor(model_of(best)), crops, best.spec).overall.nme
    assert in_float != found


def test_eval_says_that_it_measures_the_float_form(
    finished: Path, start: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from toolkit.cli import main

    with pytest.raises(SystemExit) as end:
        main(["eval", str(finished / "best.ckpt"), str(start), "--data", "synth:4@2"])
    assert not end.value.code
    told = capsys.readouterr().err
    assert told.count("warning:") == 1 and f"{finished / 'best.ckpt'} was trained for int8" in told
    assert f"toolkit export {finished / 'best.ckpt'} --int8 qat" in told


def test_damaged_steps_are_refused(finished: Path, tmp_path: Path) -> None:
    best = load_checkpoint(finished / "best.ckpt")
    assert best.int8 is not None
    name = next(iter(best.int8.weights))
    bad = Checkpoint("fused", best.spec, best.model, int8=best.int8)
    for broken, words in (
        (torch.zeros(3), "positive float32"),
        (torch.ones(2, 2), "rank 1"),
        (torch.tensor([float("nan")]), "NaN"),
    ):
        best.int8.weights[name], kept = broken, best.int8.weights[name]
        save_checkpoint(tmp_path / "bad.ckpt", bad)
        best.int8.weights[name] = kept
        with pytest.raises(InputError, match=words):
            load_checkpoint(tmp_path / "bad.ckpt")


def test_a_fused_start_and_a_second_round_work(finished: Path, tmp_path: Path) -> None:
    """A checkpoint that is fused already, and is of int8 training even, can be the start of another run."""
    again = train(recipe_for(finished / "best.ckpt", schedule={"epochs": 1}), tmp_path / "again")
    assert again.finished and load_checkpoint(tmp_path / "again/last.ckpt").int8 is not None


# ---------------------------------------------------------------------------------------------- training


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


class PlugPulledError(Exception):
    """The run ends here."""


@pytest.mark.parametrize("learn_steps", [True, False])
def test_a_resumed_run_is_the_straight_one_to_the_bit(learn_steps: bool, start: Path, tmp_path: Path) -> None:
    options: dict[str, dict[str, object]] = {"schedule": {"epochs": 2}, "qat": {"learn_steps": learn_steps}}
    train(recipe_for(start, **options), tmp_path / "straight")

    def stop(moment: Any) -> None:
        if moment.step == BATCHES + 2:
            raise PlugPulledError

    with pytest.raises(PlugPulledError):
        train(recipe_for(start, run={"save_minutes": 1e-9}, **options), tmp_path / "cut", watch=Teller(stop))
    half = load_checkpoint(tmp_path / "cut/last.ckpt")
    assert (half.progress["epoch"], half.progress["batch"]) == (1, 1)
    recipe = resumed_recipe(RunDirectory(tmp_path / "cut"), {KEYS["run", "save_minutes"]: 0.0})
    train(recipe, tmp_path / "cut", resume=True)
    a, b = (load_checkpoint(tmp_path / name / "last.ckpt") for name in ("straight", "cut"))
    assert same(a.model, b.model) and same(a.state, b.state)
    assert a.int8 is not None and b.int8 is not None and same(a.int8.weights, b.int8.weights)
    assert same(a.int8.activations, b.int8.activations)
    moved = a.state["network"]["group_ratio"]
    assert bool((moved != 1).any()) == learn_steps


def test_resuming_with_another_start_is_refused(start: Path, tmp_path: Path) -> None:
    mine = tmp_path / "start.ckpt"
    mine.write_bytes(start.read_bytes())
    train(recipe_for(mine, schedule={"epochs": 1}), tmp_path / "run")
    other = load_checkpoint(start)
    save_checkpoint(mine, Checkpoint(other.kind, other.spec, other.model, other.ema))
    with pytest.raises(InputError, match="changed since"):
        train(resumed_recipe(RunDirectory(tmp_path / "run"), {}), tmp_path / "run", resume=True)


@pytest.mark.parametrize("learn_steps", [True, False])
def test_learning_repairs_what_coarse_steps_broke(learn_steps: bool, start: Path) -> None:
    """Steps of four times the length move the landmarks; imitating the float network brings them back."""
    checkpoint = load_checkpoint(start)
    model = fuse(model_of(checkpoint), checkpoint.spec)
    faces = crop_faces(open_source("synth:48@1"), checkpoint.spec).images
    batch = to_batch(faces, checkpoint.spec)
    wanted = model(batch).detach()
    graph = trace(model, checkpoint.spec)
    sites = find_sites(graph)
    seen = Observation(observe_peaks(graph, sites, faces, checkpoint.spec), {})
    net = FakeQuantNet(checkpoint.spec, learn_steps)
    net.load_plan(Plan(graph, sites, group_scales(sites, seen, widen=4.0), plain_weight_scales(graph, sites)))
    groups = [{"params": net.weight_parameters, "lr": 0.1}, {"params": net.step_parameters, "lr": 0.01}]
    optimizer = torch.optim.Adam(groups[: 1 + learn_steps])

    def shift() -> float:
        return float((net.eval()(batch) - wanted).abs().mean())

    before = shift()
    for _ in range(LEARNING_STEPS):
        optimizer.zero_grad()
        (net.train()(batch) - wanted).abs().mean().backward()
        optimizer.step()
    assert shift() < 0.85 * before


@pytest.mark.slow
def test_every_process_starts_from_the_same_weights(start: Path, tmp_path: Path) -> None:
    from subprocess import run

    code = (
        "import os; from pathlib import Path; from train.recipe import read_recipe; from toolkit.qat import train; "
        f"train(read_recipe({str(tmp_path / 'r.toml')!r}), Path({str(tmp_path / 'run')!r}))"
    )
    (tmp_path / "r.toml").write_text(recipe_for(start, schedule={"epochs": 1}, data={"batch_size": 8}).to_toml())
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    (tmp_path / "go.py").write_text(code)
    root = str(Path(__file__).parents[2])
    done = run(
        [*torchrun, str(tmp_path / "go.py")], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert load_checkpoint(tmp_path / "run/last.ckpt").int8 is not None


# ---------------------------------------------------------------------------------------------- refusals


def refusal(*arguments: str, out: Path) -> str:
    """What the command says; nothing may be written."""
    import typer
    from typer.testing import CliRunner

    app = typer.Typer()
    app.command("train")(command.run)
    app.command("other")(lambda: None)
    with pytest.raises(ToolkitError) as caught:
        CliRunner().invoke(app, ["train", "--data", "synth:32", "-o", str(out), *arguments], catch_exceptions=False)
    assert not out.exists() and "\n" not in str(caught.value)
    return str(caught.value)


def test_contradictions_are_one_clear_line(start: Path, tmp_path: Path) -> None:
    out, qat_of = tmp_path / "out", ["--qat", "--init", str(start)]
    assert "--init" in refusal("--qat", out=out)
    assert "add --qat" in refusal("--qat-step-rate", "0.5", out=out)
    said = refusal(*qat_of, "--width", "0.5", out=out)
    assert f"--width 0.5: {start} has 0.1" in said and "leave --width out" in said
    assert "--model ghostone" in refusal(*qat_of, "--model", "ghostone", out=out)
    assert "--input-size 64" in refusal(*qat_of, "--input-size", "64", out=out)
    assert "--loss pfld" in refusal(*qat_of, "--loss", "pfld", out=out)
    assert "--amp bf16" in refusal(*qat_of, "--amp", "bf16", out=out)
    assert "--optimizer muon" in refusal(*qat_of, "--optimizer", "muon", out=out)
    assert "none.ckpt" in refusal("--qat", "--init", str(tmp_path / "none.ckpt"), out=out)


def test_starts_that_int8_cannot_take_are_one_clear_line(tmp_path: Path) -> None:
    spec = ModelSpec("resnet18", 0.1, 98, 64, 1, "wflw98")
    save_checkpoint(tmp_path / "r.ckpt", Checkpoint("multi-branch", spec, build(spec).state_dict()))
    said = refusal("--qat", "--init", str(tmp_path / "r.ckpt"), out=tmp_path / "out")
    assert "int8 knows pfld, ghostnet, ghostnet-slim, ghostone, this is resnet18" in said
    torch.save({"state_dict": build(spec).state_dict()}, tmp_path / "foreign.pth")
    assert "toolkit import" in refusal("--qat", "--init", str(tmp_path / "foreign.pth"), out=tmp_path / "out")
    fresh = ModelSpec("pfld", 0.1, 98, 32, 1, "wflw98")
    save_checkpoint(tmp_path / "f.ckpt", Checkpoint("multi-branch", fresh, build(fresh).state_dict()))
    assert "never seen data" in refusal("--qat", "--init", str(tmp_path / "f.ckpt"), out=tmp_path / "out")


def test_the_loop_alone_does_not_train_int8(start: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"toolkit\.qat\.train"):
        loop.train(recipe_for(start), tmp_path / "run")


def test_a_recipe_for_float_training_lends_its_faces_only(start: Path, tmp_path: Path) -> None:
    config = tmp_path / "r.toml"
    config.write_text("[data]\ntrain = ['synth:48@1']\n[optimizer]\nlr = 0.005\n[schedule]\nepochs = 80\n")
    given = {FLAGS["qat"]: True, FLAGS["init"]: str(start)}
    recipe, notes = settle(config, given)
    assert recipe.data.train == ("synth:48@1",) and recipe.schedule.epochs == 10 and recipe.optimizer.lr == 0.02
    assert "optimizer, schedule" in notes[0] and recipe.distill.teacher == (str(start),)
    config.write_text("[qat]\nenabled = true\n[schedule]\nepochs = 80\n")
    recipe, notes = settle(config, {FLAGS["init"]: str(start), FLAGS["lr"]: 0.001})
    assert recipe.schedule.epochs == 80 and recipe.optimizer.lr == 0.001 and not notes
    assert settle(config, {**given, FLAGS["teacher-weight"]: 0.0})[0].distill.teacher == ()


def test_the_start_is_fused_exactly(start: Path) -> None:
    form = make_form(recipe_for(start))
    batch = torch.rand(4, 3, 32, 32)
    graph = trace(form.start.model, form.spec)
    assert not any("bn" in name for name in graph.parameters)
    assert torch.allclose(form.start.model(batch), model_of(load_checkpoint(start))(batch), atol=1e-5)
