"""`toolkit eval`: NME, failure rate and AUC of any artefact, over all faces and per subset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from runtime.errors import UsageError
from toolkit.cli import console

if TYPE_CHECKING:
    from toolkit.boxes import BoxSource
    from toolkit.evaluate import ArtefactScore, Scoreboard
    from toolkit.robustness import Card
    from train.data.open import Split
    from train.data.sample import FaceSource


def run(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="ARTEFACT...",
            help="Checkpoints, ONNX files, C folders; a BUNDLE for all of it, BUNDLE:int8 for one part; "
            "a solution.txt of landmarks.",
        ),
    ],
    data: str = typer.Option(..., "--data", help="Labelled faces: a data set, a list, a pack or synth:N."),
    split: str | None = typer.Option(None, "--split", help="train or test, where --data holds both."),
    count: int | None = typer.Option(None, "--count", help="Only so many faces, evenly spread.", min=1),
    crop: str | None = typer.Option(
        None,
        "--crop",
        help="Where the face box comes from: landmarks, rect, or detector:NAME such as detector:yunet:FILE "
        "(default: the spec's).",
    ),
    normaliser: str | None = typer.Option(
        None, "--normaliser", help="What errors are divided by: inter-ocular, inter-pupil or box (default: the spec's)."
    ),
    protocol: str | None = typer.Option(
        None,
        "--protocol",
        help="How a data set is measured: wflw (98 points, inter-ocular), 300w (68 points, inter-ocular) or aflw2000 "
        "(68 points, box).",
    ),
    spec: str | None = typer.Option(
        None, "--spec", help="What the input means, for ONNX files without a spec: a preset or a spec file (.json)."
    ),
    batch_size: int = typer.Option(64, "--batch-size", help="Faces at a time.", min=1, max=4096),
    csv: Annotated[Path | None, typer.Option("--csv", help="Also write the error of each face.")] = None,
    save: Annotated[
        Path | None, typer.Option("--save", help="Also write the results as JSON, for toolkit report --eval.")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option("--plots", help="Folder for ced.png, landmarks.png and worst.png.")
    ] = None,
    solution: Annotated[
        Path | None,
        typer.Option("--solution", help="Write the landmarks in challenge form, solution.txt (one artefact)."),
    ] = None,
    robust: Annotated[
        bool,
        typer.Option("--robustness", help="Also the error under worse boxes, blur, JPEG and light, and the tremble."),
    ] = False,
    as_json: bool = typer.Option(False, "--json", help="Print JSON instead of tables."),
) -> None:
    """Measure landmarks against labels: NME, failure rate and AUC at 0.1, over all faces and per WFLW subset.

    Every file is fed as its own spec says; crop and normaliser stand beside the numbers. The crop starts from the
    labelled landmarks unless --crop says otherwise. Each artefact is held against the first on the same faces; the
    interval is the middle 95 % of a bootstrap over faces, and a difference whose interval contains 0 is not news.

    [bold]Examples[/bold]

      toolkit eval model.ckpt --data ../wflw --split test

      toolkit eval bundle --data ../wflw --split test --save results.json --plots pictures

      toolkit eval bundle:fp32 bundle:int8 bundle/c-int8 --data synth:64 --robustness

      toolkit eval bundle:int8 --data ../wflw --split test --crop detector:yunet:face_detection_yunet.onnx --csv e.csv
    """
    from runtime.files import write_json, write_text

    if split not in (None, "train", "test"):
        raise UsageError(f"--split {split!r}: expected train or test")
    from toolkit.boxes import open_boxes
    from toolkit.evaluate import expand, float_of_int8, score_artefacts
    from toolkit.protocols import protocol_named
    from train.data.open import open_source

    chosen = None if protocol is None else protocol_named(protocol)
    if chosen is not None:
        normaliser = chosen.check_normaliser(normaliser)
    paths = expand(files)
    _refuse(paths, plots, solution, robust)
    boxes = open_boxes(crop)
    source = open_source(data, split=cast("Split | None", split))
    if chosen is not None:
        source = chosen.source(source)
    wanted = min(count or len(source), len(source))
    indices = [i * len(source) // wanted for i in range(wanted)]
    with console.progress("faces", wanted * (len(paths) + 1 + (boxes.box_of is not None))) as advance:
        board = score_artefacts(
            paths,
            source,
            indices=indices,
            normaliser=normaliser,
            spec=spec,
            batch_size=batch_size,
            boxes=boxes,
            progress=lambda what, done: advance(done, note=what),
            protocol=chosen,
        )
    for checkpoint in float_of_int8(board):
        console.warn(
            f"{checkpoint} was trained for int8, and this is its float form; "
            f"'toolkit export {checkpoint} --int8 qat -o BUNDLE' makes the int8 one, to be measured as BUNDLE:int8"
        )
    facts = board.facts()
    card = _card(board, source, indices, boxes, normaliser) if robust else None
    if card is not None:
        facts["robustness"] = card.to_dict()
    if csv is not None:
        write_text(csv, board.csv())
    if save is not None:
        write_json(save, facts)
    if solution is not None:
        write_text(solution, board.solution())
    if plots is not None:
        from toolkit.eval_plots import draw_all

        draw_all(board, plots)
        if card is not None:
            from toolkit.robustness import draw_card

            draw_card(card, plots / "robustness.png")
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False))
        return
    if len(board.rows) == 1:
        _show_one(board, board.rows[0])
    else:
        _show_all(board)
    if card is not None:
        _show_card(card)
    for path in (csv, save, solution, plots):
        if path is not None:
            print(path)


def _refuse(paths: list[Path], plots: Path | None, solution: Path | None, robust: bool) -> None:
    """What cannot work, before the first slow step."""
    from runtime.backends.c import is_c_folder
    from runtime.files import require_file
    from toolkit.solution import is_solution

    for path in paths:
        if not is_c_folder(path):
            require_file(path)
    if solution is not None and len(paths) != 1:
        raise UsageError(f"--solution is the landmarks of one artefact, found {len(paths)}")
    if robust and any(is_solution(path) for path in paths):
        raise UsageError("--robustness changes the pictures that a model sees; a solution.txt has seen its own already")
    if plots is not None:
        if plots.exists() and not plots.is_dir():
            raise UsageError(f"--plots {plots}: is a file; give a folder")
        from runtime.lazy import require

        require("matplotlib", "--plots")


def _card(board: Scoreboard, source: FaceSource, indices: list[int], boxes: BoxSource, normaliser: str | None) -> Card:
    from toolkit.robustness import robustness

    chosen = boxes.usable(source, indices, lambda: None)
    artefacts = [row.artefact for row in board.rows]
    names = [row.name for row in board.rows]
    with console.progress("robustness", len(chosen)) as advance:
        return robustness(artefacts, names, source, chosen, boxes, normaliser, lambda done: advance(done))


def _show_card(card: Card) -> None:
    from toolkit.robustness import LEVELS, card_rows, still_rows

    title = f"robustness: NME % at each level, {card.faces} faces, errors over {card.normaliser}"
    columns = ["", "unit", "artefact", *[f"level {i + 1}" for i in range(LEVELS)]]
    console.show(console.table(title, columns, card_rows(card), numeric_from=3))
    title = "still scene: how far landmarks tremble, %"
    console.show(console.table(title, ["what moves", *card.names], still_rows(card)))


def _how(row: ArtefactScore) -> str:
    return f"crop {row.evaluation.crop}, errors over {row.evaluation.normaliser}"


def _faces(board: Scoreboard) -> str:
    missed = f" ({board.missed} more were not detected)" if board.missed else ""
    protocol = f", protocol {board.protocol}" if board.protocol else ""
    return f"{len(board.faces)} faces of {board.data}{missed}{protocol}"


def _show_one(board: Scoreboard, row: ArtefactScore) -> None:
    from train.metrics import as_percent_rows

    also = "".join(f"; over {name}: NME {100 * scores.nme:.3f} %" for name, scores in row.also.items())
    title = f"{row.artefact.path} on {_faces(board)}\n{_how(row)}{also}"
    columns = ["subset", "faces", "NME %", "FR@0.1 %", "AUC@0.1"]
    console.show(console.table(title, columns, as_percent_rows(row.evaluation.scores)))


def _show_all(board: Scoreboard) -> None:
    subsets = list(board.rows[0].evaluation.scores)
    rows = []
    for row in board.rows:
        overall = row.evaluation.overall
        parts = [f"{100 * row.evaluation.scores[subset].nme:.3f}" for subset in subsets[1:]]
        also = [f"{100 * scores.nme:.3f}" for scores in row.also.values()]
        measured = (f"{100 * overall.nme:.3f}", f"{100 * overall.failure_rate:.2f}", f"{overall.auc:.4f}")
        rows.append((row.name, row.artefact.precision, *measured, *_change(row), *also, *parts))
    hows = sorted({_how(row) for row in board.rows})
    title = f"{_faces(board)}\n{'; '.join(hows)}; per subset: NME %"
    columns = [
        "artefact",
        "precision",
        "NME %",
        "FR@0.1 %",
        "AUC@0.1",
        "change %",
        "95 % interval",
        "news",
        *(f"NME % over {name}" for name in board.rows[0].also),
        *subsets[1:],
    ]
    console.show(console.table(title, columns, rows, numeric_from=2))


def _change(row: ArtefactScore) -> tuple[str, str, str]:
    """The difference against the first artefact, and whether it is one."""
    if row.difference is None:
        return "-", "-", ""
    found = row.difference
    interval = f"{100 * found.low:+.2f} to {100 * found.high:+.2f}"
    return f"{100 * found.relative:+.2f}", interval, "yes" if found.is_news else "no"
