"""The notebook for beginners runs from top to bottom on tiny settings, without Jupyter; it is kept without output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "landmarks.ipynb"
TINY = {
    "DATA": "synth:40",
    "TEST": "synth:12@1",
    "WIDTH": 0.1,
    "INPUT_SIZE": 32,
    "EPOCHS": 3,
    "BATCH": 8,
    "EXPORTER": "torchscript",
    "HALF": False,  # a network that learned nothing moves by more in float16 than a bundle may
}


def cells() -> list[dict[str, Any]]:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    found: list[dict[str, Any]] = content["cells"]
    return found


def test_it_is_committed_without_output_and_without_magics() -> None:
    ids = [cell["id"] for cell in cells()]
    assert len(set(ids)) == len(ids)
    for cell in cells():
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == [] and cell["execution_count"] is None, cell["id"]
        assert not any(line.lstrip().startswith(("!", "%")) for line in cell["source"]), cell["id"]


def test_settings_are_those_that_the_test_makes_small() -> None:
    settings = next(cell for cell in cells() if "settings" in cell["metadata"].get("tags", []))
    names: dict[str, Any] = {}
    exec("".join(settings["source"]), names)  # noqa: S102 - our own file
    assert set(TINY) < set(names) and names["DATA"].startswith("synth:")


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    pytest.importorskip("onnxruntime")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    monkeypatch.chdir(tmp_path)
    shown = []
    monkeypatch.setattr(pyplot, "show", lambda: (shown.append(1), pyplot.close("all")))
    names: dict[str, Any] = {"__name__": "notebook"}
    for cell in cells():
        if cell["cell_type"] != "code":
            continue
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)  # noqa: S102 - our own file
        if "settings" in cell["metadata"].get("tags", []):
            names.update(TINY)
    assert len(shown) == 5 + TINY["EPOCHS"]  # type: ignore[operator]
    printed = capsys.readouterr().out
    for said in ("best: NME", "AUC@0.1", "model.onnx", "in training", "fused"):
        assert said in printed, said
    assert (tmp_path / "landmarks-notebook" / "bundle" / "c" / "landmarks.c").is_file()
    found = names["found"]
    assert found.overall.count == 12
    rows = [row.evaluation.overall.nme for row in names["board"].rows]
    assert rows[0] == pytest.approx(found.overall.nme, rel=1e-3)
