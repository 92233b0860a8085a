from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from runtime.errors import UsageError
from runtime.geometry import network_input
from runtime.layouts import IBUG68_IN_WFLW98
from runtime.spec import ModelSpec
from train.data.augment import AugmentConfig
from train.data.loader import Batch, BatchLoader, to_input
from train.data.pack import FacePack

SPEC = ModelSpec("ghostone", input_size=48)
STRONG = AugmentConfig.strong()


def loader(pack: Any, **options: Any) -> BatchLoader:
    return BatchLoader(pack, SPEC, **{"augment": STRONG, "batch_size": 4, "seed": 11, "threads": 0, **options})


ARRAYS = [field.name for field in fields(Batch) if field.name != "views"]


def same(left: Sequence[Batch], right: Sequence[Batch]) -> bool:
    return len(left) == len(right) and all(
        np.array_equal(getattr(a, name), getattr(b, name), equal_nan=name == "angles")
        for a, b in zip(left, right, strict=True)
        for name in ARRAYS
    )


def joined(batches: Sequence[Batch]) -> Batch:
    return Batch(**{name: np.concatenate([getattr(b, name) for b in batches]) for name in ARRAYS})


def test_shapes_and_types(pack: FacePack) -> None:
    batch = next(loader(pack).epoch(0))
    assert (batch.images.shape, batch.images.dtype) == ((4, 48, 48, 3), np.uint8)
    assert (batch.targets.shape, batch.targets.dtype) == ((4, 98, 2), np.float32)
    assert (batch.weights.shape, batch.attributes.shape, batch.angles.shape) == ((4, 98), (4, 6), (4, 3))
    assert len(batch) == 4
    np.testing.assert_array_equal(batch.attributes, (pack.attributes[batch.indices] > 0).astype(np.float32))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(pack: FacePack, threads: int) -> None:
    assert same(list(loader(pack).epoch(3)), list(loader(pack, threads=threads).epoch(3)))


def test_seed_and_epoch_change_everything(pack: FacePack) -> None:
    first = joined(list(loader(pack).epoch(0)))
    for other in (loader(pack).epoch(1), loader(pack, seed=12).epoch(0)):
        second = joined(list(other))
        assert first.indices.tolist() != second.indices.tolist()
        assert (first.images != second.images).mean() > 0.5


def test_a_face_looks_the_same_whatever_batch_it_is_in(pack: FacePack) -> None:
    fours, fives = joined(list(loader(pack).epoch(0))), joined(list(loader(pack, batch_size=5).epoch(0)))
    shared = min(len(fours), len(fives))
    assert same([cut(fours, 0, shared)], [cut(fives, 0, shared)])


def cut(batch: Batch, start: int, stop: int) -> Batch:
    return Batch(**{name: getattr(batch, name)[start:stop] for name in ARRAYS})


@pytest.mark.parametrize("start", [0, 1, 4, 5])
def test_resuming_inside_an_epoch(pack: FacePack, start: int) -> None:
    whole = list(loader(pack).epoch(7))
    assert same(whole[start:], list(loader(pack, threads=2).epoch(7, start_batch=start)))


@pytest.mark.parametrize("world", [2, 3])
def test_the_ranks_together_are_one_process_with_the_larger_batch(pack: FacePack, world: int) -> None:
    single = list(loader(pack, batch_size=3 * world).epoch(2))
    ranks = [list(loader(pack, batch_size=3, rank=rank, world=world).epoch(2)) for rank in range(world)]
    assert len(single) > 1
    assert same(single, [joined(parts) for parts in zip(*ranks, strict=True)])


def test_every_face_once(pack: FacePack) -> None:
    kept = loader(pack, drop_last=False)
    batches = list(kept.epoch(0))
    assert len(kept) == len(batches) == 6
    assert len(batches[-1]) == 3
    assert sorted(joined(batches).indices.tolist()) == list(range(23))
    assert len(loader(pack)) == 5


def test_chosen_faces_in_their_order(pack: FacePack) -> None:
    chosen = [3, 19, 4, 8, 1]
    batch = joined(list(loader(pack, indices=chosen, shuffle=False, drop_last=False).epoch(0)))
    assert batch.indices.tolist() == chosen
    mixed = joined(list(loader(pack, indices=chosen, drop_last=False).epoch(0)))
    assert sorted(mixed.indices.tolist()) == sorted(chosen)


