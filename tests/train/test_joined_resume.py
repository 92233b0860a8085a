"""A run whose blocks are computed in joint passes goes on to the bit after it was stopped."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from tiny import BATCHES, Teller, tiny

from runtime.spec import ModelSpec
from train import loop
from train.checkpoint import load_checkpoint
from train.form import PlainForm
from train.loop import train
from train.machine import Machine
from train.models.kernels import library
from train.resume import resumed_recipe
from train.rundir import RunDirectory

pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler here, so training does without kernels")


class Stop(Exception):  # noqa: N818 - no error, an end
    """Ends a run from inside, like a crash."""


def test_resume_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "write_report", lambda *_: {})  # pictures take seconds
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe = tiny(
        model={"architecture": "ghostone", "branches": 1}, schedule={"epochs": 2}, run={"channels_last": True}
    )

    def stop(moment) -> None:
        if moment.step == BATCHES + 1:
            raise Stop

    train(recipe, tmp_path / "straight")
    with pytest.raises(Stop):
        train(recipe, tmp_path / "stopped", watch=Teller(stop))
    train(resumed_recipe(RunDirectory(tmp_path / "stopped"), {}), tmp_path / "stopped", resume=True)
    straight, stopped = (load_checkpoint(tmp_path / name / "last.ckpt") for name in ("straight", "stopped"))
    assert straight.model.keys() == stopped.model.keys()
    for name, value in straight.model.items():
        assert value.equal(stopped.model[name]), name


def test_missing_kernels_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, form = Machine(torch.device("cpu"), None, True), PlainForm(ModelSpec("ghostone", branches=1))
    assert not loop.slow_blocks(form, machine)
    monkeypatch.setattr(loop, "library", lambda: None)
    assert "no C compiler" in loop.slow_blocks(form, machine)[0]
    assert not loop.slow_blocks(PlainForm(ModelSpec("ghostone", branches=4)), machine)
    assert not loop.slow_blocks(PlainForm(ModelSpec("pfld", branches=1)), machine)
