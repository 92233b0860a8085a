"""Accuracy of artefacts on labelled faces: each with its own spec, all on the same faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.artefact import Artefact, open_artefacts, require_spec
from runtime.backends.formats import FORMATS
from runtime.bundle import MANIFEST, Bundle
from runtime.errors import InputError, MissingBackendError, UsageError
from runtime.gpu import probe_gpu
from runtime.layouts import Layout
from runtime.spec import ModelSpec
from toolkit.boxes import BoxSource, plain_boxes
from toolkit.protocols import Protocol
from toolkit.solution import SolutionFile, is_solution, solution_text
from train.data.sample import FaceSource
from train.evaluate import BATCH, Crops, Evaluation, crop_faces, evaluate, point_map
from train.metrics import BOX, Scores, nme_per_face, normaliser_for, score, score_subsets

Tick = Callable[[str, int], object]
"""What is being done, and how many faces of it are finished."""
IN_BUNDLE = ("fused", "fp32", "fp16", "int8")
FOLDERS = ("c", "c-int8")
"""What of a bundle can be measured: files by artefact name, and the folders of generated C."""
ENGINE = "tensorrt-plan"
"""Kind of a bundle's engines; measured where there is a GPU."""
FORMAT = "landmark-toolkit evaluation"
DRAWS = 4000
_CHUNK = 200


@dataclass(frozen=True)
class Difference:
    """Change of the mean error against another artefact on the same faces, as a fraction, and its 95 % interval."""

    relative: float
    low: float
    high: float

    @property
    def is_news(self) -> bool:
        """Whether the interval leaves out zero."""
        return not self.low <= 0 <= self.high


