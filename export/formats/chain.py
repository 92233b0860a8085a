"""Converted files in a bundle's proof: converted again where the converter is, run again where the engine is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from export.chain_report import Report
from export.formats.convert import CONVERTERS, Home, convert, find_homes, missing
from export.formats.links import Truth, card, card_name, checks, format_of, names_of, run_file
from runtime.backends.formats import FORMATS, Format, Precision
from runtime.bundle import MANIFEST, Bundle
from runtime.errors import InputError

Faces = Callable[[], NDArray[np.float32]]
_FACTS = ("precision", "converter", "engine", "input", "output", "layout")


def format_steps(
    bundle: Bundle, data: Mapping[str, bytes], report: Report, faces: Faces, truth: Callable[[], Truth]
) -> dict[str, Callable[[], None]]:
    """One step for each format in the bundle."""
    present = {form.name for artefact in bundle.manifest.artefacts if (form := _of(artefact.name, artefact.file))}
    homes = find_homes(sorted(present))
    proof = _Proof(bundle, data, report, faces, truth)
    return {name: partial(proof.prove, FORMATS[name], homes[name]) for name in sorted(present)}


def _of(name: str, file: str) -> Format | None:
    return format_of(name) or FORMATS.get(file.split("/")[0])


class _Proof:
    """What the steps share."""

    def __init__(
        self, bundle: Bundle, data: Mapping[str, bytes], report: Report, faces: Faces, truth: Callable[[], Truth]
    ) -> None:
        self.bundle, self.data, self.report, self.faces, self._truth = bundle, data, report, faces, truth
        self._made: Truth | None = None

    def truth(self) -> Truth:
        """Computed for the first format that asks."""
        self._made = self._made or self._truth()
        return self._made

    def prove(self, form: Format, home: Home) -> None:
        """Files and card first, then each precision."""
        self._files(form)
        if self.report.failures:
            return
        for precision in form.precisions:
            if self.bundle.manifest.has(form.artefact(precision)):
                self._precision(form, precision, home)
            if self.report.failures:
                return

    def _files(self, form: Format) -> None:
        """Nothing lies in the folder but what belongs there, made from what it should be, described as it is."""
        artefacts = {a.name: a for a in self.bundle.manifest.artefacts}
        mine = {n: a for n, a in artefacts.items() if _of(n, a.file) is form}
        wanted = names_of(form, artefacts)
        wrong = sorted(
            n for n in wanted.keys() | mine.keys() if n not in mine or wanted.get(n) != (mine[n].file, mine[n].kind)
        )
        self.report.say(
            form.name,
            "files",
            not wrong,
            f"not as expected: {', '.join(wrong[:4])}" if wrong else f"{len(wanted)} files",
        )
        if wrong:
            return
        for name, artefact in mine.items():
            precision = next((p for p in form.precisions if name.split(".")[0] == form.artefact(p)), "fp32")
            expected, parent = CONVERTERS[form.name].parent[precision], self.bundle.manifest.parent_of(artefact)
            found = parent.name if parent else "nothing"
            self.report.say(name, "parent", found == expected, f"made from {found}, expected {expected}")
            if artefact.kind == "converted":
                lost = [key for key in _FACTS if not isinstance(artefact.settings.get(key), str)]
                if (
                    lost
                    or artefact.settings["precision"] != precision
                    or artefact.settings["layout"] not in ("NCHW", "NHWC")
                ):
                    raise InputError(
                        f"{MANIFEST}: {name} does not record what it is ({', '.join(lost) or 'precision'})"
                    )
        same = self.data[card_name(form)] == card(form, artefacts, self.bundle.spec)
        detail = "spec, input order and hashes are the manifest's" if same else "says something else than the manifest"
        self.report.say(card_name(form), "card", same, detail)

    def _precision(self, form: Format, precision: Precision, home: Home) -> None:
        name = form.artefact(precision)
        files = {form.suffix: self.data[name]}
        if form.weights:
            files[form.weights] = self.data[f"{name}{form.weights}"]
        self._converted(form, precision, home, files)
        if self.report.failures:  # what is not its parent's is not run
            return
        if home.run is None:
            self.report.skip(name, "outputs", str(missing(form, home)))
            return
        found = run_file(form, home, files, self.faces())
        recorded = self.bundle.manifest.artefact(name).settings
        lies = [key for key, value in found.facts.items() if recorded.get(key) != value]
        self.report.say(name, "interface", not lies, f"not as recorded: {', '.join(lies)}" if lies else "as recorded")
        for check in checks(precision, found.output, self.truth(), self.bundle.spec):
            self.report.check(name, check)

    def _converted(self, form: Format, precision: Precision, home: Home, files: Mapping[str, bytes]) -> None:
        """Converted again from its parent, by the same version: every byte must be there."""
        name, parent = form.artefact(precision), CONVERTERS[form.name].parent[precision]
        made_by, here = self.bundle.manifest.artefact(name).settings["converter"], home.converter(form)
        if here is None:
            self.report.skip(name, "converted", f"its converter is not here ({made_by}); {form.install}")
            return
        if here != made_by:
            self.report.skip(name, "converted", f"made by {made_by}, here is {here}")
            return
        again = convert(form, home, precision, self.data[parent], self.bundle.spec.input_size)
        wrong = sorted(suffix for suffix in files if files[suffix] != again[suffix])
        detail = f"not what {here} gives: {', '.join(wrong)}" if wrong else f"converted again by {here}, to the byte"
        self.report.say(name, "converted", not wrong, detail)
