"""One conversion, repeatable to the byte: a child converts, and what its converter leaves to chance is taken out."""

from __future__ import annotations

import re
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import numpy_helper

from export.formats.child import ALONE, ChildError, child_environment, run_script
from export.formats.homes import Environment, environments
from export.onnx_file import parse_onnx, to_bytes
from export.tidy import refuse_host_traces
from runtime.backends.formats import FORMATS, STEM, Format, Precision
from runtime.errors import CheckFailedError, InputError, MissingBackendError
from runtime.files import sha256_bytes


@dataclass(frozen=True)
class Converter:
    """What turns an artefact of ours into a format."""

    parent: dict[str, str]
    """Precision -> the artefact that it starts from."""
    distributions: tuple[str, ...]
    """All of them are needed; the first one gives the converter its name and version."""
    seconds: float = 300.0
    recipe: int = 1
    """Counts the ways in which we asked it; another one may give other bytes of equal worth."""


CONVERTERS: dict[str, Converter] = {
    "mnn": Converter({"fp32": "fp32", "fp16": "fp32"}, ("mnn",), recipe=2),
    "ncnn": Converter({"fp32": "fp32", "fp16": "fp32"}, ("pnnx",)),
    "tflite": Converter(
        {"fp32": "fused", "fp16": "fused"}, ("litert-torch", "ai-edge-quantizer", "ai-edge-litert"), 900.0
    ),
    "openvino": Converter({"fp32": "fp32", "fp16": "fp32", "int8": "int8"}, ("openvino",)),
}
_UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Home:
    """Where the converter and the engine of a format are."""

    convert: Environment | None
    run: Environment | None

    def converter(self, form: Format) -> str | None:
        """Name and version, as the manifest keeps it."""
        if self.convert is None:
            return None
        how = CONVERTERS[form.name]
        return ", ".join(f"{n} {self.convert.packages[n]}" for n in how.distributions) + f", recipe {how.recipe}"

    def engine(self, form: Format) -> str | None:
        """Name and version of what runs the file."""
        if self.run is None:
            return None
        return next(f"{n} {self.run.packages[n]}" for n in form.distributions if n in self.run.packages)


def find_homes(names: Sequence[str]) -> dict[str, Home]:
    """For each format, the first environment with its converter and the first with its engine."""
    places = environments() if names else []
    return {
        name: Home(
            next((p for p in places if p.has(CONVERTERS[name].distributions, every=True)), None),
            next((p for p in places if p.has(FORMATS[name].distributions) and p.has(("numpy",))), None),
        )
        for name in names
    }


def missing(form: Format, home: Home) -> str | None:
    """One line about what is not here, or None."""
    wanted = []
    if home.convert is None:
        wanted.append(f"its converter ({' and '.join(CONVERTERS[form.name].distributions)})")
    if home.run is None:
        wanted.append(f"its engine ({form.distributions[0]})")
    return f"{' and '.join(wanted)} not installed; {form.install}, or make bench-env" if wanted else None


def require_homes(names: Sequence[str]) -> dict[str, Home]:
    """The homes of all formats, or the error that says what to install."""
    homes = find_homes(names)
    for name, home in homes.items():
        if why := missing(FORMATS[name], home):
            raise MissingBackendError(f"--{name}: {why}")
    return homes


def convert(form: Format, home: Home, precision: Precision, model: bytes, size: int) -> dict[str, bytes]:
    """The files of one precision by their suffix, from the bytes of their parent."""
    if home.convert is None:
        raise MissingBackendError(f"{form.title}: {missing(form, home)}")
    given = ".ckpt" if CONVERTERS[form.name].parent[precision] == "fused" else ".onnx"
    with tempfile.TemporaryDirectory(prefix="toolkit-") as folder:
        source, out = Path(folder) / f"model{given}", Path(folder) / f"{STEM}{form.suffix}"
        source.write_bytes(_rounded(model) if (form.name, precision) == ("mnn", "fp16") else model)
        arguments = [form.name, str(source), str(out), precision, str(size)]
        limit = CONVERTERS[form.name].seconds
        try:
            run_script(home.convert.python, ALONE / "convert.py", arguments, limit, child_environment(1))
        except ChildError as error:
            raise CheckFailedError(
                f"{form.title} {precision}: its converter fails: {error}; nothing was written"
            ) from error
        files = {}
        for suffix in filter(None, (form.suffix, form.weights)):
            written = out.with_suffix(suffix)
            if not written.is_file() or not written.stat().st_size:
                raise CheckFailedError(f"{form.title} {precision}: its converter wrote no {suffix} file")
            files[suffix] = written.read_bytes()
    repeatable = _REPEATABLE.get(form.name)
    if repeatable is not None:
        files[form.suffix] = repeatable(files[form.suffix], sha256_bytes(model))
    for suffix, data in files.items():
        if suffix != ".bin":  # weights alone: any pattern in them is chance
            refuse_host_traces(data, f"{form.name}/{STEM}{suffix}")
    return files


def _rounded(model: bytes) -> bytes:
    """The float32 ONNX with every constant on a float16 value: MNN cuts digits off, and now there are none to cut."""
    graph = parse_onnx(model, "model.onnx")
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            with np.errstate(over="ignore"):
                half = values.astype(np.float16).astype(np.float32)
            near = np.where(np.isfinite(half), half, values)
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(near, dtype=np.float32), tensor.name))
    return to_bytes(graph)


def _own_uuid(data: bytes, origin: str) -> bytes:
    """MNN gives every file a random identity; ours follows from what the file was made of."""
    found = _UUID.findall(data)
    if len(found) != 1:
        raise InputError(f"MNN file: expected one identity in it, found {len(found)}")
    blank = data.replace(found[0], b"0" * len(found[0]))
    name = uuid.uuid5(uuid.NAMESPACE_OID, f"{origin} {sha256_bytes(blank)}")
    return data.replace(found[0], str(name).encode("ascii"))


_REPEATABLE: dict[str, Callable[[bytes, str], bytes]] = {"mnn": _own_uuid}
