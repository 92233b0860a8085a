"""The links of converted files: what is measured of them, against what, and the card that lies beside them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.formats.child import ALONE, ChildError, child_environment, run_script
from export.formats.convert import Home
from export.shift import landmark_shift
from export.ulp import ulps_apart
from runtime.backends.formats import FORMATS, STEM, Format, Precision
from runtime.bundle import Artefact, Check
from runtime.errors import CheckFailedError, InputError
from runtime.spec import ModelSpec

SHIFT_LIMIT_PX = 0.01
"""Largest distance of a float32 landmark from ONNX Runtime's, in pixels of the crop: far below what anybody can see."""
HALF_SHIFT_LIMIT = 0.1
"""Mean shift of a float16 file, % of the normaliser. Twice that of our own float16 model: these converters round the
head too, which about doubles the shift."""
HALF_LIMIT_PX = 0.5
INT8_SHIFT_LIMIT = 1.0
"""Mean shift of int8 from the exact integers, % of the normaliser. Engines that add in float round ties another way:
ONNX Runtime is 0.34 % away on the published network; a lost scale, which this must find, moves it by 3 %."""
MAX_OUTPUT_BYTES = 1 << 28
CARD = f"{STEM}.json"
KIND, WEIGHTS_KIND, CARD_KIND = "converted", "converted-weights", "converted-card"
SECONDS = 300.0


@dataclass(frozen=True)
class Truth:
    """What the converted files have to put out."""

    exact: NDArray[np.float64]
    """The network in double precision."""
    limit: float
    """How many ULPs a float32 engine may be away from it."""
    full: NDArray[np.float32]
    """The float32 ONNX in ONNX Runtime."""
    integers: NDArray[np.float32] | None = None
    """The int8 network in exact integers."""
    int8_limit: float = 0.0
    """Mean shift of int8 from float32 that was allowed for the model itself, %."""


@dataclass(frozen=True)
class Measured:
    """What the engine said."""

    output: NDArray[np.float32]
    facts: dict[str, str]


def run_file(form: Format, home: Home, files: Mapping[str, bytes], faces: NDArray[np.float32]) -> Measured:
    """Run a converted file in a process of its own: a damaged file can take its engine down."""
    if home.run is None:
        raise InputError(f"{form.title}: no engine to run it")
    with tempfile.TemporaryDirectory(prefix="toolkit-") as folder:
        place = Path(folder)
        for suffix, data in files.items():
            (place / f"{STEM}{suffix}").write_bytes(data)
        np.save(place / "inputs.npy", faces)
        output, facts = place / "outputs.npy", place / "facts.json"
        model = place / f"{STEM}{form.suffix}"
        arguments = [form.name, str(model), str(place / "inputs.npy"), str(output), str(facts)]
        try:
            run_script(home.run.python, ALONE / "measure.py", arguments, SECONDS, child_environment(1))
        except ChildError as error:
            raise CheckFailedError(f"{form.name}/: {form.title} cannot run its file: {error}") from error
        if output.stat().st_size > MAX_OUTPUT_BYTES:
            raise InputError(f"{form.name}/: puts out {output.stat().st_size} bytes, the limit is {MAX_OUTPUT_BYTES}")
        found = np.load(output, allow_pickle=False)
        said: dict[str, str] = json.loads(facts.read_text(encoding="utf-8"))
    return Measured(np.asarray(found, dtype=np.float32), said)


