"""`toolkit data overlap` and `toolkit data compare`: two data sets held against each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.errors import UsageError
from toolkit.cli import console

if TYPE_CHECKING:
    from train.data.convention import Difference
    from train.data.likeness import Sketches, Twin
    from train.data.sample import FaceSource

OVERLAP_EPILOG = "\n\n".join(
    [
        "Examples:",
        "toolkit data overlap labelled WFLW --split train,test",
        "toolkit data overlap mine theirs -o twins.csv --png twins.png --require-none",
    ]
)
COMPARE_EPILOG = "\n\n".join(
    [
        "Examples:",
        "toolkit data compare 300W/derived98 labelled --png rules.png",
        "toolkit data compare 300W WFLW --split train,train",
    ]
)
SHOWN = 10
SHEET_PAIRS, CELL = 24, 160
DIFFERENT = 0.01
"""A systematic part of so many eye distances is worth a warning."""

First = Annotated[str, typer.Argument(metavar="FIRST", help="Faces: whatever the other commands take.")]
Second = Annotated[str, typer.Argument(metavar="SECOND", help="The faces to hold them against.")]
Splits = Annotated[
    str | None,
    typer.Option("--split", help="train or test, where the faces come in two lists; FIRST,SECOND when they differ."),
]


def overlap(
    first: First,
    second: Second,
    split: Splits = None,
    least: Annotated[
        float, typer.Option("--least", help="Correlation of the pixels from which two faces are one picture.")
    ] = 0.9,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the pairs as CSV.")] = None,
    png: Annotated[Path | None, typer.Option("--png", help="Also draw the pairs side by side.")] = None,
    require_none: Annotated[
        bool, typer.Option("--require-none", help="End with exit code 1 when there is a pair: for scripts.")
    ] = False,
) -> None:
    """Find faces that two data sets share: one picture, whatever its name, size, cut or compression.

    Training on a picture that tests measure makes their result worthless; names do not tell, for one photo often goes
    round under several.
    """
    from train.data.likeness import sketch, twins

    _picture_name(png)
    if not 0 < least <= 1:
        raise UsageError(f"--least {least:g}: expected a number above 0, at most 1")
    sources = _open_both(first, second, split)
    sketches: list[Sketches] = []
    for source in sources:
        with console.progress(f"looking at {source.name}", len(source)) as advance:
            sketches.append(sketch(source, lambda: advance()))
        if sketches[-1].unreadable:
            console.warn(f"{source.name}: {sketches[-1].unreadable} photos cannot be read, their faces match nothing")
    with console.progress("comparing", min(map(len, sources))) as advance:
        found = twins(sketches[0], sketches[1], least, lambda: advance())
    _show_twins(found, sources, (first, second))
    if output is not None:
        from runtime.files import write_text

        write_text(output, _twin_table(found, sources))
        console.say(f"pairs: {output}")
    if png is not None and found:
        _draw_twins(found, sketches, png)
        console.say(f"picture: {png}")
    elif png is not None:
        console.say(f"no pair, so no picture: {png} was not written")
    if found and require_none:
        raise typer.Exit(1)


def compare(
    first: First,
    second: Second,
    split: Splits = None,
    png: Annotated[Path | None, typer.Option("--png", help="Also draw both on the mean face.")] = None,
) -> None:
    """Hold two sets of labels of the same faces against each other: how far apart, and how much of it is system.

    Data sets place points by different rules (300-W and WFLW differ on chin, brows and mouth). What a network learns
    from one is wrong on the other by the systematic part; that part is not noise and no training removes it.
    """
    from train.data.convention import compare_labels, draw_difference

    _picture_name(png)
    sources = _open_both(first, second, split)
    found = compare_labels(*sources)
    _show_difference(found, first, second)
    if png is not None:
        draw_difference(found, (first, second), png)
        console.say(f"picture: {png}")


def _picture_name(png: Path | None) -> None:
    if png is not None and png.suffix.lower() != ".png":
        raise UsageError(f"--png {png}: the name must end in .png")


def _open_both(first: str, second: str, split: str | None) -> tuple[FaceSource, FaceSource]:
    from toolkit.cli.data import Split, open_named

    names = [name.strip() for name in split.split(",")] if split else [""]
    if len(names) > 2 or any(name not in ("", "train", "test") for name in names):
        raise UsageError(f"--split {split}: expected train, test, or two of them such as train,test")
    parts = [Split(name) if name else None for name in (names * 2)[:2]]
    return open_named(first, parts[0]), open_named(second, parts[1])


def _show_twins(found: list[Twin], sources: tuple[FaceSource, FaceSource], texts: tuple[str, str]) -> None:
    shared = [len({getattr(twin, side) for twin in found}) for side in ("first", "second")]
    for twin in found[:SHOWN]:
        names = (sources[0].sample(twin.first).image.name, sources[1].sample(twin.second).image.name)
        print(f"{twin.likeness:.3f}  {names[0]} (face {twin.first})  =  {names[1]} (face {twin.second})")
    if len(found) > SHOWN:
        print(f"... and {len(found) - SHOWN} more pairs (-o writes all)")
    print(
        f"{shared[0]} of {len(sources[0])} faces of {texts[0]} show the same picture as "
        f"{shared[1]} of {len(sources[1])} of {texts[1]}"
    )


def _twin_table(found: list[Twin], sources: tuple[FaceSource, FaceSource]) -> str:
    import csv
    import io

    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["likeness", "first_face", "first_photo", "second_face", "second_photo"])
    for twin in found:
        a, b = sources[0].sample(twin.first), sources[1].sample(twin.second)
        writer.writerow([f"{twin.likeness:.4f}", twin.first, a.image.as_posix(), twin.second, b.image.as_posix()])
    return stream.getvalue()


def _draw_twins(found: list[Twin], sketches: list[Sketches], png: Path) -> None:
    import cv2
    import numpy as np

    from runtime.images import write_image
    from train.data.contact import tile

    cells = []
    for twin in found[:SHEET_PAIRS]:
        pair = np.hstack([sketches[0].fine[twin.first], sketches[1].fine[twin.second]])
        cell = cv2.cvtColor(cv2.resize(pair, (2 * CELL, CELL), interpolation=cv2.INTER_CUBIC), cv2.COLOR_GRAY2BGR)
        for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            text = f"{twin.first} = {twin.second}: {twin.likeness:.3f}"
            cv2.putText(cell, text, (4, CELL - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, width, cv2.LINE_AA)
        cells.append(np.asarray(cell, dtype=np.uint8))
    write_image(png, tile(cells, min(4, len(cells))))


def _show_difference(found: Difference, first: str, second: str) -> None:
    rows = [(name, *(f"{100 * value:.2f}" for value in values)) for name, *values in found.rows()]
    title = f"{first} against {second}: {len(found.offsets)} faces that both label, % of the eye distance"
    console.show(console.table(title, ["points", "mean distance", "systematic", "scatter"], rows))
    systematic = found.rows()[0][2]
    if systematic >= DIFFERENT:
        console.warn(
            f"{first} and {second} place points by different rules: a network that learns from one is off by "
            f"{100 * systematic:.1f} % on the other before it makes any error of its own; label one anew by models of "
            "the other (toolkit data label, without --pin), or do not mix them"
        )
