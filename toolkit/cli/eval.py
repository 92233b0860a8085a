"""`toolkit eval`: NME, failure rate and AUC of any artefact, over all faces and per subset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from runtime.errors import UsageError
from toolkit.cli import console

if TYPE_CHECKING:
    from toolkit.evaluate import ArtefactScore, Scoreboard
    from train.data.open import Split


def run(
    files: Annotated[
        list[Path],
        typer.Argument(help="Checkpoints, ONNX files, or the C of a bundle (BUNDLE/c), measured side by side."),
    ],
    data: str = typer.Option(..., "--data", help="Labelled faces: a data set, a list, a pack or synth:N."),
    split: str | None = typer.Option(None, "--split", help="train or test, where --data holds both."),
    count: int | None = typer.Option(None, "--count", help="Only so many faces, evenly spread.", min=1),
    normaliser: str | None = typer.Option(
        None, "--normaliser", help="What errors are divided by: inter-ocular, inter-pupil or box (default: the spec's)."
    ),
    spec: str | None = typer.Option(
        None, "--spec", help="What the input means, for ONNX files without a spec: a preset or a spec file (.json)."
    ),
    batch_size: int = typer.Option(64, "--batch-size", help="Faces at a time.", min=1, max=4096),
    csv: Annotated[Path | None, typer.Option("--csv", help="Also write the error of each face.")] = None,
    as_json: bool = typer.Option(False, "--json", help="Print JSON instead of tables."),
) -> None:
    """Measure landmarks against labels: NME, failure rate and AUC at 0.1, over all faces and per WFLW subset.

    Every file is fed as its own spec says; crop and normaliser stand beside the numbers. The crop starts from the
    labelled landmarks, so that no detector is measured along with the model.

    [bold]Examples[/bold]

      toolkit eval model.ckpt --data ../wflw --split test

      toolkit eval model.onnx model.int8.onnx --data ../wflw --split test --csv errors.csv

      toolkit eval bundle/model.onnx bundle/c bundle/c-int8 --data ../wflw --split test

      toolkit eval PFLD_GhostOne_112_1_opt_sim.onnx --data list_98pt_rect_attr_test.txt --json
    """
    from runtime.backends.c import is_c_folder
    from runtime.files import require_file, write_text

    for path in files:
        if not is_c_folder(path):
            require_file(path)
    if split not in (None, "train", "test"):
        raise UsageError(f"--split {split!r}: expected train or test")
    from toolkit.evaluate import score_artefacts
    from train.data.open import open_source

    source = open_source(data, split=cast("Split | None", split))
    wanted = min(count or len(source), len(source))
    indices = [i * len(source) // wanted for i in range(wanted)]
    with console.progress("faces", wanted * (len(files) + 1)) as advance:
        board = score_artefacts(
            files,
            source,
            indices=indices,
            normaliser=normaliser,
            spec=spec,
            batch_size=batch_size,
            progress=lambda what, done: advance(done, note=what),
        )
    if csv is not None:
        write_text(csv, board.csv())
    if as_json:
        print(json.dumps(_facts(board), indent=2, ensure_ascii=False, allow_nan=False))
    elif len(board.rows) == 1:
        _show_one(board, board.rows[0])
    else:
        _show_all(board)


def _facts(board: Scoreboard) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "data": board.data,
        "faces": len(board.faces),
        "artefacts": [
            {
                "path": row.artefact.path,
                "sha256": row.artefact.sha256,
                "precision": row.artefact.precision,
                "crop": row.evaluation.crop,
                "normaliser": row.evaluation.normaliser,
                "scores": {name: asdict(scores) for name, scores in row.evaluation.scores.items()},
            }
            for row in board.rows
        ],
    }


def _how(row: ArtefactScore) -> str:
    return f"crop {row.evaluation.crop}, errors over {row.evaluation.normaliser}"


def _show_one(board: Scoreboard, row: ArtefactScore) -> None:
    from train.metrics import as_percent_rows

    title = f"{row.artefact.path} on {board.data}\n{_how(row)}"
    columns = ["subset", "faces", "NME %", "FR@0.1 %", "AUC@0.1"]
    console.show(console.table(title, columns, as_percent_rows(row.evaluation.scores)))


def _show_all(board: Scoreboard) -> None:
    subsets = list(board.rows[0].evaluation.scores)
    names = [Path(row.artefact.path).name for row in board.rows]
    if len(set(names)) < len(names):
        names = [row.artefact.path for row in board.rows]
    rows = []
    for name, row in zip(names, board.rows, strict=True):
        overall = row.evaluation.overall
        parts = [f"{100 * row.evaluation.scores[subset].nme:.3f}" for subset in subsets[1:]]
        measured = (f"{100 * overall.nme:.3f}", f"{100 * overall.failure_rate:.2f}", f"{overall.auc:.4f}")
        rows.append((name, row.artefact.precision, *measured, *parts))
    hows = sorted({_how(row) for row in board.rows})
    title = f"{len(board.faces)} faces of {board.data}\n{'; '.join(hows)}; per subset: NME %"
    columns = ["artefact", "precision", "NME %", "FR@0.1 %", "AUC@0.1", *subsets[1:]]
    console.show(console.table(title, columns, rows, numeric_from=2))
