"""The zoo: published key names and counts, costs, widths, sizes, points."""

from __future__ import annotations

import re

import pytest
import torch

from runtime.errors import UsageError
from runtime.spec import ModelSpec
from train.models.count import Cost, count
from train.models.nets import channels
from train.models.pose import AuxiliaryNet
from train.models.zoo import ZOO, build, zoo_rows

NORM = r"\.(weight|bias|running_mean|running_var|num_batches_tracked)"
STAGES = r"conv(3_[1-3]|4_[1-3]|5_[1-4]|6)"
GHOST_PART = r"ghost_conv\.([02]\.(primary_conv|cheap_operation)|1)"
TAIL = r"conv8\.0\.weight|fc\.(weight|bias)"
PATTERNS = {
    "pfld": rf"conv[127]\.(0\.weight|1{NORM})|conv(3_[1-5]|4|5_[1-6]|6)\.inv_res\.[012]\.(0\.weight|1{NORM})|{TAIL}",
    "ghostnet": rf"conv[127]\.(0\.weight|1{NORM})|{STAGES}\.({GHOST_PART}|shortcut\.[01])\.(0\.weight|1{NORM})|{TAIL}",
    "ghostone": (
        rf"(conv[127]|{STAGES}\.{GHOST_PART})\."
        rf"((rbr_conv\.[0-5]|rbr_scale)\.(conv\.weight|bn{NORM})|rbr_skip{NORM})|{TAIL}"
    ),
    "ghostone fused": rf"(conv[127]|{STAGES}\.{GHOST_PART})\.reparam_conv\.(weight|bias)|{TAIL}",
}
PATTERNS["ghostnet-slim"] = PATTERNS["ghostnet"]


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
@pytest.mark.parametrize(
    "name, fused, keys",
    [
        ("pfld", False, 255),
        ("ghostnet", False, 351),
        ("ghostnet-slim", False, 351),
        ("ghostone", False, 2086),
        ("ghostone", True, 103),
    ],
)
def test_state_dict_has_the_published_keys(name: str, fused: bool, keys: int, width: float) -> None:
    state = build(ModelSpec(name, width), fused=fused).state_dict()
    assert len(state) == keys
    pattern = re.compile(PATTERNS[name + " fused" * fused])
    assert [key for key in state if not pattern.fullmatch(key)] == []


def test_costs_are_the_published_ones() -> None:
    costs = {row.name: (row.train, row.fused) for row in zoo_rows()}
    assert costs["ghostone"] == (Cost(2_754_488, 449_519_336), Cost(702_864, 74_913_944))
    assert costs["ghostnet"][0] == Cost(810_860, 98_401_800)
    assert costs["ghostnet-slim"][0] == Cost(741_680, 81_922_120)
    assert costs["pfld"][0] == Cost(1_228_132, 272_791_232)
    for train, fused in costs.values():
        assert fused.params < train.params and fused.macs <= train.macs


def test_count_is_the_formula_and_leaves_the_model_as_it_was() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1, bias=False), torch.nn.Conv2d(8, 8, 3, 1, 1, groups=8), torch.nn.ReLU()
    ).train()
    assert count(model, 16) == Cost(8 * 27 + 8 * 9 + 8, 8 * 8 * (8 * 27 + 8 * 9))
    assert model.training and not model[0]._forward_hooks


@pytest.mark.parametrize("full", [16, 32, 64, 80, 96, 120, 128, 144, 200, 240, 288, 336, 384, 504, 576])
@pytest.mark.parametrize("width", [0.25, 0.5, 0.75, 1.0, 1.5])
def test_channels_are_the_published_ones_where_these_are_even(full: int, width: float) -> None:
    assert int(full * width) % 2 or channels(full, width) == int(full * width)


@pytest.mark.parametrize("width", [0.125, 0.3, 0.35, 0.6, 0.8])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", sorted(ZOO))
def test_any_width_runs(name: str, fused: bool, width: float) -> None:
    model = build(ModelSpec(name, width, input_size=32, branches=1), fused=fused)
    with torch.no_grad():
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 196)


@pytest.mark.parametrize("size", [16, 48, 224])
@pytest.mark.parametrize("name", sorted(ZOO))
def test_any_multiple_of_16_any_points_any_branches_and_gradients_everywhere(name: str, size: int) -> None:
    model = build(ModelSpec(name, 0.05, points=5, input_size=size, branches=2, layout="plain5"))
    out = model(torch.randn(2, 3, size, size))
    assert out.shape == (2, 10)
    out.square().sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []
    if name == "ghostone":
        assert sum("rbr_conv.1.conv" in key for key in model.state_dict()) == 50
        assert not any("rbr_conv.2" in key for key in model.state_dict())


def test_output_starts_near_the_middle_of_the_crop() -> None:
    torch.manual_seed(0)
    for name in ZOO:
        out = build(ModelSpec(name, 0.25, input_size=64, branches=2)).train()(torch.randn(4, 3, 64, 64))
        assert (out - 0.5).abs().max() < 0.5 and out.std() > 1e-3


def test_pfld_gives_its_middle_map_to_the_pose_net() -> None:
    model = build(ModelSpec("pfld", 0.25))
    landmarks, stage = model.forward_with_stage(torch.randn(2, 3, 112, 112))  # type: ignore[operator]
    assert landmarks.shape == (2, 196) and stage.shape == (2, 16, 28, 28)
    assert AuxiliaryNet(model.stage_channels)(stage).shape == (2, 3)  # type: ignore[arg-type]
    assert not any("angles" in key for key in model.state_dict())


def test_an_unknown_architecture_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'ghostone'"):
        build(ModelSpec("gohstone"))
