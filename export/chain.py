"""Re-proving a bundle from its files alone: hashes, parents, specs, and every number measured again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from torch import nn

from export.chain_engines import engine_steps
from export.chain_report import Report
from export.formats.chain import format_steps
from export.formats.links import Truth as FormatTruth
from export.fp16 import half_outputs
from export.links import (
    INTEGERS,
    MIN_PROBES,
    MOST_INT8_SHIFT,
    REPEAT_SHIFT_LIMIT,
    fuse_checks,
    half_checks,
    int8_checks,
    integers_check,
    onnx_checks,
    repeat_check,
    simplify_check,
    truth,
)
from export.links_c import PARENT as C_PARENT
from export.links_c import CRequest, Generated, Truth, artefact_name, folder_of, generate, int8_truth, measure
from export.onnx_export import export_graph
from export.onnx_file import opset_of, parse_onnx, spec_of, to_bytes
from export.shift import landmark_shift
from export.ulp import ulps_apart
from runtime.backends.ort import OrtModel
from runtime.bundle import MANIFEST, Artefact, Bundle, Check, read_arrays
from runtime.errors import InputError, ToolkitError
from runtime.geometry import network_input
from runtime.spec import ModelSpec
from train.checkpoint import Checkpoint, load_checkpoint, model_of

PARENTS = {"model": None, "fused": "model", "fp32": "fused", "fp16": "fp32", "int8": "fp32", "probe": None}
"""Which artefact each known one is made from; `fused` has no parent where a fused checkpoint was given."""
_TORCHSCRIPT_OPSETS = range(17, 21)


def verify_bundle(path: Path | str, say: Callable[[str], None] = lambda _: None) -> Report:
    """Prove a bundle link by link, up to the first that breaks; an unreadable manifest is an InputError."""
    bundle = Bundle.open(path)
    report = Report(bundle.manifest)
    say("hashes")
    data = _hashes(bundle, report)
    _strays(bundle, report)
    _parents(bundle, report)
    _recorded(bundle, report)
    if report.failures:
        return report
    proof = _Proof(bundle, data, report)
    for name, step in proof.steps().items():
        say(name)
        try:
            step()
        except ToolkitError as error:
            report.say(name, "readable", False, str(error))
        if report.failures:
            break
    return report


def _hashes(bundle: Bundle, report: Report) -> dict[str, bytes]:
    data: dict[str, bytes] = {}
    for artefact in bundle.manifest.artefacts:
        problem = ""
        try:
            data[artefact.name] = bundle.read(artefact.name)
        except ToolkitError as error:
            problem = str(error)
        report.say(artefact.name, "sha256", not problem, problem or artefact.sha256)
    return data


def _strays(bundle: Bundle, report: Report) -> None:
    strays = bundle.strays()
    if strays:
        report.say("bundle", "files", False, f"not in the manifest: {', '.join(strays[:4])}")


def _parents(bundle: Bundle, report: Report) -> None:
    manifest = bundle.manifest
    for needed in ("fused", "fp32", "probe"):
        if not manifest.has(needed):
            report.say("bundle", "parents", False, f"there is no {needed!r}; the chain cannot be proven without it")
    if manifest.source.kind == "multi-branch" and not manifest.has("model"):
        report.say("bundle", "parents", False, "made from a multi-branch checkpoint, which is missing ('model')")
    for lone in sorted({folder_of(a.name) or "" for a in manifest.artefacts} - {""}):
        if not manifest.has(lone):
            report.say("bundle", "parents", False, f"{lone}/ holds files but no source; nothing says how it was made")
    for artefact in manifest.artefacts:
        folder = folder_of(artefact.name)
        if artefact.name not in PARENTS and folder is None:
            continue
        wanted = C_PARENT[folder] if folder is not None else PARENTS[artefact.name]
        if wanted is not None and not manifest.has(wanted):
            wanted = None
        parent = manifest.parent_of(artefact)
        found = parent.name if parent else None
        report.say(
            artefact.name, "parent", found == wanted, f"made from {found or 'nothing'}, expected {wanted or 'nothing'}"
        )


def _recorded(bundle: Bundle, report: Report) -> None:
    """The numbers written at export are within the limits written beside them."""
    for artefact in bundle.manifest.artefacts:
        for check in artefact.checks:
            if not check.passed:
                report.say(
                    artefact.name, check.name, False, f"recorded as {check.value:g}, above its limit {check.limit:g}"
                )


class _Proof:
    """The steps that need the files' content; each later one builds on what the earlier ones loaded."""

    def __init__(self, bundle: Bundle, data: dict[str, bytes], report: Report) -> None:
        self.bundle, self.data, self.report = bundle, data, report
        self.spec: ModelSpec = bundle.spec
        self.faces: NDArray[np.float32] | None = None
        self.stored: dict[str, NDArray[Any]] = {}
        self.branched: nn.Module | None = None
        self.fused: nn.Module | None = None
        self.full: ModelProto | None = None
        self.quantised: ModelProto | None = None
        self.crops: NDArray[np.uint8] = np.empty(0, dtype=np.uint8)
        self.generated: dict[str, tuple[Generated, CRequest, Callable[[], Truth]]] = {}

    def steps(self) -> dict[str, Callable[[], None]]:
        """What can be proven of this bundle, in order."""
        known = {
            "probe": self.probe,
            "model": self.model,
            "fused": self.fuse,
            "fp32": self.fp32,
            "c": self.c_float,
            "fp16": self.fp16,
            "int8": self.int8,
            "c-int8": self.c_int8,
        }
        steps = {name: step for name, step in known.items() if name in self.data}
        for folder in C_PARENT:  # compiling takes longest, so it comes last
            if folder in steps:
                steps[f"{folder}, compiled"] = partial(self._compiled, folder)
        steps |= format_steps(self.bundle, self.data, self.report, self._faces, self._format_truth)
        return steps | engine_steps(self.bundle, self.report, self._faces)

    def probe(self) -> None:
        self.stored = read_arrays(self.data["probe"], "probe.npz")
        crops = self.stored.pop("crops", np.empty(0))
        self.faces = network_input(crops, self.spec) if len(crops) else None
        self.crops = crops
        wanted: set[str] = {name for name in ("fp32", "fp16", "int8") if name in self.data}
        wanted |= {INTEGERS} if "int8" in self.data else set()
        enough = len(crops) >= MIN_PROBES and set(self.stored) == wanted
        detail = f"{len(crops)} faces with outputs of {', '.join(sorted(self.stored)) or 'nothing'}"
        self.report.say("probe", "content", enough, detail)

    def model(self) -> None:
        checkpoint = self._checkpoint("model", "multi-branch")
        self.branched = model_of(checkpoint, "model.ckpt")
        source = self.bundle.manifest.source
        self.report.say("model", "origin", checkpoint.parent == source.sha256, "parent inside the file is the source")

    def fuse(self) -> None:
        checkpoint = self._checkpoint("fused", "fused")
        self.fused = model_of(checkpoint, "fused.ckpt")
        manifest = self.bundle.manifest
        if "model" not in self.data:
            same = manifest.artefact("fused").sha256 == manifest.source.sha256
            cleared = checkpoint.parent == manifest.source.sha256
            detail = "is the checkpoint that was given" + ("" if same else ", without its run's state")
            self.report.say("fused", "origin", (same or cleared) and manifest.source.kind == "fused", detail)
            return
        origin = checkpoint.parent == manifest.artefact("model").sha256
        self.report.say("fused", "origin", origin, "parent inside the file is model.ckpt")
        if self.branched is None:
            raise InputError("model.ckpt: could not be read, so fusing cannot be proven")
        self._take("fused", fuse_checks(self.branched, self.fused, self.spec, self._faces()))

    def fp32(self) -> None:
        graph, faces, model = self._graph("fp32"), self._faces(), self._fused()
        self.full = graph
        exact, limit = truth(model, faces)
        self._take("fp32", onnx_checks(model, graph, self.spec, faces, exact, limit))
        opset = opset_of(graph)
        exporter = "torchscript" if opset in _TORCHSCRIPT_OPSETS else "dynamo"
        raw = export_graph(model, self.spec, opset=opset, exporter=exporter)  # type: ignore[arg-type]
        found = OrtModel(self.data["fp32"])(faces)
        self.report.check("fp32", simplify_check(ulps_apart(found, OrtModel(to_bytes(raw))(faces)), limit))
        self.report.check("fp32", repeat_check("fp32", found, self._stored("fp32"), limit))

    def fp16(self) -> None:
        half, faces = self._graph("fp16"), self._faces()
        if self.full is None:
            raise InputError("model.fp16.onnx: its parent model.onnx could not be read")
        kept = self.bundle.manifest.artefact("fp16").settings.get("kept in float32")
        if not isinstance(kept, dict):
            raise InputError(f"{MANIFEST}: fp16 does not say which layers were kept in float32")
        self._take("fp16", half_checks(self.full, half, list(kept), self.spec, faces))
        shift = landmark_shift(half_outputs(half, faces), self._stored("fp16"), self.spec)
        metric = f"mean shift from the outputs stored with the probes, % of {shift.normaliser}"
        self.report.check("fp16", Check("repeat-fp16", metric, shift.mean_percent, REPEAT_SHIFT_LIMIT))

    def int8(self) -> None:
        quantised, faces = self._graph("int8"), self._faces()
        if self.full is None:
            raise InputError("model.int8.onnx: its parent model.onnx could not be read")
        self.quantised = quantised
        limit = self.bundle.manifest.artefact("int8").settings.get("shift limit on the probes, %")
        if not isinstance(limit, float) or not 0 < limit <= MOST_INT8_SHIFT:
            raise InputError(
                f"{MANIFEST}: int8 records the shift limit {limit!r}, expected at most {MOST_INT8_SHIFT:g} %"
            )
        checks, found = int8_checks(self.full, quantised, self.spec, faces, limit)
        self._take("int8", checks)
        self.report.check("int8", repeat_check("int8", found["int8"], self._stored("int8"), 0.0))
        self.report.check("int8", integers_check(found[INTEGERS], self._stored(INTEGERS)))

    def c_float(self) -> None:
        if self.full is None:
            raise InputError("c/: its parent model.onnx could not be read")
        engine = OrtModel(self.data["fp32"])(self._faces())
        self._same_files("c", self.full, lambda: Truth(*truth(self._fused(), self._faces()), engine))

    def c_int8(self) -> None:
        if self.quantised is None:
            raise InputError("c-int8/: its parent model.int8.onnx could not be read")
        parent, stored = self.quantised, self._stored("int8")
        self._same_files("c-int8", parent, lambda: int8_truth(parent, self.spec, stored))

    def _format_truth(self) -> FormatTruth:
        full = OrtModel(self.data["fp32"])(self._faces())
        if "int8" not in self.data:
            return FormatTruth(*truth(self._fused(), self._faces()), full)
        limit = float(self.bundle.manifest.artefact("int8").settings["shift limit on the probes, %"])
        return FormatTruth(*truth(self._fused(), self._faces()), full, self._stored("int8"), limit)

    def _same_files(self, folder: str, parent: ModelProto, outputs: Callable[[], Truth]) -> None:
        """Generate again from the parent: every file must be there, and be the same to the byte."""
        settings = self.bundle.manifest.artefact(folder).settings
        request = CRequest.of_settings(settings, f"{MANIFEST}: {folder}")
        made = generate(parent, self.spec, "int8" if folder == "c-int8" else "fp32", request)
        wanted = {artefact_name(folder, file): (f"{folder}/{file}", data) for file, data in made.files.items()}
        found = {
            a.name: (a.file, self.data[a.name]) for a in self.bundle.manifest.artefacts if folder_of(a.name) == folder
        }
        wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        detail = f"{len(wanted)} files generated again from {C_PARENT[folder]}, to the byte"
        if wrong:
            detail = f"not what {C_PARENT[folder]} gives: {', '.join(wrong[:4])}"
        self.report.say(folder, "files", not wrong, detail)
        facts = made.settings()
        lies = [name for name, value in facts.items() if settings.get(name) != value]
        self.report.say(folder, "settings", not lies, ", ".join(lies) or f"arena {facts['arena bytes']} bytes")
        self.generated[folder] = (made, request, outputs)

    def _compiled(self, folder: str) -> None:
        """Reached only when the files are what their parent gives: nothing else is ever run."""
        made, request, outputs = self.generated[folder]
        measured = measure(made, self.spec, request, self.crops, outputs())
        if why := measured.settings.get("not run"):
            self.report.skip(folder, "outputs", str(why))
        recorded = self.bundle.manifest.artefact(folder).settings.get("compiler") is not None
        for check in measured.checks:
            self.report.check(folder, check, recorded_at_export=recorded)

    def _take(self, link: str, checks: Iterable[Check]) -> None:
        for check in checks:
            self.report.check(link, check)

    def _checkpoint(self, name: str, kind: str) -> Checkpoint:
        artefact = self.bundle.manifest.artefact(name)
        checkpoint = load_checkpoint(self.bundle.directory / artefact.file)
        if checkpoint.kind != kind:
            raise InputError(f"{artefact.file}: a {checkpoint.kind} checkpoint, expected {kind}")
        self._same_spec(name, checkpoint.spec)
        return checkpoint

    def _graph(self, name: str) -> ModelProto:
        artefact: Artefact = self.bundle.manifest.artefact(name)
        graph = parse_onnx(self.data[name], artefact.file)
        self._same_spec(name, spec_of(graph, artefact.file))
        return graph

    def _same_spec(self, name: str, spec: ModelSpec | None) -> None:
        same = spec == self.spec
        detail = "the manifest's" if same else "another one than the manifest's" if spec else "none inside"
        self.report.say(name, "spec", same, detail)

    def _faces(self) -> NDArray[np.float32]:
        if self.faces is None:
            raise InputError("probe.npz: holds no faces to measure on")
        return self.faces

    def _fused(self) -> nn.Module:
        if self.fused is None:
            raise InputError("fused.ckpt: could not be read, so nothing can be measured against it")
        return self.fused

    def _stored(self, name: str) -> NDArray[Any]:
        if name not in self.stored:
            raise InputError(f"probe.npz: holds no stored outputs of {name!r}")
        return self.stored[name]
