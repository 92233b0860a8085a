"""From the recipe's texts to faces: sources opened, weighted, split by photo, packed."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.errors import UsageError
from runtime.layouts import LAYOUTS, Layout
from runtime.spec import CropRule, ModelSpec
from train.data.augment import AugmentConfig
from train.data.combine import ConcatSource, SubsetSource, in_layout
from train.data.loader import BatchLoader
from train.data.open import SYNTH_PREFIX, open_source
from train.data.pack import FacePack, PackSettings, cached_pack
from train.data.problems import problems_of
from train.data.sample import FaceSource
from train.data.split import Indices, split_by_group
from train.data.views import View
from train.distributed import Team
from train.evaluate import point_map
from train.objective import named_values
from train.recipe import Recipe

Working = Callable[[str, int], AbstractContextManager[Callable[[], object]]]
"""Announce work of so many pieces; call what it gives after each."""

_WEIGHTED = re.compile(r"^(?P<source>synth:\d+(?:@\d+)?|.+?)(?::(?P<weight>\d+(?:\.\d*)?|\.\d+))?$", re.DOTALL)


@dataclass(frozen=True)
class Portion:
    """One source of training faces and how often each epoch shows it."""

    text: str
    weight: float
    source: FaceSource


@dataclass(frozen=True)
class TrainingPart:
    """The faces of one pack that are trained on."""

    pack: FacePack
    indices: Indices
    weight: float


@dataclass(frozen=True)
class Faces:
    """Everything a run looks at."""

    parts: tuple[TrainingPart, ...]
    validation: FaceSource
    notes: tuple[str, ...]
    """What a user should know: counts, broken faces."""

    def loader(
        self,
        recipe: Recipe,
        spec: ModelSpec,
        augment: AugmentConfig,
        team: Team,
        views: Sequence[View] = (),
        estimate_pose: bool = False,
    ) -> BatchLoader:
        """Batches of the training faces; a part's share of an epoch is its size times its weight."""
        starts = np.cumsum([0, *(len(part.pack) for part in self.parts)])
        chosen = np.concatenate([part.indices + start for part, start in zip(self.parts, starts, strict=False)])
        uneven = len({part.weight for part in self.parts}) > 1
        return BatchLoader(
            [(part.pack, part.weight * len(part.indices)) if uneven else part.pack for part in self.parts],
            spec,
            augment,
            recipe.data.batch_size,
            recipe.run.seed,
            threads=recipe.data.workers or default_workers(),
            indices=chosen,
            rank=team.rank,
            world=team.size,
            views=views,
            estimate_pose=estimate_pose,
        )

    def fingerprint(self, teachers: str = "") -> str:
        """Tells whether a resumed run sees the same faces, and hears the same teachers, as before."""
        digest = hashlib.sha256(teachers.encode())
        for part in self.parts:
            digest.update(f"{part.pack.key} {part.weight!r}".encode())
            digest.update(np.ascontiguousarray(part.indices, dtype=np.int64).tobytes())
        return digest.hexdigest()


def augmentation(recipe: Recipe) -> AugmentConfig:
    """The preset with the recipe's changes laid over it."""
    values = AugmentConfig.preset(recipe.augment.preset).to_dict()
    return AugmentConfig.from_dict({**values, **named_values(recipe.augment.change, "--augment-change")})


