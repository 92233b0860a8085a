"""`toolkit data label`: labels for photos from models that already know faces."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from runtime.errors import InputError, UsageError
from toolkit.cli import console

if TYPE_CHECKING:
    from train.data.open import Split
    from train.data.sample import FaceSource
    from train.label.job import Labels

EPILOG = "\n\n".join(
    [
        "Examples:",
        "toolkit data label photos --detector yunet:face_detection_yunet.onnx --model teacher.ckpt -o labelled",
        "toolkit data label 300W --split train --model a.ckpt --model b.onnx:0.5 --pin -o labelled98",
        "toolkit data label faces/boxes.csv --model bundle --variations many --combine median -o labelled",
        "toolkit data label portraits --detector whole --model a.ckpt --apart-from WFLW --test-fraction 0.1 -o more",
    ]
)
PANEL_WHICH = "What is kept"


def label(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PHOTOS",
            help="A folder of photos (with --detector), a boxes.csv, or any faces the other commands take.",
        ),
    ],
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            help="Checkpoint, ONNX file, bundle or BUNDLE:PART; a trailing :WEIGHT counts it more or less. Repeat it.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make; it must not exist yet.")],
    detector: Annotated[
        str | None, typer.Option("--detector", help="Finds the faces of unlabelled photos, such as yunet:FILE.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="train or test, where the faces come in two lists.")
    ] = None,
    variations: Annotated[
        str, typer.Option("--variations", help="Ways to look at each face: none, flip (2), few (6) or many (18).")
    ] = "few",
    combine: Annotated[str, typer.Option("--combine", help="mean or median of all predictions.")] = "mean",
    refine: Annotated[
        int | None,
        typer.Option("--refine", help="Times that a rough box is found anew from the landmarks.", min=0, max=5),
    ] = None,
    spec: Annotated[
        str | None, typer.Option("--spec", help="What the input means, for ONNX files without a spec.")
    ] = None,
    max_disagreement: Annotated[
        float,
        typer.Option(
            "--max-disagreement",
            help="Largest mean spread of a face's points, in sizes of the face.",
            rich_help_panel=PANEL_WHICH,
        ),
    ] = 0.03,
    pin: Annotated[
        bool,
        typer.Option(
            "--pin", help="Known points stay where they are, and carry the others along.", rich_help_panel=PANEL_WHICH
        ),
    ] = False,
    max_distance: Annotated[
        float,
        typer.Option(
            "--max-distance",
            help="Largest mean distance from known points, in sizes of the face.",
            rich_help_panel=PANEL_WHICH,
        ),
    ] = 0.08,
    half_weight: Annotated[
        float,
        typer.Option(
            "--half-weight",
            help="Spread at which a point counts half in training, in sizes of the face; 0 = all count 1.",
            rich_help_panel=PANEL_WHICH,
        ),
    ] = 0.02,
    min_face: Annotated[
        float,
        typer.Option(
            "--min-face",
            help="With --detector: longer side of the smallest face, in pixels.",
            rich_help_panel=PANEL_WHICH,
        ),
    ] = 0.0,
    apart_from: Annotated[
        list[str] | None,
        typer.Option(
            "--apart-from",
            help="Leave out faces whose picture this data set (its test list, where it has two) shows too. Repeat it.",
            rich_help_panel=PANEL_WHICH,
        ),
    ] = None,
    test_fraction: Annotated[
        float,
        typer.Option(
            "--test-fraction",
            help="Make a test list, for validation, of this part of the faces, whole photos at a time.",
            min=0.0,
            max=0.9,
            rich_help_panel=PANEL_WHICH,
        ),
    ] = 0.0,
    device: Annotated[str, typer.Option("--device", help="Where checkpoints run: cpu or cuda.")] = "cpu",
) -> None:
    """Label faces by models: several models, several looks at each face, one label and how sure it is.

    Every look is cut by the runtime's own crop and carried back into the photo. Faces on which the models disagree are
    left out and counted; of the others each point gets a weight, which training uses. Known points (68 of 98, say) can
    be kept exactly with --pin. An interrupted job goes on when its command is repeated.
    """
    from toolkit.labelling import open_members
    from train.label.apart import leave_out_twins
    from train.label.ensemble import Combine, Ensemble
    from train.label.job import check_pin, label_faces
    from train.label.rules import Rules
    from train.label.variations import variations_named
    from train.label.write import require_place, write_labels

    if split not in (None, "train", "test"):
        raise UsageError(f"--split {split!r}: expected train or test")
    if min_face and (not detector or not 0 < min_face < 1e6):
        raise UsageError(f"--min-face {min_face:g}: expected pixels above 0, together with --detector")
    rules = Rules(max_disagreement, max_distance, half_weight, pin)
    looks = variations_named(variations)
    require_place(output)
    members = open_members(model, spec, device)
    ensemble = Ensemble(members, looks, cast("Combine", combine))
    work = output.with_name(output.name + ".partial")
    others = [_to_stay_apart_from(text) for text in apart_from or ()]
    faces = _open(source, cast("Split | None", split), detector, work, min_face)
    check_pin(faces.layout, ensemble.layout, rules)
    with console.progress("labelling", len(faces)) as advance:
        labels, settings = label_faces(faces, ensemble, rules, work, refine=refine, progress=lambda n: advance(n))
    if others:
        with console.progress("comparing", len(labels.kept) + sum(map(len, others))) as advance:
            labels = leave_out_twins(faces, labels, ensemble.layout, others, lambda: advance())
        settings["apart_from"] = [other.name for other in others]
    with console.progress("writing", len(labels.kept)) as advance:
        write_labels(output, faces, labels, ensemble.layout, settings, lambda: advance(), test_fraction)
    _tidy(work)
    _show(labels, output)


def _to_stay_apart_from(text: str) -> FaceSource:
    """A data set's test faces; all of its faces where it does not tell."""
    from train.data.open import open_source, splits_in

    return open_source(text, split="test" if "test" in splits_in(text) else None)


