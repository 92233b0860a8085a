"""Synthetic faces as a data set on disk, in the form WFLW's own lists have."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from runtime.errors import UsageError
from runtime.files import DiskError, write_text
from runtime.images import write_image
from train.data.sample import ATTRIBUTES, FaceSample
from train.data.synth.source import SynthSource

SUBSETS = tuple("largepose" if name == "pose" else name.replace("-", "") for name in ATTRIBUTES)
"""Names of the six test subset lists."""
_PER_FOLDER = 1000
LISTS = Path("WFLW_annotations") / "list_98pt_rect_attr_train_test"
SUBSET_LISTS = Path("WFLW_annotations") / "list_98pt_test"


def write_synth(
    directory: Path | str,
    count: int,
    seed: int = 0,
    size: int = 160,
    test_fraction: float = 0.1,
    progress: Callable[[], object] | None = None,
) -> Path:
    """Render `count` faces into `directory` as PNG photos with lists in WFLW's form.

    The last `test_fraction` of them is the test list. Everything is written beside the directory first and takes its
    name only when whole. `progress` is called once per face. Returns the directory.
    """
    target = Path(directory)
    source = SynthSource(count, seed, size)
    if not 0.0 <= test_fraction <= 1.0:
        raise UsageError(f"test_fraction must lie in 0..1, found {test_fraction}")
    _require_free(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
    except OSError as error:
        raise DiskError(f"{target}: cannot write: {error.strerror or error}") from error
    try:
        _write(building, source, round(count * test_fraction), progress)
        building.chmod(0o755)
        if target.exists():
            target.rmdir()
        building.replace(target)
    except OSError as error:
        raise DiskError(f"{target}: cannot write: {error.strerror or error}; nothing half-written was left") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _require_free(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target}: is a file; name a directory that does not exist yet")
    if target.is_dir() and any(target.iterdir()):
        raise UsageError(f"{target}: exists and is not empty; remove it or name another directory")


def _write(root: Path, source: SynthSource, tests: int, progress: Callable[[], object] | None) -> None:
    lines: list[str] = []
    subsets: dict[str, list[str]] = {name: [] for name in SUBSETS}
    angles = ["path,yaw,pitch,roll"]
    first_test = len(source) - tests
    for index in range(len(source)):
        sample = source.sample(index)
        path = f"{index // _PER_FOLDER:03d}/{sample.image.name}"
        write_image(root / "WFLW_images" / path, source.photo(index))
        lines.append(list_line(sample, path))
        assert sample.angles is not None and sample.attributes is not None  # noqa: S101 - a SynthSource sets both
        angles.append(",".join([path, *(f"{a:.6f}" for a in sample.angles)]))
        if index >= first_test:
            for name, flagged in zip(SUBSETS, sample.attributes, strict=True):
                if flagged:
                    subsets[name].append(" ".join([*_numbers(sample), path]))
        if progress is not None:
            progress()
    _write_list(root / LISTS / "list_98pt_rect_attr_train.txt", lines[:first_test])
    _write_list(root / LISTS / "list_98pt_rect_attr_test.txt", lines[first_test:])
    for name, chosen in subsets.items():
        _write_list(root / SUBSET_LISTS / f"list_98pt_test_{name}.txt", chosen)
    _write_list(root / "angles.csv", angles)


def _write_list(path: Path, lines: list[str]) -> None:
    write_text(path, "".join(line + "\n" for line in lines))


def _numbers(sample: FaceSample) -> list[str]:
    return [f"{float(value):.6f}" for value in sample.points.ravel()]


def list_line(sample: FaceSample, path: str) -> str:
    """The 207 columns of a face: 196 coordinates, box, six flags, photo."""
    box = sample.box or (0.0, 0.0, 0.0, 0.0)
    flags = sample.attributes or (False,) * len(ATTRIBUTES)
    return " ".join([*_numbers(sample), *(str(round(edge)) for edge in box), *(str(int(flag)) for flag in flags), path])