def default_workers() -> int:
    """One thread keeps a CPU run fed; a GPU eats faster and leaves the cores free."""
    cores = os.cpu_count() or 1
    return min(16, max(1, cores // 2))


def weighted(text: str) -> tuple[str, float]:
    """Split `SOURCE:WEIGHT`; the count of `synth:COUNT` is no weight.

    >>> weighted("faces"), weighted("faces:0.5"), weighted("synth:400"), weighted("synth:400@7:2")
    (('faces', 1.0), ('faces', 0.5), ('synth:400', 1.0), ('synth:400@7', 2.0))
    """
    if Path(text).exists():
        return text, 1.0
    found = _WEIGHTED.match(text)
    if not found:
        raise UsageError("--data: an empty text names no faces")
    weight = float(found["weight"] or 1.0)
    if weight <= 0 or weight > 1000:
        raise UsageError(f"--data {text}: the weight must lie above 0 and be at most 1000")
    return found["source"], weight


@dataclass(frozen=True)
class Opened:
    """All sources of a recipe, opened before anything slow starts."""

    layout: Layout
    """Of the model."""
    portions: tuple[Portion, ...]
    validation: tuple[FaceSource, ...]
    tests: tuple[tuple[str, FaceSource], ...]


def open_all(recipe: Recipe) -> Opened:
    """Open every source that a recipe names."""
    if not recipe.data.train:
        raise UsageError("no training faces; name some with --data, e.g. --data synth:4000")
    portions = []
    for text in recipe.data.train:
        name, weight = weighted(text)
        portions.append(Portion(name, weight, open_source(name, split="train")))
    wanted = recipe.model.layout
    layout = portions[0].source.layout if wanted == "auto" else LAYOUTS[wanted]
    for portion in portions:
        in_layout(portion.source, layout)
    validation = tuple(in_layout(open_source(text), layout) for text in recipe.data.val)
    tests = tuple((text, _open_test(text)) for text in recipe.data.test)
    for _, source in tests:
        point_map(layout, source.layout)
    return Opened(layout, tuple(portions), validation, tests)


def _open_test(text: str) -> FaceSource:
    return open_source(text, split=None if text.startswith(SYNTH_PREFIX) else "test")


def model_spec(recipe: Recipe, layout: Layout) -> ModelSpec:
    """The contract of the network that this recipe makes."""
    model = recipe.model
    normaliser = model.normaliser
    if normaliser == "auto":
        normaliser = layout.default_normaliser.name if layout.normalisers else "box"
    return ModelSpec(
        model.architecture,
        width=model.width,
        points=layout.count,
        input_size=model.input_size,
        branches=model.branches,
        layout=layout.name,
        crop=CropRule(scale=model.crop_scale),
        normaliser=normaliser,
    )


def prepare_faces(recipe: Recipe, spec: ModelSpec, opened: Opened, working: Working) -> Faces:
    """Split by photo where no validation faces were named, and pack the training faces."""
    notes: list[str] = []
    parts: list[TrainingPart] = []
    held_out: list[FaceSource] = []
    cache = Path(recipe.data.cache) if recipe.data.cache else None
    settings = PackSettings.for_spec(spec)
    for portion in opened.portions:
        source = portion.source
        with working(f"packing {portion.text}", len(source)) as advance:
            pack = cached_pack(source, cache, settings, progress=advance)
        rows = _rows_of(pack, source)
        kept: Indices = np.arange(len(source))
        if not opened.validation:
            kept, held = split_by_group(source, recipe.data.val_fraction, recipe.run.seed)
            readable = np.intersect1d(held, rows).tolist()
            held_out.append(in_layout(SubsetSource(source, readable, f"{portion.text} (held out)"), opened.layout))
        parts.append(TrainingPart(pack, np.flatnonzero(np.isin(rows, kept)), portion.weight))
        broken = len(problems_of(source)) + pack.left_out
        left_out = f", {broken} broken ones left out" if broken else ""
        notes.append(f"{portion.text}: {len(parts[-1].indices)} training faces{left_out}")
    sources = opened.validation or tuple(held_out)
    joined = sources[0] if len(sources) == 1 else ConcatSource(sources)
    origin = "" if opened.validation else " of other photos, held out of the training data"
    notes.append(f"validation: {len(joined)} faces{origin}")
    return Faces(tuple(parts), joined, tuple(notes))


def _rows_of(pack: FacePack, source: FaceSource) -> Indices:
    """For each row of a pack, the face of the source it shows; a pack leaves unreadable photos out, in order."""
    if len(pack) == len(source):
        return np.arange(len(source))
    rows, at = [], 0
    for index in range(len(pack)):
        packed = pack.sample(index)
        while (
            source.sample(at).origin != packed.origin or source.sample(at).image.as_posix() != packed.image.as_posix()
        ):
            at += 1
        rows.append(at)
        at += 1
    return np.asarray(rows, dtype=np.intp)
