"""The stretch of the road that makes files for engines of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.bundle import BundleWriter
from export.formats.convert import CONVERTERS, Home, convert
from export.formats.links import (
    CARD,
    CARD_KIND,
    KIND,
    WEIGHTS_KIND,
    Truth,
    card,
    card_name,
    checks,
    run_file,
    settings,
)
from export.links import require_passed
from runtime.backends.formats import FORMATS, Format, Precision
from runtime.spec import ModelSpec

Say = Callable[[str], None]


def add_formats(
    writer: BundleWriter,
    spec: ModelSpec,
    faces: NDArray[np.float32],
    homes: dict[str, Home],
    precisions: Sequence[str],
    truth: Truth,
    say: Say,
) -> list[str]:
    """Every format that was asked for, in every precision that it and the bundle have; the names that were added."""
    added: list[str] = []
    for name, home in homes.items():
        form = FORMATS[name]
        made = [_add(writer, form, home, p, spec, faces, truth, say) for p in form.precisions if p in precisions]
        data = card(form, {n: writer[n] for pair in made for n in pair}, spec)
        writer.add(card_name(form), CARD_KIND, f"{form.name}/{CARD}", data, CONVERTERS[name].parent["fp32"])
        added += [pair[0] for pair in made]
    return added


def _add(
    writer: BundleWriter,
    form: Format,
    home: Home,
    precision: Precision,
    spec: ModelSpec,
    faces: NDArray[np.float32],
    truth: Truth,
    say: Say,
) -> tuple[str, ...]:
    name, parent = form.artefact(precision), CONVERTERS[form.name].parent[precision]
    say(f"{form.title} {precision}: converting")
    model = (writer.directory / writer[parent].file).read_bytes()
    files = convert(form, home, precision, model, spec.input_size)
    say(f"{form.title} {precision}: measuring")
    found = run_file(form, home, files, faces)
    numbers = checks(precision, found.output, truth, spec)
    require_passed(numbers, f"{form.title} {precision}")
    place = form.file(precision)
    how = settings(form, precision, home, found.facts)
    writer.add(name, KIND, place, files[form.suffix], parent, how, numbers)
    if not form.weights:
        return (name,)
    second = Path(place).with_suffix(form.weights).as_posix()
    writer.add(f"{name}{form.weights}", WEIGHTS_KIND, second, files[form.weights], parent)
    return name, f"{name}{form.weights}"
