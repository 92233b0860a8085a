"""Fusing: every kind of block, exactness under hard statistics, refusals, files."""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from hard import hard_model

from export.fuse import fuse, fuse_checkpoint, fuse_module
from export.verify_fuse import fuse_checks, prove, random_faces
from runtime.errors import InputError, UsageError
from runtime.files import sha256_file
from runtime.spec import ModelSpec
from train.checkpoint import Checkpoint, load_checkpoint, load_model, save_checkpoint
from train.models.mobileone import FusedBlock, MobileOneBlock, branch_form
from train.models.zoo import build


def small(name: str, width: float = 0.125) -> ModelSpec:
    return ModelSpec(name, width, points=5, input_size=32, branches=2, layout="plain5")


def fed(module: nn.Module, x: Tensor) -> nn.Module:
    """Let every BN see data, and make its weights and statistics uneven."""
    for norm in module.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    with torch.no_grad():
        module.train()(x * 3 + 1)
    return module.eval()


def same(module: nn.Module, fused: nn.Module, x: Tensor) -> bool:
    with torch.no_grad(), branch_form("loop"):
        wanted = module.double()(x.double())
        return bool((fused.double()(x.double()) - wanted).abs().max() <= 1e-12 * wanted.abs().max())


@pytest.mark.parametrize("width", [0.125, 0.3])
@pytest.mark.parametrize("name", ["pfld", "ghostnet", "ghostnet-slim", "ghostone"])
def test_every_model_is_proven_under_hard_statistics(name: str, width: float) -> None:
    spec = small(name, width)
    model = hard_model(spec, seed=11)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fused = fuse(model, spec)
    proof = prove(model, fused, spec, random_faces(spec, 2, 5))
    assert proof.passed, proof.problems
    assert proof.whole is not None and proof.whole.exact < 1e-10
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "the original was touched"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pfld", "ghostnet", "ghostnet-slim", "ghostone"])
def test_the_full_width_is_proven(name: str) -> None:
    """Minutes of float64 convolutions: the widths that ship must pass, not only the small ones."""
    spec = ModelSpec(name, 1.0)
    model = hard_model(spec, seed=12)
    assert prove(model, fuse(model, spec), spec, random_faces(spec, 2, 6)).passed


def test_the_result_is_plain_trainable_and_in_eval_mode() -> None:
    spec = small("ghostone")
    fused = fuse(hard_model(spec), spec)
    assert list(fused.state_dict()) == list(build(spec, fused=True).state_dict())
    assert not any(isinstance(m, (MobileOneBlock, nn.BatchNorm2d)) or m.training for m in fused.modules())
    assert list(fused.buffers()) == [] and all(p.requires_grad and p.is_leaf for p in fused.parameters())
    fused(torch.rand(1, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in fused.parameters())


def test_fusing_twice_changes_nothing() -> None:
    spec = small("ghostone")
    once = fuse(hard_model(spec), spec)
    twice = fuse(once, spec)
    assert twice is not once
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), twice.parameters(), strict=True))


def test_numbers_are_rounded_once_from_float64() -> None:
    torch.manual_seed(3)
    block = fed(MobileOneBlock(6, 6, 3, groups=6, branches=4), torch.rand(4, 6, 8, 8))
    wide = fuse_module(copy.deepcopy(block).double())
    for stored, exact in zip(fuse_module(block).parameters(), wide.parameters(), strict=True):
        assert torch.equal(stored, exact.float())


@pytest.mark.parametrize(
    "inputs, outputs, kernel, stride, groups",
    [
        (6, 6, 1, 1, 1),
        (4, 8, 1, 1, 1),
        (6, 6, 3, 1, 1),
        (3, 8, 3, 2, 1),
        (6, 6, 3, 1, 6),
        (6, 6, 3, 2, 6),
        (8, 8, 3, 1, 2),
        (8, 4, 3, 2, 4),
        (4, 4, 5, 1, 4),
    ],
)
def test_every_kind_of_block(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> None:
    torch.manual_seed(4)
    x = torch.rand(4, inputs, 9, 10)
    block = fed(MobileOneBlock(inputs, outputs, kernel, stride=stride, groups=groups, branches=2), x)
    wide = copy.deepcopy(block).double()
    fused = fuse_module(wide)
    assert isinstance(fused, FusedBlock)
    assert same(wide, fused, x)


@pytest.mark.parametrize(
    "layers, shape",
    [
        ([nn.Conv2d(4, 6, 3, bias=True), nn.BatchNorm2d(6), nn.ReLU()], (4, 4, 9, 9)),
        ([nn.Conv2d(4, 6, 3, 2, 2, dilation=2, groups=2), nn.BatchNorm2d(6)], (4, 4, 9, 9)),
        ([nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4, eps=0.1)], (4, 4, 9, 9)),
        ([nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 2), nn.BatchNorm1d(2)], (8, 5)),
        ([nn.Linear(5, 7), nn.BatchNorm1d(7, affine=False)], (8, 5)),
    ],
)
def test_sequences_of_any_module(layers: list[nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(5)
    model, x = nn.Sequential(nn.Sequential(*layers), nn.Identity()), torch.rand(shape)
    for norm in layers:
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)) and not norm.affine:
            model.train()(x)
            model.eval()
            break
    else:
        fed(model, x)
    wide = model.double()
    fused = fuse_module(wide)
    assert not any("BatchNorm" in type(m).__name__ for m in fused.modules())
    assert same(wide, fused, x)