def test_several_packs_in_a_row(pack: FacePack, pack68: FacePack) -> None:
    batch = joined(list(loader([pack, pack68], drop_last=False).epoch(0)))
    assert sorted(batch.indices.tolist()) == list(range(32))
    small = batch.indices >= 23
    assert (batch.weights[~small] == 1).all()
    assert (batch.weights[small].sum(axis=1) == 68).all()
    plain = joined(list(loader(pack68, augment=AugmentConfig.none(), shuffle=False, drop_last=False).epoch(0)))
    known = list(IBUG68_IN_WFLW98)
    assert (plain.weights[:, known] == 1).all()
    assert np.isfinite(batch.targets).all()


def test_98_points_for_a_68_point_model(pack: FacePack, pack68: FacePack) -> None:
    spec = ModelSpec("ghostone", points=68, layout="ibug68", input_size=48)
    none = AugmentConfig.none()
    batch = next(BatchLoader(pack, spec, none, 9, threads=0, shuffle=False).epoch(0))
    own = next(BatchLoader(pack68, spec, none, 9, threads=0, shuffle=False).epoch(0))
    assert batch.targets.shape == own.targets.shape == (9, 68, 2)
    assert batch.weights.min() == own.weights.min() == 1


def test_shares_follow_the_weights(pack: FacePack, pack68: FacePack) -> None:
    shared = loader([(pack, 1.0), (pack68, 3.0)], batch_size=8)
    assert shared.faces_per_epoch == 32
    batches = joined(list(shared.epoch(0)))
    from_small = batches.indices[batches.indices >= 23]
    assert len(from_small) == 24
    counts = np.bincount(from_small - 23, minlength=9)
    assert set(counts.tolist()) == {2, 3}, "gone through twice, and a part of it a third time"
    twice = [row for row in range(32) if batches.indices[row] == 23 + int(counts.argmax())]
    assert (batches.images[twice[0]] != batches.images[twice[1]]).any(), "drawn again, augmented anew"
    assert same(list(shared.epoch(4)), list(loader([(pack, 1.0), (pack68, 3.0)], batch_size=8, threads=3).epoch(4)))


@pytest.mark.parametrize("channels", ["bgr", "rgb"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_input_is_the_runtimes(pack: FacePack, channels: str, channels_last: bool) -> None:
    spec = replace(SPEC, channels=channels, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))  # type: ignore[arg-type]
    images = next(loader(pack).epoch(0)).images
    tensor = to_input(images, spec, channels_last=channels_last)
    np.testing.assert_array_equal(tensor.numpy(), network_input(images, spec))
    assert tensor.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    np.testing.assert_array_equal(next(loader(pack).epoch(0)).input(spec).numpy(), tensor.numpy())


def test_leaving_an_epoch_early_ends_its_threads(pack: FacePack) -> None:
    before = threading.active_count()
    batches = loader(pack, threads=3).epoch(0)
    next(batches)
    assert threading.active_count() > before
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_an_error_in_a_worker_reaches_the_reader(pack: FacePack, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = loader(pack, threads=2)

    def broken(_: int) -> None:
        raise ValueError("torn page")

    monkeypatch.setattr(busy, "_pixels", broken)
    with pytest.raises(ValueError, match="torn page"):
        list(busy.epoch(0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch size 0"),
        ({"batch_size": 24}, "do not fill one batch of 24"),
        ({"batch_size": 12, "world": 2}, "12 x 2 ranks"),
        ({"threads": -1}, "threads -1"),
        ({"rank": 2, "world": 2}, "rank 2 of 2"),
        ({"world": 2, "drop_last": False}, "drop_last"),
        ({"indices": []}, "at least one"),
        ({"indices": [23]}, r"0\.\.22"),
        ({"indices": [1, 1]}, "twice"),
    ],
)
def test_impossible_options(pack: FacePack, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        loader(pack, **options)


def test_impossible_sources(pack: FacePack, pack68: FacePack) -> None:
    with pytest.raises(UsageError, match="at least one pack"):
        loader([])
    with pytest.raises(UsageError, match="every pack or to none"):
        loader([pack, (pack68, 2.0)])
    for weight in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="positive"):
            loader([(pack, weight)])
    with pytest.raises(UsageError, match="none of its faces"):
        loader([(pack, 1.0), (pack68, 1.0)], indices=[0, 1, 2, 3])


def test_points_without_mirror_pairs_cannot_be_flipped(pack: FacePack) -> None:
    spec = ModelSpec("ghostone", points=5, layout="plain5", input_size=48)
    with pytest.raises(UsageError, match="mirror pairs"):
        BatchLoader(pack, spec, STRONG, 4)
    with pytest.raises(UsageError, match="no way from layout"):
        BatchLoader(pack, spec, AugmentConfig.none(), 4)


def test_start_batch_beyond_the_epoch(pack: FacePack) -> None:
    with pytest.raises(UsageError, match="5 batches"):
        loader(pack).epoch(0, start_batch=6)
