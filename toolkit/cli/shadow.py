"""Our packages have plain names; a user's own train.py or export.py in the working folder must not replace them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from runtime.errors import UsageError

OUR_PACKAGES = ("toolkit", "train", "export", "runtime", "calib")


def refuse_shadowed_packages() -> None:
    """Say which file of the user's stands in front of one of our packages."""
    home = Path(__file__).resolve().parents[2]
    for name in OUR_PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is None or origin != home / name / "__init__.py":
            found = origin or f"nothing importable ({name})"
            raise UsageError(
                f"{found} stands in front of the toolkit's own package {name!r}; rename it or run from another folder"
            )
