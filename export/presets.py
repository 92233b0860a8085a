"""What the inputs of published models mean, as a table; files that are known byte for byte need no words."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

from runtime.errors import UsageError
from runtime.spec import ChannelOrder, Coordinates, CropRule


@dataclass(frozen=True)
class Preset:
    """How one family of weight files wants its input and counts its output."""

    name: str
    what: str
    architecture: str
    channels: ChannelOrder = "bgr"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    crop: CropRule = field(default_factory=lambda: CropRule(rounding="pixel"))
    coordinates: Coordinates = "corner"


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("upstream-ghostone", "PFLD_GhostOne as published, and re-trainings with its code", "ghostone"),
        Preset("upstream-ghostnet", "PFLD_GhostNet as published", "ghostnet"),
        Preset("upstream-ghostnet-slim", "PFLD_GhostNet_Slim as published", "ghostnet-slim"),
        Preset("upstream-pfld", "PFLD of the same project", "pfld"),
    )
}

RECOGNISED: dict[str, tuple[str, str]] = {
    "74d1a83932af79c2689d9371b21f32d014552f089985f076e832e89cb18f41e8": (
        "the published PFLD_GhostOne_112_1_opt_sim.onnx",
        "upstream-ghostone",
    ),
    "81321e3246bb4cf87bf932f38bd8a146feb4ea5d45dbfcb5572b5a447f9d3b0a": (
        "the published PFLD_GhostNet_112_1_opt_sim.onnx",
        "upstream-ghostnet",
    ),
    "ff82819d3169b8e5b5c721fb7704a364dddcd3e9c4ae5e55ad161adcedb6265b": (
        "the published PFLD_GhostNet_Slim_112_1_opt_sim.onnx",
        "upstream-ghostnet-slim",
    ),
    "6b0527f6f24b8d6dc1d8a207dfd518f9504a3c9a0b2bbb7b3296cee25a473660": (
        "the re-trained PFLD_GhostOne of SmlCoke/PFLD",
        "upstream-ghostone",
    ),
}
"""sha256 of a published file: what it is, and the preset that reproduces its published accuracy."""


def preset_named(name: str) -> Preset:
    """Look a preset up by name."""
    try:
        return PRESETS[name]
    except KeyError:
        near = difflib.get_close_matches(name, PRESETS, 1, 0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(
            f"unknown preset {name!r}; {hint}known: {', '.join(PRESETS)}; or a spec file (.json)"
        ) from None
