"""`toolkit run`: faces of pictures, videos and cameras, drawn or as JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.errors import UsageError


def run(
    bundle: Annotated[Path, typer.Argument(help="A bundle directory, made by toolkit export.")],
    sources: Annotated[
        list[str], typer.Argument(help="Pictures, videos, folders, patterns such as 'in/*.jpg', or a camera number.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Annotated result: a file for one input, a directory for several."),
    ] = None,
    json_to: Annotated[
        str | None, typer.Option("--json", help="JSON lines, one per picture or frame: a file, or - for stdout.")
    ] = None,
    detector: Annotated[
        str,
        typer.Option(
            "--detector",
            help="yunet:FILE, scrfd:FILE, retinaface:FILE, haar, whole; auto takes $LANDMARK_DETECTOR or what is here.",
        ),
    ] = "auto",
    crop_rule: Annotated[
        str | None,
        typer.Option("--crop-rule", help="SCALE,DX,DY from detector box to landmark square; see toolkit fit-crop."),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            "--backend", help="auto, onnx, onnx-fp16, onnx-int8, c, c-int8, tensorrt, mnn, ncnn, tflite or openvino."
        ),
    ] = "auto",
    passes: Annotated[
        int, typer.Option("--passes", help="2 cuts each face again around its own landmarks.", min=1, max=2)
    ] = 1,
    upright: Annotated[bool, typer.Option("--upright", help="Turn crops by the detector's eye line.")] = False,
    min_score: Annotated[
        float, typer.Option("--min-score", help="Leave out faces whose score is lower.", min=0, max=1)
    ] = 0.0,
    redetect: Annotated[
        int, typer.Option("--redetect", help="Videos: frames between two looks of the detector.", min=1)
    ] = 15,
    smooth: Annotated[
        bool, typer.Option("--smooth/--no-smooth", help="Videos: One-Euro smoothing of each track.")
    ] = True,
    frames: Annotated[
        int | None, typer.Option("--frames", help="Videos and cameras: stop after so many frames.", min=1)
    ] = None,
    threads: Annotated[
        int, typer.Option("--threads", help="Threads of ONNX Runtime, MNN, ncnn, LiteRT or OpenVINO.", min=1, max=256)
    ] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace output files that are there already.")] = False,
) -> None:
    """Find faces, put landmarks on them, and show them: annotated pictures or videos, JSON lines, times per stage.

    A picture that cannot be read is one line on stderr and exit code 2; the others are still done. A frame that cannot
    be decoded is counted and skipped. A camera runs until Ctrl-C; what was written until then is whole.

    [bold]Examples[/bold]

      toolkit run bundle photo.jpg --detector yunet:face_detection_yunet.onnx -o annotated.png --json -

      toolkit run bundle clip.mp4 --detector scrfd:scrfd_2.5g_kps.onnx -o annotated.mp4 --json faces.jsonl

      toolkit run bundle 'holiday/*.jpg' more/ -o annotated/ --backend c

      toolkit run bundle 0 --frames 300 -o camera.mp4
    """
    from toolkit.running import Plan, run_all

    plan = Plan(
        bundle=bundle,
        sources=tuple(sources),
        output=output,
        json_to=json_to,
        detector=detector,
        crop_rule=_rule(crop_rule),
        backend=backend,
        passes=passes,
        upright=upright,
        min_score=min_score,
        redetect=redetect,
        smooth=smooth,
        frames=frames,
        threads=threads,
        force=force,
    )
    failed = run_all(plan)
    if failed:
        raise typer.Exit(2)


def _rule(text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not 0.1 <= numbers[0] <= 10 or max(abs(numbers[1]), abs(numbers[2])) > 1:
        raise UsageError(f"--crop-rule {text}: expected SCALE,DX,DY such as 0.82,0,0.08")
    return numbers[0], numbers[1], numbers[2]
