"""docs/runtime.md is true: its example runs as it stands, its tables name what there is."""

from __future__ import annotations

import re
import shutil
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime import Face
from runtime.backends.choose import AUTO_ORDER, BACKENDS
from runtime.detect.choose import WITH_FILE, WITHOUT_FILE

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "runtime.md").read_text(encoding="utf-8")


def test_the_example_runs(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example, video = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    lines = [line for line in example.splitlines() if line.strip()]
    assert len(lines) == 10
    shutil.copytree(small_bundle, tmp_path / "bundle")
    photo = np.random.default_rng(0).integers(0, 256, (220, 240, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "photo.jpg"), photo)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"frame": photo, "seconds": 0.0}
    exec(compile(example, "runtime.md", "exec"), names)  # noqa: S102 - our own page
    exec(compile(video, "runtime.md", "exec"), names)  # noqa: S102
    assert "(98, 2)" in capsys.readouterr().out and (tmp_path / "annotated.png").is_file()
    assert len(names["own"]) == 1  # type: ignore[arg-type]


def test_the_tables_are_complete() -> None:
    for name in ("auto", *BACKENDS):
        assert f"`{name}`" in PAGE, name
    for name in (*WITHOUT_FILE, *(f"{kind}:FILE" for kind in WITH_FILE)):
        assert f"| `{name}` |" in PAGE, name
    for field in fields(Face):
        assert f"`{field.name}`" in PAGE or field.name == "layout_name", field.name
    assert ", ".join(AUTO_ORDER) in PAGE
    picture = Path(__file__).resolve().parents[2] / "docs" / "images" / "run.png"
    assert picture.stat().st_size < 300_000
