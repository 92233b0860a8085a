"""The bundle's probe faces with the landmarks of its artefacts on top, as vectors over a small JPEG."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from runtime.lazy import require
from runtime.spec import ModelSpec
from toolkit.report.html import Markup, join, tag

SHOWN = 8
JPEG_QUALITY = 82
SHOWN_SIDE = 224
"""Crops are magnified to about this before they are compressed, so that people see faces and not pixels."""


def face_figures(crops: NDArray[np.uint8], outputs: Mapping[str, NDArray[np.float32]], spec: ModelSpec) -> Markup:
    """Evenly spread faces; float32 as circles, int8 as dots, a line where they part."""
    chosen = [i * len(crops) // min(SHOWN, len(crops)) for i in range(min(SHOWN, len(crops)))]
    exact, rough = _pixels(outputs["fp32"], spec), None
    if "int8" in outputs:
        rough = _pixels(outputs["int8"], spec)
    return tag(
        "div", *(_figure(crops[i], exact[i], None if rough is None else rough[i], i) for i in chosen), class_="faces"
    )


def _pixels(output: NDArray[np.float32], spec: ModelSpec) -> NDArray[np.float64]:
    """Points of the crop picture, whose pixel i covers i..i+1 in SVG."""
    points = np.asarray(output, dtype=np.float64).reshape(len(output), -1, 2) * spec.input_size
    return points + (0.5 if spec.coordinates == "corner" else 0.0)


def _figure(
    crop: NDArray[np.uint8], exact: NDArray[np.float64], rough: NDArray[np.float64] | None, index: int
) -> Markup:
    side = len(crop)
    parts = [
        Markup(f'<image width="{side}" height="{side}" href="data:image/jpeg;base64,{_jpeg(crop)}"/>'),
        _dots(exact, "p32"),
    ]
    caption = f"face {index + 1}"
    if rough is not None:
        lines = "".join(
            f"M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}" for (a, b), (c, d) in zip(exact, rough, strict=True) if (a, b) != (c, d)
        )
        parts += [tag("path", d=lines, class_="gap"), _dots(rough, "p8")]
        gap = np.hypot(*(rough - exact).T)
        caption += f": int8 moves points by {gap.mean():.2f} px, at most {gap.max():.2f}"
    label = f"Probe face {index + 1} with {len(exact)} landmarks"
    picture = tag("svg", join(parts), viewBox=f"0 0 {side} {side}", role="img", aria_label=label)
    return tag("figure", picture, tag("figcaption", caption))


def _dots(points: NDArray[np.float64], kind: str) -> Markup:
    """Round caps of lines without length: one short path instead of a hundred circles."""
    return tag("path", d="".join(f"M{x:.1f} {y:.1f}h0" for x, y in points if np.isfinite(x + y)), class_=kind)


def _jpeg(crop: NDArray[np.uint8]) -> str:
    cv2 = require("cv2", "drawing faces into the report")
    factor = max(1, round(SHOWN_SIDE / len(crop)))
    large = cv2.resize(crop, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    _, data = cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return base64.b64encode(data.tobytes()).decode("ascii")
