"""Shared by the tests of the facade."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole small bundle; tests copy it before they change anything."""
    from small import small_bundle

    return small_bundle(tmp_path_factory.mktemp("small") / "small")
