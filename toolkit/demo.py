"""The whole road on built-in synthetic faces, in minutes: what `toolkit demo` and `make demo` run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import CheckFailedError, ToolkitError, UsageError
from runtime.files import require_file, write_json
from runtime.images import write_image
from runtime.lazy import require
from toolkit.demo_c import build_and_run
from toolkit.demo_show import annotate, evaluate_bundle, explain_bundle, time_bundle
from train.data.open import open_source, splits_in

if TYPE_CHECKING:
    from train.loop import Outcome
    from train.recipe import Recipe
    from train.watch import Watch

TRAINING_FACES = "synth:2000"
TEST_FACES = "synth:200@1"
CALIBRATION_FACES = "synth:300@2"
MAX_DROP = 0.03
"""Of the NME: a narrow network after minutes of training at 64 pixels is the hardest case for int8."""
INPUT_SIZE = 64
"""Small, so that a few epochs fit into minutes."""
SHEET_FACES = 24
MODEL_FACES = 200
"""How many of the user's faces a model of somebody else's is measured on."""
MARK = "demo.json"
"""Written last; a folder that holds it was made by the demo and may be made anew."""


Say = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """One finished part of the road."""

    name: str
    result: str
    seconds: float
    files: tuple[Path, ...]


def demo_recipe(epochs: int) -> Recipe:
    """A narrow GhostOne that sees small pictures of synthetic faces."""
    from train.recipe import Recipe

    base = Recipe()
    return replace(
        base,
        model=replace(base.model, architecture="ghostone", width=0.25, input_size=INPUT_SIZE, branches=1),
        data=replace(base.data, train=(TRAINING_FACES,), test=(TEST_FACES,), batch_size=32),
        augment=replace(base.augment, preset="light", change=("rotation=8", "scale=0.97,1.03", "shift=0.015")),
        loss=replace(base.loss, name="nme"),
        optimizer=replace(base.optimizer, name="muon", lr=2e-2, momentum=0.95, weight_decay=0.06),
        schedule=replace(base.schedule, epochs=epochs),
        average=replace(base.average, decay=0.99),
    )


def claim(out: Path, force: bool) -> None:
    """Make the folder; an older demo is replaced only when asked, anything else never."""
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        if not (out / MARK).is_file():
            raise UsageError(f"{out} exists and was not made by the demo; name another folder with -o")
        if not force:
            raise UsageError(f"{out} holds an earlier demo; --force makes it anew, or name another folder with -o")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / MARK, {"finished": False})


def run_demo(out: Path, epochs: int, watch: Watch, force: bool = False) -> list[Stage]:
    """Run every stage in order; the first that fails stops the demo."""
    for name in ("torch", "cv2", "matplotlib", "onnx", "onnxruntime"):
        require(name, "the demo")
    claim(out, force)
    stages: list[Stage] = []

    def stage(name: str, work: Callable[[], tuple[str, tuple[Path, ...]]]) -> None:
        watch.note(f"== {name}")
        began = time.monotonic()
        result, files = work()
        stages.append(Stage(name, result, time.monotonic() - began, files))

    outcome: list[Outcome] = []
    stage("synthetic faces", lambda: draw_faces(out))
    stage("training", lambda: train_model(out, epochs, watch, outcome))
    stage("test faces", lambda: measured(outcome[0]))
    stage("fuse and prove", lambda: prove_fused(out, outcome[0]))
    stage("bundle", lambda: bundle(out, outcome[0], watch))
    stage("C", lambda: build_and_run(out / "bundle", out))
    for name, work in shown(out, TEST_FACES, watch.note).items():
        stage(name, work)
    write_json(out / MARK, {"finished": True, "stages": {s.name: s.result for s in stages}})
    return stages


def shown(
    out: Path, faces: str, say: Say, count: int | None = None
) -> dict[str, Callable[[], tuple[str, tuple[Path, ...]]]]:
    """What both demos end with: measured, timed, explained, drawn."""
    place = out / "bundle"
    return {
        "eval": lambda: evaluate_bundle(place, faces, out, count),
        "bench": lambda: time_bundle(place, out, say),
        "report": lambda: explain_bundle(place, out),
        "picture": lambda: annotate(place, faces, out),
    }


def run_model_demo(out: Path, model: Path, faces: str, say: Say, force: bool = False) -> list[Stage]:
    """The same road for a model of somebody else's: import, bundle with int8, proof, and what both demos end with."""
    for name in ("torch", "cv2", "matplotlib", "onnx", "onnxruntime"):
        require(name, "the demo")
    require_file(model)
    source = open_source(faces, split="test" if splits_in(faces) else None)
    if not len(source):
        raise UsageError(f"{faces}: no faces in it")
    claim(out, force)
    stages: list[Stage] = []
    steps = {"import": lambda: bring_in(out, model), "bundle": lambda: bundle_of(out, faces, say)}
    for name, work in {**steps, **shown(out, faces, say, MODEL_FACES)}.items():
        say(f"== {name}")
        began = time.monotonic()
        result, files = work()
        stages.append(Stage(name, result, time.monotonic() - began, files))
    write_json(out / MARK, {"finished": True, "stages": {s.name: s.result for s in stages}})
    return stages


