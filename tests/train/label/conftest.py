from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runtime.spec import ModelSpec

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def spec() -> ModelSpec:
    return ModelSpec("ghostone", input_size=64)
