"""A bundle with converted files, made by the road's own step from one that was exported without them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from export.bundle import new_bundle
from export.formats.convert import Home
from export.formats.links import Truth
from export.formats.road import add_formats
from export.links import truth
from runtime.bundle import Bundle, read_arrays
from runtime.geometry import network_input
from train.checkpoint import load_checkpoint, model_of


def add_to(
    source: Path, target: Path, homes: dict[str, Home], precisions: Sequence[str] = ("fp32", "fp16", "int8")
) -> Path:
    """Write the bundle `source` again with files for other engines in it."""
    bundle = Bundle.open(source)
    manifest, spec = bundle.manifest, bundle.spec
    arrays = read_arrays(bundle.read("probe"), "probe.npz")
    faces = network_input(arrays["crops"], spec)
    model = model_of(load_checkpoint(source / "fused.ckpt"), "fused.ckpt")
    with new_bundle(target) as writer:
        for artefact, data in bundle.read_all():
            parent = manifest.parent_of(artefact)
            above = parent.name if parent else None
            writer.add(
                artefact.name, artefact.kind, artefact.file, data, above, artefact.settings, checks=artefact.checks
            )
        limit = float(manifest.artefact("int8").settings["shift limit on the probes, %"])
        wanted = Truth(*truth(model, faces), arrays["fp32"], arrays["int8"], limit)
        for name in add_formats(writer, spec, faces, homes, precisions, wanted, lambda _: None):
            writer.measured_on(name, writer["probe"])
        writer.finish(spec, manifest.source)
    return target