def paired_difference(base: NDArray[np.float64], other: NDArray[np.float64], seed: int = 0) -> Difference:
    """Bootstrap over faces: each draw takes the same faces for both, so what they have in common cancels.

    >>> errors = np.linspace(0.01, 0.1, 50)
    >>> paired_difference(errors, errors * 1.02).is_news, paired_difference(errors, errors).is_news
    (True, False)
    """
    if base.shape != other.shape or not len(base):
        raise UsageError(f"paired difference: {base.shape} and {other.shape} errors are not those of the same faces")
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(DRAWS // _CHUNK):
        picks = generator.integers(0, len(base), (_CHUNK, len(base)))
        draws.append(other[picks].mean(axis=1) / base[picks].mean(axis=1) - 1)
    low, high = np.percentile(np.concatenate(draws), [2.5, 97.5])
    return Difference(float(other.mean() / base.mean() - 1), float(low), float(high))


@dataclass(frozen=True)
class ArtefactScore:
    """One artefact's accuracy."""

    artefact: Artefact
    evaluation: Evaluation
    name: str = ""
    difference: Difference | None = None
    """Against the first artefact; None for itself."""
    also: dict[str, Scores] = field(default_factory=dict)
    """The same predictions over other normalisers, all faces."""


@dataclass(frozen=True)
class Scoreboard:
    """Artefacts measured on the same faces."""

    data: str
    faces: tuple[str, ...]
    attributes: NDArray[np.bool_] | None
    rows: tuple[ArtefactScore, ...]
    missed: int = 0
    """Faces that the detector did not find; they are in none of the numbers."""
    crops: Crops | None = field(default=None, compare=False)
    """As the first artefact saw them."""
    protocol: str | None = None

    def csv(self) -> str:
        """Each face's error under each artefact, as a fraction of the normaliser."""
        lines = [",".join(["face", *(_quoted(row.artefact.path) for row in self.rows)])]
        errors = np.stack([row.evaluation.errors for row in self.rows], axis=1)
        lines += [
            ",".join([_quoted(face), *(f"{error:.8g}" for error in values)])
            for face, values in zip(self.faces, errors, strict=True)
        ]
        return "\n".join(lines) + "\n"

    def solution(self) -> str:
        """The challenge form: one face a line, x1 y1 x2 y2 ... in pixels of its photo, in the order of the source."""
        return solution_text(self.rows[0].evaluation.points)

    def facts(self) -> dict[str, Any]:
        """Plain data, as `--json` and `--save` give it."""
        return {
            "format": FORMAT,
            "schema": 1,
            "data": self.data,
            "faces": len(self.faces),
            "missed": self.missed,
            "protocol": self.protocol,
            "artefacts": [
                {
                    "path": row.artefact.path,
                    "name": row.name,
                    "sha256": row.artefact.sha256,
                    "precision": row.artefact.precision,
                    "crop": row.evaluation.crop,
                    "normaliser": row.evaluation.normaliser,
                    "scores": {name: asdict(scores) for name, scores in row.evaluation.scores.items()},
                    "also": {name: asdict(scores) for name, scores in row.also.items()},
                    "difference": None if row.difference is None else asdict(row.difference),
                }
                for row in self.rows
            ],
        }


def float_of_int8(board: Scoreboard) -> list[str]:
    """Checkpoints trained for int8: what was measured of them is their float form."""
    return [row.artefact.path for row in board.rows if getattr(row.artefact, "trained_for_int8", False)]


def expand(texts: Sequence[Path | str]) -> list[Path]:
    """Files and C folders as they are; a bundle gives everything in it that runs, BUNDLE:int8 one of them.

    A bundle's bytes are held against its manifest here, so that what is measured is what was exported.
    """
    found: list[Path] = []
    for text in texts:
        path = Path(text)
        place, _, name = str(text).rpartition(":")
        if not path.exists() and place and (Path(place) / MANIFEST).is_file():
            found.append(_part(Path(place), name))
        elif (path / MANIFEST).is_file():
            bundle = Bundle.open(path)
            found += [_part(path, name) for name in runnable(bundle, engines=False)]
        else:
            found.append(path)
    return found


def runnable(bundle: Bundle, engines: bool = True) -> list[str]:
    """Names of the artefacts that put out landmarks; with `engines=False` only those whose engine is here."""
    plans = [a.name for a in bundle.manifest.artefacts if a.kind == ENGINE and (engines or gpu_is_here())]
    converted = [
        name
        for form in FORMATS.values()
        for name in map(form.artefact, form.precisions)
        if bundle.manifest.has(name) and (engines or form.engine_is_here())
    ]
    return [n for n in (*IN_BUNDLE, *FOLDERS) if bundle.manifest.has(n)] + converted + plans


def gpu_is_here() -> bool:
    """Whether a bundle's engines have anything to run on."""
    try:
        probe_gpu()
    except MissingBackendError:
        return False
    return True


def _part(place: Path, name: str) -> Path:
    bundle = Bundle.open(place)
    runs = runnable(bundle)
    if name not in runs:
        raise UsageError(f"{place}:{name}: the bundle has no {name!r} that runs; it has: {', '.join(runs)}")
    bundle.read(name)
    return place / name if name in FOLDERS else place / bundle.manifest.artefact(name).file


def score_artefacts(
    paths: Sequence[Path | str],
    source: FaceSource,
    *,
    indices: Sequence[int] | None = None,
    normaliser: str | None = None,
    spec: str | None = None,
    batch_size: int = BATCH,
    boxes: BoxSource | None = None,
    progress: Tick | None = None,
    protocol: Protocol | None = None,
) -> Scoreboard:
    """Measure every artefact; all files are opened and checked before the first face is cut."""
    if not paths:
        raise UsageError("give at least one checkpoint or ONNX file")
    if protocol is not None:
        source, normaliser = protocol.source(source), protocol.check_normaliser(normaliser)
    artefacts = _open_all(expand(paths), spec, source)
    origin = boxes or plain_boxes(None)
    specs = [origin.in_words(require_spec(artefact)) for artefact in artefacts]
    for artefact, one in zip(artefacts, specs, strict=True):
        _check_points(artefact, one, source)
    wanted = list(range(len(source)) if indices is None else indices)
    chosen = origin.usable(source, wanted, lambda: progress("detecting", 1) if progress else None)
    if not chosen:
        raise InputError(f"{source.name}: the {origin.name} found none of the {len(wanted)} faces")
    cut: dict[tuple[object, ...], Crops] = {}
    evaluations: list[Evaluation] = []
    first: Crops | None = None
    for artefact, one in zip(artefacts, specs, strict=True):
        key = (one.input_size, one.crop)
        if key not in cut:
            cut.clear()
            tick = (lambda: progress("cropping", 1)) if progress else None
            cut[key] = crop_faces(source, one, chosen, tick, origin.box_of)
        crops = cut[key]
        first = first or crops
        if isinstance(artefact, SolutionFile):
            evaluations.append(_judge(artefact, crops, chosen, normaliser))
        else:
            evaluations.append(_evaluate(artefact, crops, one, normaliser, batch_size, progress))
    if first is None:
        raise UsageError("nothing was measured")
    rows = tuple(
        ArtefactScore(
            artefact,
            found,
            name,
            paired_difference(evaluations[0].errors, found.errors) if at else None,
            _also(found, first, protocol),
        )
        for at, (artefact, found, name) in enumerate(zip(artefacts, evaluations, short_names(artefacts), strict=True))
    )
    name = None if protocol is None else protocol.name
    return Scoreboard(source.name, first.names, first.attributes, rows, len(wanted) - len(chosen), first, name)


def _open_all(paths: Sequence[Path], spec: str | None, source: FaceSource) -> list[Artefact]:
    """Artefacts and solutions, in the order given."""
    models = [path for path in paths if not is_solution(path)]
    opened = iter(open_artefacts(models, spec) if models or spec is not None else [])
    return [SolutionFile(path, len(source), source.layout) if is_solution(path) else next(opened) for path in paths]


def _judge(solution: SolutionFile, crops: Crops, indices: Sequence[int], normaliser: str | None) -> Evaluation:
    """Measure landmarks that are there already."""
    points, name = solution.points(indices), normaliser or default_normaliser(crops.layout)
    errors = nme_per_face(points, crops.points, normaliser_for(crops.layout, name))
    return Evaluation(score_subsets(errors, crops.attributes), errors, points, name, "(none: a solution)")


def default_normaliser(layout: Layout) -> str:
    """The layout's first normaliser, else the box."""
    return layout.default_normaliser.name if layout.normalisers else BOX


def _also(found: Evaluation, crops: Crops, protocol: Protocol | None) -> dict[str, Scores]:
    """The same predictions over the protocol's other normalisers."""
    return {
        name: score(nme_per_face(found.points, crops.points, normaliser_for(crops.layout, name)))
        for name in (protocol.also if protocol else ())
    }


def _evaluate(
    artefact: Artefact, crops: Crops, spec: ModelSpec, normaliser: str | None, batch_size: int, progress: Tick | None
) -> Evaluation:
    def tick(done: int) -> object:
        return progress(Path(artefact.path).name, done) if progress else None

    with np.errstate(invalid="ignore"):  # what is not finite is an error two lines below
        result = evaluate(artefact.predict, crops, spec, normaliser, batch_size, tick)
    if not np.isfinite(result.errors).all():
        raise InputError(f"{artefact.path}: gives NaN or infinity on {crops.names[int(np.argmax(result.errors))]}")
    return result


def short_names(artefacts: Sequence[Artefact]) -> list[str]:
    """File names where they tell the artefacts apart, else the paths; C folders are told by their bundle."""
    names = [Path(a.path).name if a.kind != "c" else "/".join(Path(a.path).parts[-2:]) for a in artefacts]
    return names if len(set(names)) == len(names) else [a.path for a in artefacts]


def _check_points(artefact: Artefact, spec: ModelSpec, source: FaceSource) -> None:
    try:
        point_map(spec.point_layout, source.layout)
    except UsageError as error:
        raise UsageError(f"{artefact.path}: {error}") from error


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n') else text
