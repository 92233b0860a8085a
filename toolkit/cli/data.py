"""`toolkit data`: what is in a data set, a contact sheet of it, synthetic faces, packs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli import console, data_pairs, label

if TYPE_CHECKING:
    from train.data.problems import OnError
    from train.data.sample import FaceSource

app = typer.Typer(
    name="data",
    help="Look into face data, make synthetic faces, pack faces for training.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

BROKEN_SHOWN = 10
SOURCE_HELP = (
    "A WFLW folder, a folder with a landmark list, a list file, a folder of .pts files, a challenge folder with "
    "annot.pkl, a pack, or synth:N (also synth:N@SEED)."
)


class Split(str, Enum):
    """Which of two lists that lie side by side."""

    train = "train"
    test = "test"


Source = Annotated[str, typer.Argument(metavar="DIR", help=SOURCE_HELP)]
WhichSplit = Annotated[
    Split | None,
    typer.Option("--split", help="Which list, when a train and a test list lie side by side."),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at the first broken face instead of skipping and naming it.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=(1 << 63) - 1, help="Same seed, same faces.")]


def _examples(*lines: str) -> str:
    return "\n\n".join(["Examples:", *lines])


def _on_error(strict: bool) -> OnError:
    return "fail" if strict else "skip"


def _open(text: str, split: Split | None, strict: bool) -> FaceSource:
    """Open a source; broken faces are skipped, but never in silence."""
    from train.data.open import open_source

    with console.progress(f"reading {text}", None) as advance:
        source = open_source(
            text, split=split.value if split else None, on_error=_on_error(strict), progress=lambda: advance()
        )
    _name_broken(source)
    return source


def open_named(text: str, split: Split | None) -> FaceSource:
    """A source as the other commands open it; broken faces are named and left out."""
    return _open(text, split, strict=False)


def _name_broken(source: FaceSource, already: int = 0) -> None:
    from train.data.problems import problems_of

    problems = problems_of(source)
    if len(problems) == already:
        return
    for problem in list(problems)[already : already + BROKEN_SHOWN]:
        console.warn(str(problem))
    rest = len(problems) - already - BROKEN_SHOWN
    more = f" ({rest} more are not shown here; toolkit data stats --json names them)" if rest > 0 else ""
    console.warn(f"{source.name}: left out {problems.summary().partition('; first')[0]}{more}")


@app.command(
    epilog=_examples(
        "toolkit data stats WFLW --png wflw.png",
        "toolkit data stats faces/list.txt --strict",
        "toolkit data stats synth:500 --json stats.json",
    )
)
def stats(
    source: Source,
    split: WhichSplit = None,
    png: Annotated[
        Path | None,
        typer.Option("--png", help="Also draw the distributions of pose, size and flags."),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", help="Also write the numbers, and every broken line, as JSON."),
    ] = None,
    strict: Strict = False,
) -> None:
    """Count faces, sizes, flags, poses and broken lines; both splits side by side when there are two."""
    from runtime.errors import UsageError
    from runtime.files import write_json
    from train.data.open import splits_in
    from train.data.stats import describe, rows

    if png is not None and png.suffix.lower() != ".png":
        raise UsageError(f"--png {png}: the name must end in .png")
    both: list[Split | None] = [Split(name) for name in splits_in(source)]
    found = []
    for part in both if both and split is None else [split]:
        opened = _open(source, part, strict)
        with console.progress(f"looking at {opened.name}", len(opened)) as advance:
            found.append(describe(opened, lambda: advance()))
    tables = [dict(rows(part)) for part in found]
    names = list(dict.fromkeys(name for table in tables for name in table))
    body = [(name, *(table.get(name, "0") for table in tables)) for name in names]
    console.show(console.table(source, ["", *(part.split or part.name for part in found)], body))
    if json is not None:
        write_json(json, [part.to_dict() for part in found])
        console.say(f"numbers: {json}")
    if png is not None:
        from train.data.figures import draw_stats

        draw_stats(found, png)
        console.say(f"picture: {png}")


@app.command(
    epilog=_examples(
        "toolkit data show WFLW --split train -o sheet.png",
        "toolkit data show synth:24 -o faces.png --count 12 --columns 4",
    )
)
def show(
    source: Source,
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write (.png or .jpg).")],
    count: Annotated[int, typer.Option("--count", min=1, max=1000, help="How many faces.")] = 24,
    seed: Seed = 0,
    columns: Annotated[int, typer.Option("--columns", min=1, max=100, help="Faces in a row.")] = 6,
    cell: Annotated[int, typer.Option("--cell", min=32, max=1024, help="Pixels of each face on the sheet.")] = 192,
    split: WhichSplit = None,
    strict: Strict = False,
) -> None:
    """Draw a contact sheet: faces with their points."""
    from runtime.errors import UsageError
    from runtime.images import write_image
    from train.data.contact import contact_sheet

    if output.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"--output {output}: the name must end in .png or .jpg")
    opened = _open(source, split, strict)
    shown = min(count, len(opened))
    with console.progress("drawing", shown) as advance:
        sheet = contact_sheet(opened, count, seed, columns=columns, cell=cell, progress=lambda: advance())
    write_image(output, sheet)
    typer.echo(f"{shown} of {len(opened)} faces: {output}")


@app.command(
    epilog=_examples("toolkit data synth 2000 -o faces", "toolkit data synth 500 -o faces --seed 7 --size 192")
)
def synth(
    count: Annotated[int, typer.Argument(metavar="N", min=1, max=10_000_000, help="How many faces.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make; it must not exist yet.")],
    seed: Seed = 0,
    size: Annotated[int, typer.Option("--size", min=32, max=1024, help="Pixels of each photo.")] = 160,
    test_fraction: Annotated[
        float, typer.Option("--test-fraction", min=0.0, max=1.0, help="The part that becomes the test list.")
    ] = 0.1,
) -> None:
    """Render synthetic faces with exact points, in the form of WFLW; the same seed gives the same bytes."""
    from train.data.synth import write_synth

    with console.progress("rendering", count) as advance:
        written = write_synth(output, count, seed, size, test_fraction, lambda: advance())
    typer.echo(f"{count} faces: {written}")


@app.command(
    epilog=_examples(
        "toolkit data pack WFLW --split train -o wflw.pack", "toolkit data pack faces -o faces.pack --size 256 --force"
    )
)
def pack(
    source: Source,
    output: Annotated[Path, typer.Option("--output", "-o", help="The pack's folder.")],
    size: Annotated[int, typer.Option("--size", min=16, max=1024, help="Pixels of each packed face.")] = 192,
    margin: Annotated[
        float, typer.Option("--margin", min=1.0, max=5.0, help="Side of the cut, in sides of the landmark box.")
    ] = 1.8,
    split: WhichSplit = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a pack that is there already.")] = False,
    strict: Strict = False,
) -> None:
    """Decode and crop every face once; training then reads the pack at memory speed."""
    from runtime.errors import UsageError
    from train.data.pack import FacePack, PackSettings, build_pack, require_place
    from train.data.problems import problems_of

    settings = PackSettings(size, margin)
    require_place(output, force)
    opened = _open(source, split, strict)
    if isinstance(opened, FacePack):
        raise UsageError(f"{source} is a pack already")
    with console.progress("packing", len(opened)) as advance:
        built = build_pack(
            opened, output, settings, on_error=_on_error(strict), progress=lambda: advance(), force=force
        )
    _name_broken(built, already=len(problems_of(opened)))
    typer.echo(f"{len(built)} faces of {size} x {size}: {output}")


app.command("label", epilog=label.EPILOG)(label.label)
app.command("overlap", epilog=data_pairs.OVERLAP_EPILOG)(data_pairs.overlap)
app.command("compare", epilog=data_pairs.COMPARE_EPILOG)(data_pairs.compare)