def bring_in(out: Path, model: Path) -> tuple[str, tuple[Path, ...]]:
    """A checkpoint with a spec, proven against its source; one of ours is taken as it is."""
    from export.importer import SpecFlags, import_file, looks_like_archive

    target = out / "model.ckpt"
    if looks_like_archive(model) and is_checkpoint(model):
        shutil.copyfile(model, target)
        return "a checkpoint of the toolkit", (target,)
    import_file(model, target, SpecFlags())
    return "weights equal, outputs equal on faces", (target,)


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of ours."""
    from train.checkpoint import load_checkpoint

    try:
        load_checkpoint(path)
    except ToolkitError:
        return False
    return True


def bundle_of(out: Path, faces: str, say: Say) -> tuple[str, tuple[Path, ...]]:
    """Everything that needs no GPU, calibrated on the user's faces, and proven again from the files."""
    from export.chain import verify_bundle
    from export.links_c import CRequest
    from export.road import Options, export_bundle

    place = out / "bundle"
    options = Options(
        fp16=True,
        int8="fast",
        audit=faces,
        calib_count=256,
        max_drop=MAX_DROP,
        labelled=faces,
        c=CRequest(("fp32", "int8")),
    )
    export_bundle(out / "model.ckpt", place, options, say)
    report = verify_bundle(place, lambda _: None)
    if not report.passed:
        raise CheckFailedError(f"{place}: {report.failures[0].link}: {report.failures[0].detail}")
    return f"{len(report.results) - len(report.not_run)} checks of its links passed, from the files alone", (place,)


def draw_faces(out: Path) -> tuple[str, tuple[Path, ...]]:
    """A contact sheet of the faces that the model will see."""
    from train.data.contact import contact_sheet
    from train.data.open import open_source

    source = open_source(TRAINING_FACES)
    path = out / "faces.png"
    write_image(path, contact_sheet(source, count=SHEET_FACES))
    return f"{len(source)} faces with {source.layout.count} points", (path,)


def train_model(out: Path, epochs: int, watch: Watch, outcome: list[Outcome]) -> tuple[str, tuple[Path, ...]]:
    """A short training, its curves and its best, median and worst faces."""
    from train.loop import train

    done = train(demo_recipe(epochs), out / "run", watch=watch)
    if not done.measured:
        raise UsageError(f"the demo was stopped; to go on with its training: toolkit train --resume -o {out / 'run'}")
    outcome.append(done)
    pictures = tuple(done.folder.picture(name) for name in ("curves", "predictions"))
    return f"validation NME {100 * done.best_nme:.2f} % after epoch {done.best_epoch}", (done.folder.best, *pictures)


def measured(outcome: Outcome) -> tuple[str, tuple[Path, ...]]:
    """What the best weights score on faces that training never saw."""
    found = outcome.measured[TEST_FACES]
    scores = found.overall
    numbers = f"NME {100 * scores.nme:.2f} %, FR@0.1 {100 * scores.failure_rate:.2f} %, AUC@0.1 {scores.auc:.3f}"
    return f"{numbers} on {scores.count} faces", (outcome.folder.results, outcome.folder.picture("ced"))


def prove_fused(out: Path, outcome: Outcome) -> tuple[str, tuple[Path, ...]]:
    """Fuse the branches and prove, block by block, that nothing changed."""
    from export.fuse import fusable, fuse
    from export.probes import open_probes
    from export.verify_fuse import prove
    from export.verify_report import draw, to_data
    from train.checkpoint import load_model

    model, checkpoint = load_model(outcome.folder.best)
    faces = open_probes(None, None)
    inputs, _ = faces.crop(checkpoint.spec)
    proof = prove(model, fuse(model, checkpoint.spec), checkpoint.spec, inputs, name=faces.name)
    data, picture = out / "proof.json", out / "proof.png"
    write_json(data, to_data(proof))
    draw(proof, picture)
    if not proof.passed or proof.whole is None:
        raise CheckFailedError(f"the fused network differs: {proof.problems[0].where}; see {data}")
    blocks = len(fusable(model))
    return f"{blocks} blocks proven; whole net {proof.whole.exact:.0e} of the output scale in float64", (data, picture)


def bundle(out: Path, outcome: Outcome, watch: Watch) -> tuple[str, tuple[Path, ...]]:
    """ONNX, simplified, float16, int8 and C; every link measured and proven again from the files."""
    from export.chain import verify_bundle
    from export.links_c import CRequest
    from export.road import Options, export_bundle

    place = out / "bundle"
    options = Options(
        fp16=True,
        int8="fast",
        audit=CALIBRATION_FACES,
        calib_count=256,
        labelled=TEST_FACES,
        max_drop=MAX_DROP,
        c=CRequest(("fp32", "int8")),
    )
    export_bundle(outcome.folder.best, place, options, watch.note)
    report = verify_bundle(place, lambda _: None)
    if not report.passed:
        raise CheckFailedError(f"{place}: {report.failures[0].link}: {report.failures[0].detail}")
    made = len(report.results) - len(report.not_run)
    skipped = f", {len(report.not_run)} could not be run here" if report.not_run else ""
    return f"{made} checks of its links passed, from the files alone{skipped}", (place,)
