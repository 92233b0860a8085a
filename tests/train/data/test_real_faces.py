"""The readers on real data sets, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.spec import ModelSpec
from train.data.augment import AugmentConfig
from train.data.loader import BatchLoader
from train.data.open import open_source
from train.data.pack import PackSettings, build_pack
from train.data.pose import estimate_pose
from train.data.problems import problems_of
from train.data.sample import ATTRIBUTES

pytestmark = pytest.mark.data

SETS = [
    ("wflw_real", "test", 466, "wflw98"),
    ("h300w_68", "train", 1207, "ibug68"),
    ("h300w_68", "test", 268, "ibug68"),
    ("h300w_68/derived98", "train", 1206, "wflw98"),
    ("h300w_68/derived98", "test", 268, "wflw98"),
    ("ytf_68", "train", 2096, "ibug68"),
    ("ytf_68/derived98", "test", 660, "wflw98"),
    ("wider_teacher98", "train", 1967, "wflw98"),
    ("aflw2000_68", None, 169, "ibug68"),
]


@pytest.mark.parametrize(("name", "split", "count", "layout"), SETS)
def test_every_face_of_every_set_is_read(shared: Path, name: str, split: str | None, count: int, layout: str) -> None:
    source = open_source(shared / "data" / name, split=split)  # type: ignore[arg-type]
    assert (len(source), source.layout.name, len(problems_of(source))) == (count, layout, 0)
    assert source.photo(count - 1).ndim == 3


def test_the_flags_are_those_of_the_subset_lists(shared: Path) -> None:
    source = open_source(shared / "data" / "wflw_real", split="test")
    flags = np.array([source.sample(i).attributes for i in range(len(source))])
    assert dict(zip(ATTRIBUTES, flags.sum(0).tolist(), strict=True)) == {
        "pose": 80, "expression": 95, "illumination": 169, "make-up": 59, "occlusion": 158, "blur": 170,
    }  # fmt: skip
    subset = open_source(
        shared / "data" / "wflw_real" / "WFLW_annotations" / "list_98pt_test" / "list_98pt_test_largepose.txt"
    )
    posed = [source.sample(int(i)) for i in np.flatnonzero(flags[:, 0])]
    assert {s.image for s in posed} == {subset.sample(i).image for i in range(len(subset))}


def test_faces_of_the_pose_subset_look_to_the_side(shared: Path) -> None:
    source = open_source(shared / "data" / "wflw_real", split="test")
    samples = [source.sample(i) for i in range(len(source))]
    yaw = np.abs([(estimate_pose(s.points, source.layout) or (0.0,))[0] for s in samples])
    posed = np.array([bool(s.attributes and s.attributes[0]) for s in samples])
    assert np.degrees(np.median(yaw[posed])) > 35
    assert np.degrees(np.median(yaw[~posed])) < 20


def test_a_real_pack_feeds_the_loader(shared: Path, tmp_path: Path) -> None:
    source = open_source(shared / "data" / "aflw2000_68")
    pack = build_pack(source, tmp_path / "p", PackSettings(96))
    loader = BatchLoader(pack, ModelSpec("ghostone"), AugmentConfig(), 32, threads=2)
    batches = list(loader.epoch(0))
    assert len(batches) == 5
    assert all((batch.weights.sum(axis=1) == 68).all() for batch in batches)
    inside = np.concatenate([((b.targets > -0.2) & (b.targets < 1.2)).all(axis=2) for b in batches])
    assert inside.mean() > 0.98
