"""Tracks: ids that stay, faces that come, go and cross, and one filter per face."""

from __future__ import annotations

import numpy as np
import pytest

from runtime import FaceTracker, Landmarker, TrackSettings
from runtime.errors import UsageError
from runtime.smooth import OneEuro
from tests.runtime.blobs import BlobFaces, Given, box_of, scene

RED, BLUE, WHITE = (60, 60, 230), (230, 90, 60), (220, 220, 220)
RATE = 30.0


class World:
    """Bright squares that move, a detector that sees those that are not hidden, a tracker."""

    def __init__(self, noise: float = 0.0, **settings: object) -> None:
        self.detector = Given()
        self.tracker = FaceTracker(
            Landmarker(BlobFaces(noise=noise), detector=self.detector),
            TrackSettings(**settings),  # type: ignore[arg-type]
        )
        self.frame = 0

    def see(self, blobs: list, visible: list[bool] | None = None) -> dict[int, tuple[float, float]]:
        """One frame; where each id is."""
        image = scene(400, 200, blobs)
        shown = visible or [True] * len(blobs)
        self.detector.boxes = [box_of(*blob[:3]) for blob, seen in zip(blobs, shown, strict=True) if seen]
        faces = self.tracker(image, self.frame / RATE)
        self.frame += 1
        return {int(f.track or 0): tuple(f.landmark_box.centre) for f in faces}  # type: ignore[misc]


def test_a_moving_face_keeps_its_id_and_the_detector_rests() -> None:
    world = World(redetect=10, smooth=None)
    for step in range(31):
        found = world.see([(60 + 5 * step, 100, 50, WHITE)])
        assert list(found) == [1]
        assert np.hypot(found[1][0] - (60 + 5 * step), found[1][1] - 100) < 3
    assert world.detector.asked == 4


def test_a_face_that_leaves_is_lost_and_one_that_comes_back_soon_is_the_same() -> None:
    world = World(redetect=10)
    for _ in range(5):
        assert list(world.see([(100, 100, 50, WHITE)])) == [1]
    asked = world.detector.asked
    for _ in range(10):
        assert world.see([]) == {}
    assert world.detector.asked > asked, "a lost face calls for the detector"
    for _ in range(12):
        found = world.see([(104, 100, 50, WHITE)])
    assert list(found) == [1]
    for _ in range(60):
        world.see([])
    for _ in range(12):
        found = world.see([(104, 100, 50, WHITE)])
    assert list(found) == [2], "after its patience the id is free"


def test_a_new_face_gets_a_new_id_at_the_next_look() -> None:
    world = World(redetect=5)
    for _ in range(6):
        world.see([(80, 100, 50, WHITE)])
    for _ in range(6):
        found = world.see([(80, 100, 50, WHITE), (300, 100, 60, RED)])
    assert set(found) == {1, 2} and found[2][0] > 250


@pytest.mark.parametrize("gap", [0, 24])
def test_ids_survive_a_crossing(gap: int) -> None:
    """Two faces pass each other, one behind the other; the hidden one is neither seen nor detected."""
    world = World(redetect=5)
    ids: list[dict[int, tuple[float, float]]] = []
    for step in range(60):
        left, right = 60 + 4.5 * step, 340 - 4.5 * step
        hidden = abs(left - right) < 40
        ids.append(world.see([(left, 100, 56, RED), (right, 100 + gap, 56, BLUE)], [not hidden, True]))
    assert set(ids[3]) == {1, 2} and set(ids[-1]) == {1, 2}
    start, end = ids[3], ids[-1]
    for number in (1, 2):
        moved = end[number][0] - start[number][0]
        red = start[number][0] < 200
        assert (moved > 200) if red else (moved < -200), f"id {number} changed faces"
    assert max(max(found, default=0) for found in ids) == 2, "a crossing must not make new ids"


def test_a_face_that_speeds_up_is_followed_by_where_it_is_going() -> None:
    world = World(redetect=1000, smooth=None)
    for step in range(24):
        x = 40 + 0.6 * step**2
        found = world.see([(x, 100, 40, WHITE)])
        assert list(found) == [1] and abs(found[1][0] - x) < 4, step
    assert world.detector.asked == 1


def test_faces_that_changed_places_unseen_are_told_apart_by_their_looks() -> None:
    world = World(redetect=4)
    for _ in range(6):
        found = world.see([(150, 100, 50, RED), (216, 100, 50, BLUE)])
    red = min(found, key=lambda number: found[number][0])
    for _ in range(6):
        assert world.see([]) == {}
    for _ in range(6):
        found = world.see([(150, 100, 50, BLUE), (216, 100, 50, RED)])
    assert set(found) == {1, 2} and found[red][0] > 200


def test_smoothing_is_per_face_and_can_be_switched_off() -> None:
    def wobble(smooth: OneEuro | None) -> np.ndarray:
        world = World(noise=0.002, redetect=1000, smooth=smooth)
        runs: list[np.ndarray] = []
        for _ in range(60):
            image_faces = world.see([(100, 100, 50, RED), (300, 100, 80, BLUE)])
            runs.append(np.array([image_faces[1], image_faces[2]]))
        return np.stack(runs)[20:].std(axis=0)

    calm, raw = wobble(OneEuro()), wobble(None)
    assert (calm < 0.8 * raw).all()


def test_two_tracks_never_share_a_face() -> None:
    world = World(redetect=3)
    """The detector reports one face twice; and a second track drifts onto a face that another one holds."""
    for _ in range(8):
        assert len(world.see([(150, 100, 60, WHITE), (156, 100, 60, WHITE)])) == 1
    world = World(redetect=3)
    for step in range(30):
        gap = max(0, 90 - 6 * step)
        found = world.see([(150, 100, 60, WHITE), (150 + gap, 100, 60, WHITE)])
    assert len(found) == 1


def test_time_must_grow_and_settings_are_checked() -> None:
    world = World()
    world.see([])
    world.frame = 0
    with pytest.raises(UsageError, match="times must grow"):
        world.see([])
    with pytest.raises(UsageError, match="at least 1 frame"):
        World(redetect=0)
