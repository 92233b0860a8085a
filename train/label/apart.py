"""Labelled faces whose picture another data set holds too, a test set's say: they are left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from runtime.layouts import Layout
from train.data.combine import SubsetSource
from train.data.likeness import sketch, twins
from train.data.sample import FaceSample, FaceSource
from train.label.job import Labels
from train.label.rules import TWIN


class LabelledSource(SubsetSource):
    """The kept faces of a source with their new points."""

    def __init__(self, source: FaceSource, labels: Labels, layout: Layout) -> None:
        super().__init__(source, labels.kept, source.name)
        self._points, self._new_layout = labels.points[labels.kept], layout

    @property
    def layout(self) -> Layout:
        return self._new_layout

    def sample(self, index: int) -> FaceSample:
        return replace(super().sample(index), points=self._points[index], layout=self._new_layout.name, weights=None)


def leave_out_twins(
    source: FaceSource,
    labels: Labels,
    layout: Layout,
    others: Sequence[FaceSource],
    progress: Callable[[], object] | None = None,
) -> Labels:
    """The labels without faces that one of the others shows; `progress` is told of every face looked at."""
    if not others:
        return labels
    ours = sketch(LabelledSource(source, labels, layout), progress)
    gone = set()
    for other in others:
        gone |= {labels.kept[twin.first] for twin in twins(ours, sketch(other, progress))}
    fates = tuple(TWIN if row in gone else fate for row, fate in enumerate(labels.fates))
    return replace(labels, fates=fates)
