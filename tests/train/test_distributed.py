"""Two processes train like one with the double batch: same losses, same validation, same weights within float error."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from tiny import tiny

from runtime.errors import UsageError
from train import loop
from train.checkpoint import load_checkpoint
from train.distributed import Team, average_gradients, join

HERE = Path(__file__).parent
TORCHRUN_LIKE = """
import sys
from pathlib import Path
from train import loop
from train.recipe import read_recipe
import torch
finish = loop.Training.finish
def keep_and_finish(self, stop):
    torch.save(self.state.model.state_dict(), f"{sys.argv[2]}-{self.team.rank}.pt")
    return finish(self, stop)
loop.Training.finish = keep_and_finish
if sys.argv[3] == "unseen":
    loop.write_report = lambda *_: {}
loop.train(read_recipe(sys.argv[1]), Path(sys.argv[2]))
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(recipe: Path, folder: Path, rank: int, port: int, report: str) -> subprocess.Popen[str]:
    """A worker, with the environment that torchrun gives it."""
    world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    environment = {
        **os.environ,
        **{name: str(value) for name, value in world.items()},
        "MASTER_ADDR": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(HERE.parents[1]),
    }
    command = [sys.executable, "-c", TORCHRUN_LIKE, str(recipe), str(folder), report]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


# Three processes that load torch; the only proof that gradients, norms and shards fit together.
GHOSTONE = {"architecture": "ghostone", "width": 0.1, "branches": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "joint"),
    [({"width": 0.1}, True), (GHOSTONE, True), (GHOSTONE, False)],
    ids=["pfld", "joined passes", "norms apart"],
)
def test_two_processes_train_like_one_with_the_double_batch(
    model: dict[str, object], joint: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sections = {
        "model": model,
        "optimizer": {"name": "sgd", "lr": 2e-5},
        "schedule": {"epochs": 2},
        "run": {"tensorboard": False, "channels_last": True, "joint_norms": joint},
    }
    report = "unseen" if "branches" in model else "seen"  # pictures take seconds, so one case is enough
    if report == "unseen":
        monkeypatch.setattr(loop, "write_report", lambda *_: {})
    alone = tiny(**{**sections, "data": {"batch_size": 16}})
    loop.train(alone, tmp_path / "alone")
    half = tmp_path / "half.toml"
    half.write_text(tiny(**{**sections, "data": {"batch_size": 8}}).to_toml())
    port = free_port()
    workers = [start(half, tmp_path / "two", rank, port, report) for rank in (0, 1)]
    for worker in workers:
        text, _ = worker.communicate(timeout=240)
        assert worker.returncode == 0, text

    first, second = (torch.load(tmp_path / f"two-{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, tensor in first.items():
        assert tensor.equal(second[name]), f"the processes do not agree on {name}"

    def log(folder: Path) -> list[dict[str, float]]:
        with (folder / "log.csv").open() as stream:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]

    if not joint:  # halves of a batch have other statistics than the whole, so the losses are near, not equal
        for one, two in zip(log(tmp_path / "alone"), log(tmp_path / "two"), strict=True):
            assert two["train_loss"] == pytest.approx(one["train_loss"], rel=0.2)
            assert two["train_loss"] != one["train_loss"]
        return
    for one, two in zip(log(tmp_path / "alone"), log(tmp_path / "two"), strict=True):
        assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-5)
        assert two["train_nme"] == pytest.approx(one["train_nme"], rel=1e-5)
        assert two["val_nme"] == pytest.approx(one["val_nme"], rel=1e-3)
    a, b = load_checkpoint(tmp_path / "alone/last.ckpt"), load_checkpoint(tmp_path / "two/last.ckpt")
    for name, tensor in a.model.items():
        torch.testing.assert_close(
            b.model[name], tensor, rtol=2e-3, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert report == "unseen" or (tmp_path / "two/predictions.png").exists()
    assert b.progress["best_nme"] > 0


def test_alone_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join("cpu") as team:
        assert team == Team() and team.leads and team.gather(3) == [3]
    weight = torch.ones(2, requires_grad=True)
    weight.grad = torch.tensor([1.0, 2.0])
    average_gradients(Team(), [weight])
    assert weight.grad.tolist() == [1.0, 2.0]


def test_the_mean_of_tensors_of_all_shapes_in_one_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    exchanged = []

    def other_process(flat: torch.Tensor) -> None:
        exchanged.append(flat.numel())
        flat.mul_(3)  # the other process holds twice what this one does

    monkeypatch.setattr("train.distributed.dist.all_reduce", other_process)
    image = torch.arange(48.0).view(2, 3, 2, 4).contiguous(memory_format=torch.channels_last)
    tensors = [torch.tensor([2.0, 4.0]), image, torch.tensor(6.0), torch.full((2, 2), 8.0, dtype=torch.float64)]
    before = [tensor.clone() for tensor in tensors]
    Team(0, 2).average(tensors)
    assert exchanged == [2 + 48 + 1 + 4]
    for tensor, old in zip(tensors, before, strict=True):
        torch.testing.assert_close(tensor, old * 1.5, rtol=0, atol=0)


def test_a_broken_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UsageError, match="WORLD_SIZE='two'"), join("cpu"):
        pass
