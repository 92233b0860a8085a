"""Batches for training: the same for a seed and an epoch, whatever the threads, the rank count or the resume point."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UsageError
from runtime.geometry import warp
from runtime.images import Image
from runtime.layouts import IBUG68, IBUG68_IN_WFLW98, LAYOUTS
from runtime.spec import ModelSpec
from train.data.augment import AugmentConfig, Moves, draw_moves, move_angles, move_points, move_weights, squares
from train.data.combine import can_convert
from train.data.draws import Draws, shuffled
from train.data.pack import FacePack
from train.data.pixels import PixelPlan
from train.data.pose import can_estimate, estimate_pose
from train.data.views import View

if TYPE_CHECKING:
    import torch

AHEAD = 2
"""Batches kept ready beyond one for each thread."""


@dataclass(frozen=True)
class Batch:
    """One training step's faces."""

    images: NDArray[np.uint8]
    """(B, S, S, 3) BGR."""
    targets: NDArray[np.float32]
    """(B, N, 2) in [0, 1] of the crop; 0.5 where unknown."""
    weights: NDArray[np.float32]
    """(B, N): how much each point counts, 1 unless the source says otherwise; 0 where it does not label the point."""
    attributes: NDArray[np.float32]
    """(B, 6): 1 where the flag is set; 0 where it is not or not known."""
    angles: NDArray[np.float32]
    """(B, 3) yaw, pitch, roll in radians; NaN where unknown."""
    indices: NDArray[np.int64]
    """(B,) which faces of the sources, counted through all of them."""
    pixels: NDArray[np.float32]
    """(B, 2) where one pixel to the right and down in the photo leads, in sides of the crop."""
    views: tuple[NDArray[np.uint8], ...] = ()
    """The same faces for other networks, (B, T, T, 3) BGR each, in the order of the loader's `views`."""

    def __len__(self) -> int:
        return len(self.images)

    def input(self, spec: ModelSpec, device: str = "cpu", channels_last: bool = False) -> torch.Tensor:
        """What the network eats: float32 (B, 3, S, S), the same numbers as `runtime.geometry.network_input`."""
        return to_input(self.images, spec, device, channels_last)


def to_input(
    images: NDArray[np.uint8], spec: ModelSpec, device: str = "cpu", channels_last: bool = False
) -> torch.Tensor:
    """BGR crops -> normalised input; bytes travel to the device, floats are made there."""
    import torch

    crops = torch.from_numpy(images).to(device, non_blocking=True)
    if spec.channels == "rgb":
        crops = crops.flip(-1)
    mean, std = (np.asarray(numbers, dtype=np.float32) for numbers in (spec.mean, spec.std))
    # Whole rows of pixels at once: a factor for each of three channels alone is slow on a CPU.
    scale, offset = (
        torch.from_numpy(np.tile(numbers, crops.shape[2])).to(device)
        for numbers in (np.float32(1 / 255) / std, mean / std)
    )
    values = crops.to(torch.float32)
    values.view(-1, len(scale)).mul_(scale).sub_(offset)
    values = values.permute(0, 3, 1, 2)
    return values if channels_last else values.contiguous()


