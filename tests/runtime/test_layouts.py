from __future__ import annotations

import numpy as np
import pytest

from runtime.layouts import IBUG68, IBUG68_IN_WFLW98, LAYOUTS, WFLW98, Layout


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
def test_flip_is_an_involution_without_gaps(layout: Layout) -> None:
    flip = layout.flip_index
    assert sorted(layout.flip) == list(range(layout.count))
    assert np.array_equal(flip[flip], np.arange(layout.count))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
def test_flip_maps_each_line_onto_a_line(layout: Layout) -> None:
    lines = {frozenset(line) for line in layout.lines}
    for line in layout.lines:
        assert frozenset(layout.flip[i] for i in line) in lines, line


def test_the_68_points_mirror_as_their_98_partners_do() -> None:
    for index68, index98 in enumerate(IBUG68_IN_WFLW98):
        assert IBUG68_IN_WFLW98[IBUG68.flip[index68]] == WFLW98.flip[index98]


def test_only_the_middle_line_maps_to_itself() -> None:
    fixed = [i for i, j in enumerate(WFLW98.flip) if i == j]
    assert fixed == [16, 51, 52, 53, 54, 57, 79, 85, 90, 94]


def test_normaliser_distance_is_between_group_means() -> None:
    points = np.zeros((2, 68, 2))
    points[0, list(range(36, 42)), 0] = [0, 1, 2, 3, 2, 1]
    points[0, list(range(42, 48)), 0] = 10.5
    points[0, list(range(42, 48)), 1] = 12.0
    assert IBUG68.normaliser("inter-pupil").distance(points).tolist() == [15.0, 0.0]
