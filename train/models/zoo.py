"""The model zoo: a table from name to builder, with what each model costs."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from runtime.errors import UsageError
from runtime.spec import ModelSpec
from train.models.backbones import V3_LARGE, V3_SMALL, MobileNetV3, MobileOneS0, ResNet18, ShuffleNetV2, V3Table
from train.models.blocks import Maker, conv_block, fused_conv_block
from train.models.count import Cost, count
from train.models.hrnet import HRNet
from train.models.mobileone import FusedBlock, MobileOneBlock
from train.models.nets import GHOSTNET_STAGES, PFLD, SLIM_STAGES, GhostLandmarks, Shape

_OUTPUT = "fc"
"""Every net calls its last layer so."""

Builder = Callable[[ModelSpec, bool], nn.Module]


def _shape(spec: ModelSpec) -> Shape:
    return Shape(spec.width, spec.input_size, spec.points)


def _plain(fused: bool) -> Maker:
    return fused_conv_block if fused else conv_block


def _pfld(spec: ModelSpec, fused: bool) -> nn.Module:
    return PFLD(_shape(spec), _plain(fused))


def _ghostnet(spec: ModelSpec, fused: bool) -> nn.Module:
    return GhostLandmarks(_shape(spec), _plain(fused), GHOSTNET_STAGES, shortcut=True)


def _slim(spec: ModelSpec, fused: bool) -> nn.Module:
    return GhostLandmarks(_shape(spec), _plain(fused), SLIM_STAGES, shortcut=True)


def _ghostone(spec: ModelSpec, fused: bool) -> nn.Module:
    make: Maker = FusedBlock if fused else partial(MobileOneBlock, branches=spec.branches)
    return GhostLandmarks(_shape(spec), make, SLIM_STAGES, shortcut=False)


def _mobilenetv3(table: V3Table, spec: ModelSpec, fused: bool) -> nn.Module:
    return MobileNetV3(table, spec.width, 2 * spec.points, fused=fused)


def _shufflenet(spec: ModelSpec, fused: bool) -> nn.Module:
    return ShuffleNetV2(spec.width, 2 * spec.points, fused=fused)


def _resnet(spec: ModelSpec, fused: bool) -> nn.Module:
    return ResNet18(spec.width, 2 * spec.points, fused=fused)


def _mobileone(spec: ModelSpec, fused: bool) -> nn.Module:
    make: Maker = FusedBlock if fused else partial(MobileOneBlock, branches=spec.branches)
    return MobileOneS0(make, spec.width, 2 * spec.points)


def _hrnet(spec: ModelSpec, fused: bool) -> nn.Module:
    return HRNet(spec.width, spec.points, spec.input_size, fused=fused)


@dataclass(frozen=True)
class ZooEntry:
    """One architecture."""

    name: str
    what: str
    build: Builder
    multi_branch: bool = False
    family: bool = True
    """One of the PFLD family, which can be imported; the others are trained, fused and exported."""
    heatmaps: bool = False
    """Whether its landmarks are read from heatmaps, which a loss may look at."""


ZOO: dict[str, ZooEntry] = {
    entry.name: entry
    for entry in (
        ZooEntry("pfld", "PFLD: MobileNetV2 blocks, auxiliary pose net in training", _pfld),
        ZooEntry("ghostnet", "PFLD-GhostNet: ghost bottlenecks with shortcut", _ghostnet),
        ZooEntry("ghostnet-slim", "GhostNet with narrower hidden layers", _slim),
        ZooEntry("ghostone", "PFLD-GhostOne: MobileOne branches in training, one convolution fused", _ghostone, True),
        ZooEntry("mobilenetv3-small", "MobileNetV3 small", partial(_mobilenetv3, V3_SMALL), family=False),
        ZooEntry("mobilenetv3-large", "MobileNetV3 large", partial(_mobilenetv3, V3_LARGE), family=False),
        ZooEntry("shufflenetv2", "ShuffleNetV2 1.5x", _shufflenet, family=False),
        ZooEntry("mobileone-s0", "MobileOne S0: the same blocks as GhostOne, no ghosts", _mobileone, True, False),
        ZooEntry("resnet18", "ResNet-18", _resnet, family=False),
        ZooEntry("hrnet-w18", "HRNet-W18: heatmaps, read by their centre of mass", _hrnet, family=False, heatmaps=True),
    )
}


FAMILY: tuple[str, ...] = tuple(name for name, one in ZOO.items() if one.family)


def entry(architecture: str) -> ZooEntry:
    """Look an architecture up by name."""
    try:
        return ZOO[architecture]
    except KeyError:
        near = difflib.get_close_matches(architecture, ZOO, 1, 0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"unknown architecture {architecture!r}; {hint}known: {', '.join(ZOO)}") from None


def build(spec: ModelSpec, *, fused: bool = False) -> nn.Module:
    """Build a spec's model: the training form, or the plain convolutions that it is fused into."""
    model = entry(spec.architecture).build(spec, fused)
    if next(model.parameters()).device.type != "meta":  # an outline has no values, and drawing them there is slow
        initialise(model)
    return model


def initialise(model: nn.Module) -> None:
    """Kaiming weights for convolutions; the output layer starts near the middle of the crop."""
    if any(parameter.is_meta for parameter in model.parameters()):
        return
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear)):
            continue
        is_output = name == _OUTPUT
        if is_output:
            nn.init.normal_(module.weight, std=0.005)
        else:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.constant_(module.bias, 0.5 if is_output and isinstance(module, nn.Linear) else 0.0)


@dataclass(frozen=True)
class ZooRow:
    """A line of the zoo's table."""

    name: str
    what: str
    train: Cost
    fused: Cost


def zoo_rows(width: float = 1.0, input_size: int = 112, points: int = 98, branches: int = 6) -> list[ZooRow]:
    """What every architecture costs at one width, input size and number of points."""
    rows = []
    for name, one in ZOO.items():
        layout = "wflw98" if points == 98 else f"plain{points}"
        spec = ModelSpec(name, width, points, input_size, branches, layout)
        costs = [count(one.build(spec, fused), input_size) for fused in (False, True)]
        rows.append(ZooRow(name, one.what, *costs))
    return rows
