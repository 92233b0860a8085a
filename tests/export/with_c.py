"""A bundle with generated C: the C is added to a bundle that was exported without it, which saves calibrating again."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from export.bundle import new_bundle
from export.chain import C_PARENT
from export.links import truth
from export.links_c import CRequest, Truth, int8_truth
from export.onnx_file import parse_onnx
from export.road_c import add_c
from runtime.bundle import Bundle, read_arrays
from runtime.geometry import network_input
from train.checkpoint import load_checkpoint, model_of


def add_to(source: Path, target: Path, request: CRequest) -> Path:
    """Write the bundle `source` again with C in it, by the road's own step."""
    bundle = Bundle.open(source)
    manifest, spec = bundle.manifest, bundle.spec
    arrays = read_arrays(bundle.read("probe"), "probe.npz")
    model = model_of(load_checkpoint(source / "fused.ckpt"), "fused.ckpt")
    with new_bundle(target) as writer:
        for artefact, data in bundle.read_all():
            parent = manifest.parent_of(artefact)
            above = parent.name if parent else None
            writer.add(
                artefact.name, artefact.kind, artefact.file, data, above, artefact.settings, checks=artefact.checks
            )
        for precision in request.precisions:
            graph = parse_onnx(bundle.read(C_PARENT["c" if precision == "fp32" else "c-int8"]), precision)
            wanted = (
                Truth(*truth(model, network_input(arrays["crops"], spec)), arrays["fp32"])
                if precision == "fp32"
                else int8_truth(graph, spec, np.asarray(arrays["int8"]))
            )
            add_c(writer, graph, spec, arrays["crops"], precision, request, wanted, lambda _: None)
            writer.measured_on("c" if precision == "fp32" else "c-int8", writer["probe"])
        writer.finish(spec, manifest.source)
    return target