def checks(precision: Precision, found: NDArray[np.float32], truth: Truth, spec: ModelSpec) -> list[Check]:
    """The numbers of one file."""
    wanted = truth.full.reshape(len(truth.full), -1)
    if found.shape != wanted.shape:
        raise CheckFailedError(f"puts out {found.shape}, expected {wanted.shape}; nothing was written")
    shift = landmark_shift(found, wanted, spec)
    farthest = min(shift.max_pixels, 1e9)
    distance = "largest landmark distance from ONNX Runtime, crop pixels"
    if precision == "fp32":
        ulps = ulps_apart(found, truth.exact.reshape(found.shape))
        return [
            Check("outputs", "ULP from double precision", min(ulps, 1e9), truth.limit),
            Check("shift-pixels", distance, farthest, SHIFT_LIMIT_PX),
        ]
    mean = f"mean landmark shift against float32, % of {shift.normaliser}"
    if precision == "fp16":
        return [
            Check("shift", mean, min(shift.mean_percent, 1e9), HALF_SHIFT_LIMIT),
            Check("shift-pixels", distance, farthest, HALF_LIMIT_PX),
        ]
    if truth.integers is None:
        raise InputError("int8: the exact integers of the model are not here")
    engine = landmark_shift(found, truth.integers.reshape(found.shape), spec)
    between = f"mean landmark shift from the exact integers, % of {engine.normaliser}"
    return [
        Check("engine", between, min(engine.mean_percent, 1e9), INT8_SHIFT_LIMIT),
        Check("shift", mean, min(shift.mean_percent, 1e9), truth.int8_limit),
    ]


def settings(form: Format, precision: Precision, home: Home, facts: Mapping[str, str]) -> dict[str, Any]:
    """How a file was made and measured, and what it wants to be fed."""
    return {
        "precision": precision,
        "converter": home.converter(form),
        "engine": home.engine(form),
        "input": facts["input"],
        "output": facts["output"],
        "layout": facts["layout"],
    }


def card(form: Format, artefacts: Mapping[str, Artefact], spec: ModelSpec) -> bytes:
    """What somebody needs who takes the folder and leaves the bundle: these formats hold no model spec of ours."""
    size, files = spec.input_size, {}
    for precision in form.precisions:
        made = artefacts.get(form.artefact(precision))
        if made is None:
            continue
        shape = [1, 3, size, size] if made.settings["layout"] == "NCHW" else [1, size, size, 3]
        files[Path(made.file).name] = {
            "precision": precision,
            "sha256": made.sha256,
            "converter": made.settings["converter"],
            "input": {"name": made.settings["input"], "layout": made.settings["layout"], "shape": shape},
            "output": {"name": made.settings["output"], "shape": [1, 2 * spec.points]},
        }
        if form.weights:
            second = artefacts[f"{form.artefact(precision)}{form.weights}"]
            files[Path(second.file).name] = {"precision": precision, "sha256": second.sha256, "weights of": made.file}
    facts = {
        "format": "landmark-toolkit converted files",
        "schema": 1,
        "engine": form.title,
        "files": files,
        "input": "float32, (pixel / 255 - mean) / std, channels as in spec.channels; no part of it is in the file",
        "output": "x0, y0, x1, y1, ... in the units of spec.coordinates",
        "spec": spec.to_dict(),
    }
    return (json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def card_name(form: Format) -> str:
    """The card's name among the artefacts."""
    return f"{form.name}.card"


def names_of(form: Format, artefacts: Mapping[str, Artefact]) -> dict[str, tuple[str, str]]:
    """Every name that a format's folder may hold among these artefacts -> its file and kind."""
    wanted: dict[str, tuple[str, str]] = {}
    for precision in form.precisions:
        name, file = form.artefact(precision), form.file(precision)
        if name not in artefacts:
            continue
        wanted[name] = (file, KIND)
        if form.weights:
            wanted[f"{name}{form.weights}"] = (str(Path(file).with_suffix(form.weights).as_posix()), WEIGHTS_KIND)
    if wanted:
        wanted[card_name(form)] = (f"{form.name}/{CARD}", CARD_KIND)
    return wanted


def format_of(name: str) -> Format | None:
    """The format that an artefact's name belongs to."""
    return next((f for f in FORMATS.values() if name == f.name or name.startswith((f"{f.name}-", f"{f.name}."))), None)