class BatchLoader:
    """Cuts, augments and batches packed faces; `sources` are packs, or (pack, weight) pairs to draw in shares.

    With `estimate_pose`, faces without known angles get those of the mean face fitted to their points.

    Without weights an epoch holds every face once. With weights it has as many draws as there are faces, shared out
    by weight; a pack that is drawn more often than it has faces is gone through again, augmented differently.
    """

    def __init__(
        self,
        sources: FacePack | Sequence[FacePack | tuple[FacePack, float]],
        spec: ModelSpec,
        augment: AugmentConfig | None = None,
        batch_size: int = 64,
        seed: int = 0,
        *,
        threads: int = 1,
        indices: Sequence[int] | NDArray[Any] | None = None,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int = 0,
        world: int = 1,
        views: Sequence[View] = (),
        estimate_pose: bool = False,
    ) -> None:
        self.spec = spec
        self.views = tuple(views)
        self.augment = augment if augment is not None else AugmentConfig()
        self.batch_size = batch_size
        self.seed = seed
        self._threads = threads
        self._shuffle = shuffle
        self._drop_last = drop_last
        self._rank, self._world = rank, world
        listed = [sources] if isinstance(sources, FacePack) else list(sources)
        self._packs = [item if isinstance(item, FacePack) else item[0] for item in listed]
        weights = [None if isinstance(item, FacePack) else float(item[1]) for item in listed]
        self._check(weights)
        self._starts = np.cumsum([0, *(len(pack) for pack in self._packs)])
        self._bounds: list[int] = self._starts.tolist()
        # Plain views of the memory maps: indexing the map's own class costs as much as a blur.
        self._images: list[Image] = [np.asarray(pack.images) for pack in self._packs]
        self._shares = self._plan_shares(indices, weights)
        self._tables = _Tables(self._packs, spec, estimate_pose)
        self._per_epoch = sum(wanted for _, wanted in self._shares)
        if len(self) == 0:
            group = f"{batch_size} x {world} ranks" if world > 1 else f"{batch_size}"
            raise UsageError(f"{self._per_epoch} faces do not fill one batch of {group}; use a smaller batch size")

    def _check(self, weights: list[float | None]) -> None:
        if not self._packs:
            raise UsageError("the loader needs at least one pack")
        if self.batch_size < 1 or self._threads < 0 or not 0 <= self._rank < self._world:
            raise UsageError(
                f"batch size {self.batch_size}, threads {self._threads}, rank {self._rank} of {self._world}: impossible"
            )
        if self._world > 1 and not self._drop_last:
            raise UsageError("with several ranks the last, smaller batch cannot be kept; set drop_last")
        if len({weight is None for weight in weights}) > 1:
            raise UsageError("give a weight to every pack or to none")
        if any(weight is not None and not (np.isfinite(weight) and weight > 0) for weight in weights):
            raise UsageError(f"weights {weights}: expected positive numbers")
        if self.augment.flip > 0 and self.spec.flip is None and self.spec.layout not in LAYOUTS:
            raise UsageError(
                f"layout {self.spec.layout} has no mirror pairs, so faces cannot be flipped; set flip to 0"
            )

    def _plan_shares(
        self, indices: Sequence[int] | NDArray[Any] | None, weights: list[float | None]
    ) -> list[tuple[NDArray[np.int64], int]]:
        """For each pack, its faces and how many draws an epoch makes from them."""
        total = int(self._starts[-1])
        chosen = np.arange(total) if indices is None else np.asarray(indices, dtype=np.int64)
        if chosen.ndim != 1 or len(chosen) == 0 or chosen.min() < 0 or chosen.max() >= total:
            raise UsageError(f"indices must name faces 0..{total - 1}, and at least one")
        if len(np.unique(chosen)) != len(chosen):
            raise UsageError("indices name a face twice; use weights to draw a source more often")
        pools = [
            chosen[(chosen >= low) & (chosen < high)] for low, high in zip(self._starts, self._starts[1:], strict=False)
        ]
        given = [weight for weight in weights if weight is not None]
        if not given:
            return [(pool, len(pool)) for pool in pools]
        empty = [pack.name for pack, pool in zip(self._packs, pools, strict=True) if len(pool) == 0]
        if empty:
            raise UsageError(f"{empty[0]} has a weight but none of its faces is chosen")
        ends = np.rint(np.cumsum(given) / sum(given) * len(chosen)).astype(int)
        return list(zip(pools, np.diff(ends, prepend=0).tolist(), strict=True))

    def __len__(self) -> int:
        """Batches in an epoch, on each rank."""
        step = self.batch_size * self._world
        return self._per_epoch // step if self._drop_last else -(-self._per_epoch // step)

    @property
    def faces_per_epoch(self) -> int:
        """Draws in an epoch over all ranks, those of a dropped last batch included."""
        return self._per_epoch

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The faces of an epoch in order, and how often each was drawn before."""
        faces: list[NDArray[np.int64]] = []
        repeats: list[NDArray[np.int64]] = []
        for pool, wanted in self._shares:
            for turn in range(-(-wanted // len(pool)) if wanted else 0):
                again = np.full(len(pool), turn, dtype=np.int64)
                order = shuffled(pool, self.seed, epoch, again) if self._shuffle else np.arange(len(pool))
                taken = order[: wanted - turn * len(pool)]
                faces.append(pool[taken])
                repeats.append(again[taken])
        all_faces, all_repeats = np.concatenate(faces), np.concatenate(repeats)
        if not self._shuffle:
            return all_faces, all_repeats
        mixed = shuffled(all_faces, self.seed, epoch, all_repeats)
        return all_faces[mixed], all_repeats[mixed]

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `start_batch` on, made ahead by the worker threads."""
        if not 0 <= start_batch <= len(self):
            raise UsageError(f"start batch {start_batch}: an epoch has {len(self)} batches")
        faces, repeats = self._order(epoch)
        step = self.batch_size * self._world
        for_rank = self._rank * self.batch_size

        def make(number: int) -> Batch:
            part = slice(number * step + for_rank, number * step + for_rank + self.batch_size)
            return self._make(epoch, faces[part], repeats[part])

        numbers = range(start_batch, len(self))
        return map(make, numbers) if self._threads == 0 else _ahead(make, numbers, self._threads)

    def _make(self, epoch: int, faces: NDArray[np.int64], repeats: NDArray[np.int64]) -> Batch:
        size, tables = self.spec.input_size, self._tables
        draws = Draws(self.seed, epoch, faces, repeats)
        moves = draw_moves(self.augment, draws, tables.centres[faces], tables.sides[faces], size)
        targets, weights = move_points(
            tables.points[faces], moves, tables.half[faces], size, self.spec.flip_permutation
        )
        if tables.weights is not None:
            weights *= move_weights(tables.weights[faces], moves, self.spec.flip_permutation)
        plan = PixelPlan(self.augment, draws, size)
        images = np.empty((len(faces), size, size, 3), dtype=np.uint8)
        for row, face in enumerate(faces.tolist()):
            crop = warp(self._pixels(face), moves.matrices[row], size, self.spec.crop.padding)
            images[row] = plan.apply(row, crop, self._texture)
        return Batch(
            images,
            targets,
            weights,
            tables.attributes[faces],
            move_angles(tables.angles[faces], moves),
            faces.copy(),
            (moves.matrices[:, :, :2].sum(2) * tables.densities[faces, None] / size).astype(np.float32),
            tuple(self._seen(view, images, faces, moves, draws) for view in self.views),
        )

    def _seen(
        self, view: View, crops: NDArray[np.uint8], faces: NDArray[np.int64], moves: Moves, draws: Draws
    ) -> NDArray[np.uint8]:
        """The batch in another view: warped from the pack itself, never from the crop."""
        if view.is_crop(self.spec.crop.padding):
            return crops
        images = np.empty((len(faces), view.size, view.size, 3), dtype=np.uint8)
        plan, matrices = PixelPlan(self.augment, draws, self.spec.input_size, view), view.matrices(moves.matrices)
        for row, face in enumerate(faces.tolist()):
            seen = warp(self._pixels(face), matrices[row], view.size, view.padding)
            images[row] = plan.apply(row, seen, self._texture)
        return images

    def _pixels(self, face: int) -> Image:
        which = bisect_right(self._bounds, face) - 1
        pixels: Image = self._images[which][face - self._bounds[which]]
        return pixels

    def _texture(self, number: int) -> Image:
        return self._pixels(number % self._bounds[-1])


