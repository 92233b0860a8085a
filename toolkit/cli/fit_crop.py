"""`toolkit fit-crop`: the rule from a detector's boxes to a model's crops, measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from runtime.errors import UsageError
from toolkit.cli import console

if TYPE_CHECKING:
    from train.data.open import Split


def run(
    bundle: Annotated[Path, typer.Argument(help="A bundle directory, made by toolkit export.")],
    detector: Annotated[str, typer.Option("--detector", help="yunet:FILE, scrfd:FILE, retinaface:FILE or haar.")],
    data: Annotated[str, typer.Option("--data", help="Labelled faces on photos with room around the faces.")],
    split: Annotated[str | None, typer.Option("--split", help="train or test, where --data holds both.")] = None,
    count: Annotated[int, typer.Option("--count", help="At most so many faces, evenly spread.", min=10)] = 300,
    backend: Annotated[str, typer.Option("--backend", help="As for toolkit run.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Fit the crop that a detector's boxes need for a model, and say what it costs against labelled crops.

    The rule is fitted on every second face that the detector finds and measured on the others. Use it as
    `--crop-rule` of toolkit run, or as `rule=FaceRule(...)` of a detector.

    [bold]Example[/bold]

      toolkit fit-crop bundle --detector yunet:face_detection_yunet.onnx --data ../wflw --split test
    """
    if split not in (None, "train", "test"):
        raise UsageError(f"--split {split!r}: expected train or test")
    if detector in ("whole", "auto"):
        raise UsageError(f"--detector {detector}: name a detector that finds boxes")
    from runtime.landmarker import Landmarker
    from toolkit.fitcrop import fit_rule, steps_of
    from train.data.open import open_source

    landmarker = Landmarker(bundle, backend, detector)
    source = open_source(data, split=cast("Split | None", split))
    wanted = min(count, len(source))
    indices = [i * len(source) // wanted for i in range(wanted)]
    with console.progress("fit-crop", steps_of(wanted)) as advance:
        fit = fit_rule(landmarker, source, indices, lambda note: advance(1, note=note))
    if as_json:
        print(json.dumps({"data": source.name, "detector": landmarker.detector.name, **fit.to_dict()}, indent=2))
        return
    rows = [
        (name, f"{100 * value:.3f}", f"{value / fit.oracle:.3f}")
        for name, value in (
            ("crop from the labels", fit.oracle),
            ("the detector's present rule", fit.current),
            ("fitted rule", fit.fitted),
            ("fitted rule and a second pass", fit.second_pass),
        )
    ]
    title = f"{landmarker.detector.name} found {fit.found} of {fit.faces} faces\nmeasured on {fit.found // 2} of them"
    console.show(console.table(title, ["crop", "NME %", "/ labels"], rows))
    rule = f"{fit.rule.scale:g},{fit.rule.shift[0]:g},{fit.rule.shift[1]:g}"
    console.show(f"--crop-rule {rule}")
