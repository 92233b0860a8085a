"""Shared by all tests: where the real faces are, and what a machine without a GPU skips."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.errors import MissingBackendError
from runtime.gpu import probe_gpu

ROOT = Path(__file__).resolve().parents[1]


def _real_data() -> Path | None:
    place = Path(os.environ.get("LANDMARK_DATA", ROOT.parent / "shared"))
    return place.resolve() if (place / "data" / "wflw_real").is_dir() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder that holds data/ and models/ with real faces; where it is absent, the test skips and says so."""
    place = _real_data()
    if place is None:
        pytest.skip("no real faces here: set LANDMARK_DATA to the folder that holds data/ and models/")
    return place


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests never read or fill the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    try:
        probe_gpu()
    except MissingBackendError as error:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=str(error)))