def _ahead(make: Any, numbers: range, threads: int) -> Iterator[Batch]:
    """Results of `make` in order, a bounded number ahead of the reader."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="loader")
    waiting: deque[Future[Batch]] = deque()
    try:
        for number in numbers:
            waiting.append(pool.submit(make, number))
            if len(waiting) >= threads + AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Tables:
    """Labels of all packs end to end, in the layout of the model."""

    def __init__(self, packs: Sequence[FacePack], spec: ModelSpec, estimate_pose: bool) -> None:
        cuts = [squares(pack, spec) for pack in packs]
        self.centres = np.concatenate([cut.centres for cut in cuts])
        self.sides = np.concatenate([cut.sides for cut in cuts])
        self.half = np.concatenate([cut.half for cut in cuts])
        self.densities = np.concatenate([pack.settings.size / pack.regions[:, 2] for pack in packs])
        """Pixels of the pack per pixel of the photo."""
        self.points = np.concatenate([_points_in_layout(pack, spec) for pack in packs])
        self.attributes = np.concatenate([(pack.attributes > 0).astype(np.float32) for pack in packs])
        self.angles = np.concatenate([estimated_angles(pack) if estimate_pose else pack.angles for pack in packs])
        self.weights: NDArray[np.float32] | None = None
        if any(pack.weights is not None for pack in packs):
            self.weights = np.concatenate([_weights_in_layout(pack, spec) for pack in packs])


def estimated_angles(pack: FacePack) -> NDArray[np.float32]:
    """The angles of a pack's faces (N, 3); unknown ones are estimated from the points, where they can be."""
    angles = np.array(pack.angles, dtype=np.float32)
    for face in np.flatnonzero(~np.isfinite(angles).all(1)) if can_estimate(pack.layout) else ():
        found = estimate_pose(pack.points[face], pack.layout)
        if found is not None:
            angles[face] = found
    return angles


def _points_in_layout(pack: FacePack, spec: ModelSpec) -> NDArray[np.float32]:
    if pack.layout.name == spec.layout:
        return pack.points
    can_convert(pack.layout, spec.point_layout)
    if spec.layout == IBUG68.name:
        return pack.points[:, list(IBUG68_IN_WFLW98)]
    points = np.full((len(pack), spec.points, 2), np.nan, dtype=np.float32)
    points[:, list(IBUG68_IN_WFLW98)] = pack.points
    return points


def _weights_in_layout(pack: FacePack, spec: ModelSpec) -> NDArray[np.float32]:
    given = np.ones(pack.points.shape[:2], dtype=np.float32) if pack.weights is None else pack.weights
    if pack.layout.name == spec.layout:
        return given
    if spec.layout == IBUG68.name:
        return given[:, list(IBUG68_IN_WFLW98)]
    weights = np.zeros((len(pack), spec.points), dtype=np.float32)
    weights[:, list(IBUG68_IN_WFLW98)] = given
    return weights
