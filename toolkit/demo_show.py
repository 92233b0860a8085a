"""The last part of the demo, from a finished bundle: accuracy, speed, the page for people, landmarks in a photo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runtime.images import write_image

Shown = tuple[str, tuple[Path, ...]]
"""What a stage says, and the files to look at."""
PICTURES = 6


def evaluate_bundle(place: Path, faces: str, out: Path, count: int | None = None) -> Shown:
    """Every artefact on the same labelled faces, each held against the first."""
    from runtime.files import write_json
    from toolkit.eval_plots import FILES, draw_all
    from toolkit.evaluate import score_artefacts
    from train.data.open import open_source, splits_in

    source = open_source(faces, split="test" if splits_in(faces) else None)
    wanted = min(count or len(source), len(source))
    board = score_artefacts([place], source, indices=[i * len(source) // wanted for i in range(wanted)])
    write_json(out / "evaluation.json", board.facts())
    draw_all(board, out / "evaluation")
    first, last = board.rows[0], max(board.rows, key=lambda row: row.evaluation.overall.nme)
    words = f"NME {100 * first.evaluation.overall.nme:.2f} % ({first.name})"
    if last.difference is not None:
        change = last.difference
        words += (
            f"; most lost: {last.name}, {100 * change.relative:+.2f} % "
            f"({100 * change.low:+.2f} to {100 * change.high:+.2f})"
        )
    return words, tuple(out / "evaluation" / name for name in FILES)


def time_bundle(place: Path, out: Path, say: Callable[[str], None]) -> Shown:
    """A short bench; `toolkit bench` measures with care."""
    from runtime.files import write_text
    from toolkit.bench.run import Request, bench_bundle
    from toolkit.bench.show import draw, markdown

    request = Request(rounds=8, burst=8, throughput=False, pace_runs=15, cache=out / "models")
    result = bench_bundle(place, request, say)
    result.write(out / "bench.json")
    write_text(out / "bench.md", markdown(result))
    draw(result, out / "bench.png")
    best, reference = result.fastest, result.find("ONNX Runtime fp32")
    words = f"fastest: {best.title}, {1e3 * best.median:.2f} ms a face"
    if reference is not None and reference is not best:
        words += f"; ONNX Runtime fp32 takes {reference.ratio_to(best):.1f} times as long"
    return words, (out / "bench.md", out / "bench.png")


def explain_bundle(place: Path, out: Path) -> Shown:
    """report.html with everything that was measured."""
    from toolkit.report import write_report

    page = write_report(place, out / "evaluation.json", out / "bench.json")
    return "one page for people: chain, accuracy, speed, files", (page,)


def annotate(place: Path, faces: str, out: Path) -> Shown:
    """A few whole photos with the landmarks that the bundle finds, the face boxes taken from the labels."""
    from runtime.draw import draw_faces
    from runtime.geometry import Box
    from runtime.landmarker import Landmarker
    from train.data.open import open_source, splits_in

    source = open_source(faces, split="test" if splits_in(faces) else None)
    paths = []
    with Landmarker(place) as find:
        for number in range(min(PICTURES, len(source))):
            index = number * len(source) // min(PICTURES, len(source))
            photo = source.photo(index)
            box = Box.around(source.sample(index).points)
            path = out / "annotated" / f"{number + 1}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, draw_faces(photo, find(photo, [box])))
            paths.append(path)
        words = f"{len(paths)} photos through {find.model.name}"
    return words, tuple(paths)
