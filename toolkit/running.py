"""What `toolkit run` does: every source through one landmarker, results to pictures, videos, JSON lines and a table."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from runtime.detect import FaceRule
from runtime.detect.choose import open_detector
from runtime.errors import InputError, ToolkitError, UsageError
from runtime.face import Face
from runtime.files import atomic_path
from runtime.frames import Clip, VideoWriter, expand, kind_of, open_clip
from runtime.images import write_image
from runtime.landmarker import Landmarker, Result, Times
from runtime.track import FaceTracker, TrackSettings
from toolkit.cli import console

_PICTURE_SUFFIX, _VIDEO_SUFFIX = ".png", ".mp4"


@dataclass(frozen=True)
class Plan:
    """The command line, as data."""

    bundle: Path
    sources: tuple[str, ...]
    output: Path | None = None
    json_to: str | None = None
    detector: str = "auto"
    crop_rule: tuple[float, float, float] | None = None
    backend: str = "auto"
    passes: int = 1
    upright: bool = False
    min_score: float = 0.0
    redetect: int = 15
    smooth: bool = True
    frames: int | None = None
    threads: int = 1
    force: bool = False


@dataclass
class _Tally:
    """What one source gave."""

    source: str
    pictures: int = 0
    broken: int = 0
    faces: int = 0
    times: Times = field(default_factory=Times)
    seconds: float = 0.0

    def add(self, result: Result, faces: list[Face]) -> None:
        self.pictures += 1
        self.faces += len(faces)
        self.times = self.times + result.times


def run_all(plan: Plan) -> int:
    """Run everything; the number of sources that failed."""
    sources = expand(plan.sources)
    targets = _targets(plan, sources)
    with ExitStack() as stack:
        rule = FaceRule(plan.crop_rule[0], plan.crop_rule[1:]) if plan.crop_rule else None
        landmarker = Landmarker(
            plan.bundle,
            plan.backend,
            open_detector(plan.detector, rule),
            passes=plan.passes,
            upright=plan.upright,
            threads=plan.threads,
        )
        stack.callback(landmarker.close)
        lines = stack.enter_context(_json_lines(plan.json_to))
        tallies, failed = [], 0
        videos = any(kind_of(source) in ("video", "camera") for source in sources)
        with console.progress("pictures", None if videos else len(sources)) as advance:
            for source, target in zip(sources, targets, strict=True):
                tally = _Tally(source)
                start = time.perf_counter()
                try:
                    if kind_of(source) == "picture":
                        _picture(plan, landmarker, tally, target, lines)
                        advance(1, note=Path(source).name)
                    else:
                        _video(plan, landmarker, tally, target, lines, advance)
                except ToolkitError as error:
                    if len(sources) == 1:
                        raise
                    console.complain(str(error))
                    if lines is not None:
                        _line(lines, {"source": source, "error": str(error)})
                    failed += 1
                    continue
                tally.seconds = time.perf_counter() - start
                tallies.append(tally)
    _report(plan, landmarker, tallies)
    return failed


def _picture(plan: Plan, landmarker: Landmarker, tally: _Tally, target: Path | None, lines: IO[str] | None) -> None:
    result = landmarker.run(tally.source)
    faces = [f for f in result.faces if not f.score < plan.min_score]
    tally.add(result, faces)
    if target is not None:
        from runtime.draw import draw_faces

        write_image(target, draw_faces(result.image, faces))
    if lines is not None:
        _line(lines, {"source": tally.source, **_facts(result, faces)})


def _video(
    plan: Plan,
    landmarker: Landmarker,
    tally: _Tally,
    target: Path | None,
    lines: IO[str] | None,
    advance: console.Advance,
) -> None:
    settings = TrackSettings(redetect=plan.redetect)
    if not plan.smooth:
        settings = TrackSettings(redetect=plan.redetect, smooth=None)
    tracker = FaceTracker(landmarker, settings)
    with ExitStack() as stack:
        clip = stack.enter_context(open_clip(tally.source))
        writer = stack.enter_context(VideoWriter(target, clip.rate)) if target is not None else None
        start = time.perf_counter()
        try:
            _frames(plan, tracker, clip, tally, writer, lines, lambda: advance(1, note=_speed(tally, clip, start)))
        except KeyboardInterrupt:
            if not tally.pictures:
                raise
            console.say(f"{tally.source}: stopped after {tally.pictures} frames")


def _frames(
    plan: Plan,
    tracker: FaceTracker,
    clip: Clip,
    tally: _Tally,
    writer: VideoWriter | None,
    lines: IO[str] | None,
    tick: Any,
) -> None:
    waited = time.perf_counter()
    for frame in clip.frames:
        decode = time.perf_counter() - waited
        head = {"source": tally.source, "frame": frame.number, "seconds": round(frame.seconds, 4)}
        if frame.image is None:
            tally.broken += 1
            if lines is not None:
                _line(lines, {**head, "broken": True, "faces": []})
        else:
            result = tracker.run(frame.image, frame.seconds)
            result = Result(result.faces, result.times + Times(decode=decode), result.image)
            faces = [f for f in result.faces if not f.score < plan.min_score]
            tally.add(result, faces)
            if writer is not None:
                from runtime.draw import draw_faces

                writer.write(draw_faces(frame.image, faces))
            if lines is not None:
                _line(lines, {**head, **_facts(result, faces)})
        tick()
        if plan.frames is not None and frame.number + 1 >= plan.frames:
            break
        waited = time.perf_counter()


def _speed(tally: _Tally, clip: Clip, start: float) -> str:
    rate = (tally.pictures + tally.broken) / max(time.perf_counter() - start, 1e-9)
    return f"{Path(clip.name).name} of {clip.count or '?'} frames, {rate:.1f} frames/s"


def _targets(plan: Plan, sources: list[str]) -> list[Path | None]:
    """Where each annotated result goes; every clash is found before the first slow step."""
    if plan.output is None:
        targets: list[Path | None] = [None] * len(sources)
    elif len(sources) == 1 and plan.output.suffix and not plan.output.is_dir():
        _check_suffix(plan.output, sources[0])
        targets = [plan.output]
    else:
        if plan.output.exists() and not plan.output.is_dir():
            raise UsageError(f"-o {plan.output}: {len(sources)} inputs need a directory, this is a file")
        if plan.output.suffix.lower() in (".png", ".jpg", ".jpeg", ".mp4", ".avi"):
            raise UsageError(f"-o {plan.output}: {len(sources)} inputs need a directory, this names a file")
        targets = list(_names(plan.output, sources))
    for target in targets:
        if target is not None and target.exists() and not plan.force:
            raise UsageError(f"{target}: exists already; give another name or --force")
        if target is not None and any(Path(s).exists() and target.resolve() == Path(s).resolve() for s in sources):
            raise UsageError(f"{target}: is an input; the result must go elsewhere")
    if plan.json_to not in (None, "-"):
        place = Path(str(plan.json_to))
        if place.exists() and not plan.force:
            raise UsageError(f"{place}: exists already; give another name or --force")
    return targets


def _check_suffix(output: Path, source: str) -> None:
    wanted = (".mp4", ".avi") if kind_of(source) in ("video", "camera") else (".png", ".jpg", ".jpeg", ".bmp", ".webp")
    if output.suffix.lower() not in wanted:
        raise UsageError(f"-o {output}: for {source} expected a name ending in {', '.join(wanted)}")


def _names(folder: Path, sources: list[str]) -> Iterator[Path]:
    used: set[str] = set()
    for source in sources:
        kind = kind_of(source)
        stem = f"camera{source}" if kind == "camera" else Path(source).stem
        suffix = _PICTURE_SUFFIX if kind == "picture" else _VIDEO_SUFFIX
        name, copy = f"{stem}{suffix}", 2
        while name in used:
            name, copy = f"{stem}_{copy}{suffix}", copy + 1
        used.add(name)
        yield folder / name


@contextmanager
def _json_lines(target: str | None) -> Iterator[IO[str] | None]:
    if target is None:
        yield None
    elif target == "-":
        yield sys.stdout
    else:
        with atomic_path(target) as temporary, temporary.open("w", encoding="utf-8") as stream:
            yield stream


def _line(stream: IO[str], facts: dict[str, Any]) -> None:
    stream.write(json.dumps(facts, ensure_ascii=False, allow_nan=False) + "\n")
    if stream is sys.stdout:
        stream.flush()


def _facts(result: Result, faces: list[Face]) -> dict[str, Any]:
    height, width = result.image.shape[:2]
    return {
        "width": width,
        "height": height,
        "faces": [face.to_dict() for face in faces],
        "ms": {name: round(1000 * seconds, 3) for name, seconds in result.times.stages.items()},
    }


def _report(plan: Plan, landmarker: Landmarker, tallies: list[_Tally]) -> None:
    """The table, on stdout unless the JSON lines are there."""
    if not tallies:
        raise InputError("no input could be read")
    rows = []
    for tally in tallies:
        per = [f"{1000 * seconds / max(tally.pictures, 1):.2f}" for seconds in tally.times.stages.values()]
        speed = f"{tally.pictures / tally.seconds:.1f}" if tally.seconds and tally.pictures > 1 else ""
        rows.append((tally.source, tally.pictures, tally.broken or "", tally.faces, *per, speed))
    stages = [f"{name} ms" for name in Times().stages]
    columns = ["source", "pictures", "broken", "faces", *stages, "pictures/s"]
    title = f"{landmarker.model.name}, detector {landmarker.detector.name}; times per picture"
    if plan.json_to != "-":
        console.show(console.table(title, columns, rows))
