"""The published models under each protocol, as Markdown: python -m tests.bench.protocols --data ../shared"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from toolkit.evaluate import score_artefacts
from toolkit.protocols import protocol_named
from train.data.open import open_source

MODELS = {
    "PFLD-GhostOne": "PFLD_GhostOne_112_1_opt_sim.onnx",
    "PFLD-GhostNet": "PFLD_GhostNet_112_1_opt_sim.onnx",
    "PFLD-GhostNet-Slim": "PFLD_GhostNet_Slim_112_1_opt_sim.onnx",
}
SETS = (
    ("wflw", "wflw_real", "466 faces of WFLW's test list"),
    ("300w", "h300w_68", "268 faces of HELEN's test list"),
    ("300w", "ytf_68", "669 frames of YouTube Faces"),
    ("aflw2000", "aflw2000_68", "169 faces of AFLW2000-3D"),
)


def rows(shared: Path) -> list[str]:
    lines = [
        "| protocol | faces | model | NME % | FR@0.1 % | AUC@0.1 | NME % over inter-pupil |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, folder, what in SETS:
        protocol = protocol_named(name)
        source = open_source(shared / "data" / folder, split="test")
        paths = [shared / "models" / "landmarks" / file for file in MODELS.values()]
        board = score_artefacts(paths, source, protocol=protocol)
        for label, row in zip(MODELS, board.rows, strict=True):
            found = row.evaluation.overall
            pupils = row.also.get("inter-pupil")
            cells = (
                f"{100 * found.nme:.3f}",
                f"{100 * found.failure_rate:.2f}",
                f"{found.auc:.4f}",
                f"{100 * pupils.nme:.3f}" if pupils else "",
            )
            lines.append(f"| {name} | {what} | {label} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LANDMARK_DATA", "../shared")))
    print("\n".join(rows(parser.parse_args().data)))