def test_named_sequences_keep_their_names() -> None:
    model = nn.ModuleDict(
        {"stem": nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 1), bn=nn.BatchNorm2d(4), act=nn.ReLU()))}
    )
    fed(model["stem"], torch.rand(4, 3, 5, 5))
    assert sorted(fuse_module(model).state_dict()) == ["stem.conv.bias", "stem.conv.weight"]


class Apart(nn.Module):
    """Layers and norms that only `forward` brings together."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.fc, self.bn2 = nn.Linear(4, 5), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu().mean((2, 3))
        y: Tensor = self.bn2(self.fc(x))
        return y


def test_named_pairs_are_fused() -> None:
    torch.manual_seed(6)
    x = torch.rand(8, 3, 7, 7)
    model = fed(Apart(), x).double()
    fused = fuse_module(model, [("conv1", "bn1"), ("fc", "bn2")])
    assert isinstance(fused.get_submodule("bn1"), nn.Identity)
    assert same(model, fused, x)
    with pytest.raises(UsageError, match="no part 'bn9'"):
        fuse_module(model, [("conv1", "bn9")])
    with pytest.raises(UsageError, match="expected a convolution"):
        fuse_module(model, [("bn1", "conv1")])


def test_a_norm_that_never_saw_data_is_refused_by_name() -> None:
    spec = small("ghostone")
    model = build(spec)
    with pytest.raises(InputError, match=r"block conv1\.rbr_skip|block conv1\.rbr_conv\.0\.bn: .*never seen data"):
        fuse(model, spec)
    assert fuse(model, spec, known_good=True)


@pytest.mark.parametrize(
    "part, value, says",
    [
        ("running_var", float("nan"), "running variance of channel 1 is nan"),
        ("running_mean", float("inf"), "running mean of channel 1 is inf"),
        ("weight", float("nan"), "gamma of channel 1 is nan"),
        ("running_var", -1.0, "negative"),
    ],
)
def test_impossible_statistics_are_refused_by_name(part: str, value: float, says: str) -> None:
    spec = small("ghostnet")
    model = hard_model(spec)
    getattr(model.get_submodule("conv3_2.ghost_conv.0.primary_conv.1"), part).data[1] = value
    with pytest.raises(InputError, match=rf"conv3_2\.ghost_conv\.0\.primary_conv\.1: .*{says}"):
        fuse(model, spec, known_good=True)


def test_a_norm_without_statistics_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(InputError, match="no running statistics"):
        fuse_module(model)


def test_a_model_of_another_spec_is_refused() -> None:
    with pytest.raises(InputError, match="fused model: "):
        fuse(hard_model(small("ghostone")), small("ghostone", 0.25))


def test_a_checkpoint_becomes_a_fused_one_that_names_its_parent(tmp_path: Path) -> None:
    spec = small("ghostone")
    model, average = hard_model(spec, 1), hard_model(spec, 2)
    source, target = tmp_path / "best.ckpt", tmp_path / "fused.ckpt"
    checkpoint = Checkpoint(
        kind="multi-branch", spec=spec, model=model.state_dict(), ema=average.state_dict(), progress={"epoch": 3}
    )
    save_checkpoint(source, checkpoint)
    fuse_checkpoint(source, target)
    fused, loaded = load_model(target)
    assert (loaded.kind, loaded.spec, loaded.parent, loaded.ema) == ("fused", spec, sha256_file(source), None)
    assert loaded.progress == {"epoch": 3} and loaded.state == {}
    wanted = fuse(average, spec)
    assert all(torch.equal(a, b) for a, b in zip(fused.parameters(), wanted.parameters(), strict=True))
    first = target.read_bytes()
    fuse_checkpoint(source, target)
    assert target.read_bytes() == first
    with pytest.raises(UsageError, match="already a fused checkpoint"):
        fuse_checkpoint(target, tmp_path / "again.ckpt")
    assert not (tmp_path / "again.ckpt").exists()


def test_an_untrained_checkpoint_is_refused_with_its_file_name(tmp_path: Path) -> None:
    spec = small("ghostone")
    save_checkpoint(tmp_path / "raw.ckpt", Checkpoint(kind="multi-branch", spec=spec, model=build(spec).state_dict()))
    with pytest.raises(InputError, match=r"raw\.ckpt: block conv1"):
        fuse_checkpoint(tmp_path / "raw.ckpt", tmp_path / "fused.ckpt")
    assert not (tmp_path / "fused.ckpt").exists()
    assert load_checkpoint(tmp_path / "raw.ckpt").kind == "multi-branch"


def test_checks_for_the_manifest_pass_and_fail() -> None:
    spec = small("ghostnet")
    model = hard_model(spec)
    fused = fuse(model, spec)
    checks = fuse_checks(model, fused, spec, random_faces(spec, 2, 7))
    assert [check.name for check in checks if not check.passed] == [] and len(checks) == 7
    with torch.no_grad():
        fused.get_submodule("conv1.0").weight[1] *= 1.01  # type: ignore[operator, index]
    failed = [check.name for check in fuse_checks(model, fused, spec, random_faces(spec, 2, 7)) if not check.passed]
    assert "fuse-weights" in failed and "fuse-float32" in failed
