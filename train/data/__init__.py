"""Faces with landmarks: readers, synthetic faces, augmentation, packs and the loader."""

from train.data.augment import AugmentConfig
from train.data.open import open_source
from train.data.pack import FacePack, PackSettings, build_pack, cached_pack
from train.data.problems import Problems
from train.data.readers import ListSource
from train.data.sample import ATTRIBUTES, FaceSample, FaceSource
from train.data.split import split_by_group

__all__ = [
    "ATTRIBUTES",
    "AugmentConfig",
    "FacePack",
    "FaceSample",
    "FaceSource",
    "ListSource",
    "PackSettings",
    "Problems",
    "build_pack",
    "cached_pack",
    "open_source",
    "split_by_group",
]
