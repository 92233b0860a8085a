"""The networks of the field: published sizes, fusing, and coordinates out of heatmaps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from export.fuse import fuse
from export.links import exact_outputs, onnx_checks
from export.onnx_export import Exporter, export_graph
from export.tidy import tidy
from runtime.spec import ModelSpec
from train.models.backbones import V3_LARGE, V3_SMALL, MobileNetV3, MobileOneS0, ResNet18, ShuffleNetV2, shuffled
from train.models.count import Cost, count
from train.models.hrnet import HRNet, centre_of_mass, places
from train.models.mobileone import FusedBlock, MobileOneBlock
from train.models.zoo import FAMILY, ZOO, build

OTHERS = [name for name in ZOO if name not in FAMILY]
CLASSES = 1000


@pytest.mark.parametrize(
    "make, published",
    [
        (partial(MobileNetV3, V3_SMALL, 1, CLASSES, fused=False), Cost(2_542_856, 56_510_400)),
        (partial(MobileNetV3, V3_LARGE, 1, CLASSES, fused=False), Cost(5_483_032, 216_589_760)),
        (partial(ShuffleNetV2, 1, CLASSES, fused=False), Cost(3_503_624, 295_759_392)),
        (partial(ResNet18, 1, CLASSES, fused=False), Cost(11_689_512, 1_814_073_344)),
        (partial(MobileOneS0, FusedBlock, 1, CLASSES), Cost(2_078_504, 275_110_400)),
    ],
)
def test_the_classifier_has_the_published_size(make: Callable[[], nn.Module], published: Cost) -> None:
    assert count(make(), 224) == published


def test_mobileone_in_training_has_the_published_parameters() -> None:
    make = partial(MobileOneBlock, branches=4)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in MobileOneS0(make, 1, CLASSES).parameters())
    assert round(parameters / 1e6, 1) == 5.3


def test_hrnet_has_about_the_published_size() -> None:
    """The paper rounds to 9.3 M and 4.3 G at 256 px; the sums of its table of layers are 9.66 M and 4.69 G."""
    assert count(HRNet(1, 98, 256, fused=False), 256) == Cost(9_662_528, 4_693_650_432)


def ready(name: str, size: int) -> tuple[nn.Module, ModelSpec]:
    """A narrow net whose norms have seen a batch."""
    torch.manual_seed(1)
    spec = ModelSpec(name, 0.25, points=5, input_size=size, branches=2, layout="plain5")
    model = build(spec)
    with torch.no_grad():
        for _ in range(2):
            model.train()(torch.randn(8, 3, size, size))
    return model.eval().double(), spec


@pytest.mark.parametrize("name", OTHERS)
def test_fused_is_the_same_network(name: str) -> None:
    model, spec = ready(name, 64)
    fused = fuse(model, spec)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        wanted = model(x)
        assert (fused(x) - wanted).abs().max() < 1e-12 * wanted.abs().max()


@pytest.mark.parametrize(
    "name, exporter",
    [*((name, "torchscript") for name in OTHERS), ("shufflenetv2", "dynamo"), ("hrnet-w18", "dynamo")],
)
def test_the_graph_is_the_network(name: str, exporter: Exporter) -> None:
    model, spec = ready(name, 32)
    fused = fuse(model.float(), spec)
    probes = np.random.default_rng(0).standard_normal((12, 3, 32, 32), dtype=np.float32)
    graph = tidy(export_graph(fused, spec, exporter=exporter), spec)
    checks = onnx_checks(fused, graph, spec, probes, exact_outputs(fused, probes), limit=2000)
    assert [check.name for check in checks if not check.passed] == []


def test_shuffling_interleaves_halves() -> None:
    assert shuffled(8).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_a_peak_is_read_where_it_stands() -> None:
    maps = torch.full((1, 2, 16, 16), -50.0)
    maps[0, 0, 3, 9] = 50.0
    maps[0, 1, 7, 4] = maps[0, 1, 7, 5] = 50.0
    expected = torch.tensor([[9.5 / 16, 3.5 / 16, 5.0 / 16, 7.5 / 16]])
    assert (centre_of_mass(maps, places(16)) - expected).abs().max() < 1e-6


def test_heatmaps_give_the_coordinates() -> None:
    model, _ = ready("hrnet-w18", 64)
    with torch.no_grad():
        points, maps = model.forward_with_heatmaps(torch.randn(2, 3, 64, 64).double())  # type: ignore[operator]
    assert maps.shape == (2, 5, 16, 16)
    assert torch.equal(points, centre_of_mass(maps, places(16).double()))
