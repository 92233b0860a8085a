"""The engines of a bundle in its proof: what can be told of a plan anywhere, and its outputs where it runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from export.chain_report import Report
from export.tensorrt_engine import Source, engine_checks
from export.tensorrt_inspect import Inspected, require_honest
from runtime.backends.tensorrt import KIND, TensorRtModel, engines_of
from runtime.bundle import Artefact, Bundle
from runtime.engine import EngineCard, admit, look_around
from runtime.errors import CheckFailedError, MissingBackendError

_LEGACY = ("entropy", "minmax")
Faces = Callable[[], NDArray[np.float32]]


def engine_steps(bundle: Bundle, report: Report, faces: Faces) -> dict[str, Callable[[], None]]:
    """One step for each plan."""
    names = [artefact.name for artefact in bundle.manifest.artefacts if artefact.kind == KIND]
    return {name: _step(bundle, report, name, faces) for name in names}


def _step(bundle: Bundle, report: Report, name: str, faces: Faces) -> Callable[[], None]:
    def prove() -> None:
        artefact, card = next((a, c) for a, c in engines_of(bundle) if a.name == name)
        _prove_card(bundle, report, artefact, card)
        _prove_outputs(bundle, report, artefact, card, faces())

    return prove


def _prove_card(bundle: Bundle, report: Report, artefact: Artefact, card: EngineCard) -> None:
    """What can be held against each other without a GPU."""
    parent = bundle.manifest.artefact(_parent(card))
    made_from = artefact.parent == parent.sha256 == card.model_sha256
    facts = {
        "card": (card.plan_sha256 == artefact.sha256, "its sidecar names this plan"),
        "parent": (made_from, f"made from {parent.file}, by manifest and sidecar"),
        "spec": (card.spec == bundle.spec, "the manifest's"),
        "recorded": (card.checks == artefact.checks != (), "the sidecar's numbers are the manifest's"),
        "layers": _layers(card, artefact.file),
    }
    for what, (passed, detail) in facts.items():
        report.say(artefact.name, what, passed, detail)


def _layers(card: EngineCard, where: str) -> tuple[bool, str]:
    names = card.input.name, card.output.name
    try:
        require_honest(Inspected(card.ports, card.layers), card.precision, names, where)
    except CheckFailedError as error:
        return False, str(error)
    return True, ", ".join(f"{count} {kind}" for kind, count in card.layers.items())


def _prove_outputs(
    bundle: Bundle, report: Report, artefact: Artefact, card: EngineCard, faces: NDArray[np.float32]
) -> None:
    """Measured again where the plan may be loaded; elsewhere the record stands, and the report says so."""
    place, data = bundle.directory / artefact.file, bundle.read(artefact.name)
    try:
        admit(place, data, card, look_around())
        model = TensorRtModel(data, card, where=str(place))
    except MissingBackendError as error:
        reason = str(error).removeprefix(f"{place}: ")
        report.say(artefact.name, "measured", True, f"measured on {card.gpu_name}, not again here: {reason}")
        return
    parent = bundle.manifest.artefact(_parent(card))
    source = Source(card.precision, parent.file, bundle.read(parent.name))
    with model:
        for check in engine_checks(model, source, bundle.spec, faces, legacy=_is_legacy(card)):
            report.check(artefact.name, check)


def _parent(card: EngineCard) -> str:
    return "fp32" if _is_legacy(card) else card.precision


def _is_legacy(card: EngineCard) -> bool:
    return card.calibration is not None and card.calibration.by in _LEGACY
