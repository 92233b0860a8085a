"""A wide network that begins as a narrow one: the same landmarks, and copies that learn different things."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.errors import InputError
from runtime.spec import ModelSpec
from tests.train.tiny import Teller, tiny
from train.checkpoint import Checkpoint, load_checkpoint
from train.grow import grow, may_grow, prove_grown
from train.loop import train
from train.models.zoo import build

FACES = np.random.default_rng(5).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


def narrow(architecture: str, width: float, branches: int = 2) -> Checkpoint:
    """A network whose norms hold statistics of their own, as a trained one's do."""
    torch.manual_seed(1)
    spec = ModelSpec(architecture=architecture, width=width, input_size=32, branches=branches)
    model = build(spec)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.3, 0.3)
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.from_numpy(FACES).permute(0, 3, 1, 2).float() / 255)
    return Checkpoint("multi-branch", spec, model.state_dict())


def grown(start: Checkpoint, width: float, seed: int = 0) -> torch.nn.Module:
    model = build(replace(start.spec, width=width))
    model.load_state_dict(grow(start.weights, model.state_dict(), seed, "a.ckpt"))
    return model


@pytest.mark.parametrize(
    ("architecture", "width", "times"),
    [
        ("ghostone", 0.25, 2),
        ("ghostone", 0.25, 4),
        ("ghostone", 0.25, 3),
        ("ghostnet", 0.25, 2),
        ("ghostnet-slim", 0.25, 2),
        ("pfld", 0.25, 2),
        ("resnet18", 0.125, 2),
    ],
)
def test_a_grown_network_computes_what_the_narrow_one_does(architecture: str, width: float, times: int) -> None:
    start = narrow(architecture, width)
    model = grown(start, times * width)
    model.train()
    assert prove_grown(start, model, FACES, "a.ckpt") < 1e-5
    assert model.training, "the proof leaves the network as it found it"


def test_the_proof_notices_a_network_that_differs() -> None:
    start = narrow("ghostone", 0.25)
    model = grown(start, 0.5)
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if name.endswith("fc.bias"))[3] += 2e-4
    with pytest.raises(InputError, match=r"a\.ckpt: a wider ghostone does not compute the same"):
        prove_grown(start, model, FACES, "a.ckpt")


def test_shuffled_channels_cannot_be_grown_and_are_refused() -> None:
    start = narrow("shufflenetv2", 1.0)
    with pytest.raises(InputError, match="start it without --init"):
        prove_grown(start, grown(start, 2.0), FACES, "a.ckpt")


def test_no_two_copies_of_a_channel_are_taught_alike() -> None:
    model = grown(narrow("ghostone", 0.25), 0.5)
    images = torch.from_numpy(FACES).permute(0, 3, 1, 2).float() / 255
    model(images).square().sum().backward()
    kernels = [m.weight for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.groups == 1]
    for kernel in kernels[:-1]:
        rows = kernel.grad.flatten(1)
        pairs = torch.nn.functional.cosine_similarity(rows[0::2], rows[1::2])
        alive = rows.abs().amax(1)[0::2] > 1e-9
        assert pairs[alive].max() < 0.9999, tuple(kernel.shape)


@pytest.mark.parametrize("broken", [torch.zeros(0), torch.zeros(3, 2), torch.zeros(9)])
def test_damaged_weights_are_refused(broken: torch.Tensor) -> None:
    start = narrow("pfld", 0.25)
    start.model["fc.bias"] = broken
    with pytest.raises(InputError, match=r"a\.ckpt: cannot be grown: fc\.bias is"):
        grown(start, 0.5)


def test_the_shares_follow_the_seed() -> None:
    heads = [grown(narrow("ghostone", 0.25), 0.5, seed).state_dict()["fc.weight"] for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_which_networks_may_grow() -> None:
    spec = ModelSpec(architecture="ghostone", width=0.25, input_size=32, branches=2)
    assert may_grow(spec, replace(spec, width=0.5))
    assert not may_grow(spec, spec) and not may_grow(replace(spec, width=0.5), spec)
    for change in ({"branches": 3}, {"input_size": 64}, {"architecture": "ghostnet"}):
        assert not may_grow(spec, replace(spec, width=0.5, **change))


def test_a_run_grows_what_init_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = {"architecture": "pfld", "width": 0.125}
    asked: list[int] = []
    monkeypatch.setattr("train.form.grow", lambda *given: asked.append(given[2]) or grow(*given))
    train(tiny(model=model, schedule={"epochs": 2}), tmp_path / "narrow")
    init, still = str(tmp_path / "narrow" / "best.ckpt"), {"schedule": {"epochs": 1}, "optimizer": {"lr": 1e-7}}
    teller = Teller()
    outcome = train(tiny(model={**model, "width": 0.25, "init": init}, **still), tmp_path / "wide", watch=teller)
    assert asked == [3], "the run's seed"
    assert any(f"grown from {init}, width 0.125, to 0.25" in note for note in teller.notes)
    assert load_checkpoint(tmp_path / "wide" / "best.ckpt").spec.width == 0.25
    same = train(tiny(model={**model, "init": init}, **still), tmp_path / "same")
    assert outcome.best_nme == pytest.approx(same.best_nme, rel=1e-3)
    monkeypatch.setattr("train.form.grow", lambda *given: grow(*given) | {"fc.bias": torch.zeros(196)})
    with pytest.raises(InputError, match="does not compute the same"):
        train(tiny(model={**model, "width": 0.25, "init": init}), tmp_path / "other")
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"cannot be grown: .* is \(8, 3, 3, 3\) there and \(12, 3, 3, 3\)"):
        train(tiny(model={**model, "width": 0.1875, "init": init}), tmp_path / "uneven")
    with pytest.raises(InputError, match=r"best\.ckpt: weight"):
        train(tiny(model={**model, "width": 0.0625, "init": init}), tmp_path / "less")