def _open(text: str, split: Split | None, detector: str | None, work: Path, min_face: float) -> FaceSource:
    """The faces to label; what a detector found is kept in the job's folder."""
    from train.data.boxes import open_unlabelled
    from train.label.found import find_faces, found_faces, photos_under

    if detector is None:
        try:
            return open_unlabelled(text, split=split)
        except InputError as error:
            hint = "; for a folder of plain photos name a --detector" if Path(text).is_dir() else ""
            raise InputError(f"{error}{hint}") from error
    if not Path(text).is_dir():
        raise UsageError(f"--detector looks for faces in a folder of photos, {text} is none; leave one of them out")
    # The name tells what was looked for: a job repeated with another detector must not take up the old boxes.
    table = work / f"boxes-{hashlib.sha256(f'{detector} {min_face!r}'.encode()).hexdigest()[:8]}.csv"
    if not table.is_file():
        from runtime.detect.choose import open_detector

        photos, finder = photos_under(Path(text)), open_detector(detector)
        with console.progress("detecting", len(photos)) as advance:
            broken = find_faces(photos, finder, table, lambda: advance(), min_face)
        if broken:
            console.warn(f"{text}: {broken} photos could not be read")
    return found_faces(table, Path(text).name)


def _tidy(work: Path) -> None:
    import shutil

    shutil.rmtree(work, ignore_errors=True)


def _show(labels: Labels, output: Path) -> None:
    import numpy as np

    from train.label.rules import FATES

    rows = [(FATES[fate], count, f"{100 * count / len(labels):.1f}") for fate, count in labels.counts().items()]
    console.show(console.table(f"{len(labels)} faces", ["", "faces", "%"], rows))
    kept = labels.kept
    middle = 100 * float(np.median(labels.disagreement[kept]))
    weight = float(labels.weights[kept].mean())
    print(
        f"{len(kept)} faces, median disagreement {middle:.2f} % of the face's size, mean weight {weight:.3f}: {output}"
    )
