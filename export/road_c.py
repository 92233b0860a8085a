"""The C stretch of the road: generated, compiled, measured, added file by file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from export.bundle import BundleWriter
from export.links import require_passed
from export.links_c import PARENT, SOURCE, CRequest, Truth, artefact_name, generate, measure
from runtime.backends.c import FOLDERS, Precision
from runtime.spec import ModelSpec

Say = Callable[[str], None]


def add_c(
    writer: BundleWriter,
    model: ModelProto,
    spec: ModelSpec,
    crops: NDArray[np.uint8],
    precision: Precision,
    request: CRequest,
    truth: Truth,
    say: Say,
) -> None:
    """Everything of one precision: the source with its numbers first, then the files beside it."""
    folder = FOLDERS[precision]
    say(f"C, {precision}: generating")
    made = generate(model, spec, precision, request)
    say(f"C, {precision}: compiling and measuring")
    measured = measure(made, spec, request, crops, truth)
    require_passed(measured.checks, f"C {precision}")
    parent, files = PARENT[folder], dict(made.files)
    settings = {**request.settings(), **made.settings(), **measured.settings}
    source = files.pop(SOURCE)
    writer.add(folder, "c-source", f"{folder}/{SOURCE}", source, parent, settings, measured.checks)
    for file, data in sorted(files.items()):
        writer.add(artefact_name(folder, file), "c-file", f"{folder}/{file}", data, parent)
