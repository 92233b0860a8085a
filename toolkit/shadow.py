"""Our packages have plain names; a user's own train.py or export.py in the working folder must not replace them.

This module imports none of ours, so that it can speak before the wrong file is used.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

OUR_PACKAGES = ("toolkit", "train", "export", "runtime", "calib")


def shadowing_message() -> str | None:
    """A sentence that names the user's file standing in front of one of our packages; None when all is well."""
    home = Path(__file__).resolve().parents[1]
    for name in OUR_PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin != home / name / "__init__.py":
            found = origin or f"a folder or missing package named {name}"
            return (
                f"{found} stands in front of the toolkit's own package {name!r}; rename it or run from another folder"
            )
    return None
