"""The generated C in a shared library: needs numpy alone, and crops in C too."""

from __future__ import annotations

import ctypes
import os
import re
import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from runtime.backends.c_build import forget, library_for, refuse_foreign
from runtime.bundle import MANIFEST, Bundle, read_arrays
from runtime.errors import CheckFailedError, InputError, MissingBackendError, UsageError
from runtime.geometry import Box
from runtime.spec import MAX_INPUT, MAX_POINTS, ModelSpec

Precision = Literal["fp32", "int8"]
FOLDERS: dict[Precision, str] = {"fp32": "c", "int8": "c-int8"}
"""Where each precision lies in a bundle; also the name of its source among the artefacts."""
ABI = 1
LIBRARY_SUFFIX = ".so"
MAX_LIBRARY_SHIFT = 0.01
"""Pixels of the crop by which a library that was compiled elsewhere may differ on the bundle's own faces."""
_PROOF_FACES = 2
_CONTEXT_BYTES = 512
_GREY, _BGR, _RGB = 2, 0, 1


class _Image(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("stride", ctypes.c_size_t),
        ("format", ctypes.c_int),
        ("chroma", ctypes.c_void_p),
        ("chroma_stride", ctypes.c_size_t),
    )


class _Box(ctypes.Structure):
    _fields_ = (("x0", ctypes.c_float), ("y0", ctypes.c_float), ("x1", ctypes.c_float), ("y1", ctypes.c_float))


class CLibrary:
    """A compiled `landmarks.c` behind ctypes; each thread gets its own context and working memory."""

    def __init__(self, path: Path, spec: ModelSpec, prefix: str = "lm") -> None:
        self.path, self.spec, self._prefix = path, spec, prefix
        try:
            self._library = ctypes.CDLL(str(path))
            self._run = self._function("run", ctypes.c_int)
            self._run_image = self._function("run_image", ctypes.c_int)
            self._crop_image = self._function("crop_image", ctypes.c_int)
            self._status_text = self._function("status_text", ctypes.c_char_p)
            self.isa: str = self._function("isa", ctypes.c_char_p)().decode("ascii")
            self.arena_bytes: int = self._function("arena_bytes", ctypes.c_size_t)()
        except (OSError, AttributeError) as error:
            raise InputError(f"{path}: not a library of generated landmarks C: {error}") from error
        self._own = threading.local()

    def _function(self, name: str, result: Any) -> Any:
        function = getattr(self._library, f"{self._prefix}_{name}")
        function.restype = result
        return function

    def _context(self) -> ctypes.Array[ctypes.c_char]:
        """This thread's context."""
        if not hasattr(self._own, "context"):
            made = ctypes.create_string_buffer(_CONTEXT_BYTES)
            memory = ctypes.create_string_buffer(self.arena_bytes + 64)
            start = self._function("align", ctypes.c_void_p)(memory)
            self._require(
                self._function("init", ctypes.c_int)(made, ctypes.c_void_p(start), ctypes.c_size_t(self.arena_bytes))
            )
            self._own.context, self._own.memory = made, memory
        context: ctypes.Array[ctypes.c_char] = self._own.context
        return context

    def _require(self, status: int) -> None:
        if status:
            raise InputError(f"{self.path.name}: {self._status_text(status).decode('ascii')}")

    def run(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """BGR crops (N, S, S, 3) -> (N, points, 2) in [0, 1] of the crop, one face after the other."""
        size = self.spec.input_size
        if crops.ndim != 4 or crops.shape[1:] != (size, size, 3) or crops.dtype != np.uint8:
            raise UsageError(f"crops: expected (N, {size}, {size}, 3) uint8, found {crops.shape} {crops.dtype}")
        ordered = np.ascontiguousarray(crops if self.spec.channels == "bgr" else crops[..., ::-1])
        points = np.empty((len(ordered), self.spec.points, 2), dtype=np.float32)
        context = self._context()
        for face, found in zip(ordered, points, strict=True):
            self._require(self._run(context, ctypes.c_void_p(face.ctypes.data), ctypes.c_void_p(found.ctypes.data)))
        return points

    def fits(self, crop: NDArray[np.uint8]) -> bool:
        """Whether an unknown library writes just the spec's points; it may be of any model, so it gets room enough."""
        face = np.zeros(3 * MAX_INPUT**2, dtype=np.uint8)
        face[: crop.size] = crop.reshape(-1)
        points = np.full(2 * MAX_POINTS, np.nan, dtype=np.float32)
        status = self._run(self._context(), ctypes.c_void_p(face.ctypes.data), ctypes.c_void_p(points.ctypes.data))
        mine = 2 * self.spec.points
        return status == 0 and bool(np.isfinite(points[:mine]).all()) and bool(np.isnan(points[mine:]).all())

    def run_image(self, image: NDArray[np.uint8], box: Box, *, rgb: bool = False) -> NDArray[np.float32]:
        """Crop by the model's rule, run, map back: (points, 2) in pixels of the image."""
        points = np.empty((self.spec.points, 2), dtype=np.float32)
        whole, held = _image(image, rgb)
        status = self._run_image(
            self._context(), ctypes.byref(whole), ctypes.byref(_box(box)), ctypes.c_void_p(points.ctypes.data)
        )
        del held
        self._require(status)
        return points

    def crop(self, image: NDArray[np.uint8], box: Box, *, rgb: bool = False) -> NDArray[np.uint8]:
        """The crop (S, S, 3) BGR that `run_image` makes."""
        size = self.spec.input_size
        face = np.empty((size, size, 3), dtype=np.uint8)
        whole, held = _image(image, rgb)
        status = self._crop_image(ctypes.byref(whole), ctypes.byref(_box(box)), ctypes.c_void_p(face.ctypes.data))
        del held
        self._require(status)
        return face if self.spec.channels == "bgr" else np.ascontiguousarray(face[..., ::-1])

    def selftest(self) -> str | None:
        """None when this build computes what the exporter did, else the first layer that differs."""
        layer = ctypes.c_int(-1)
        status = self._function("selftest", ctypes.c_int)(self._context(), ctypes.byref(layer))
        if status == 0:
            return None
        name = self._function("layer_name", ctypes.c_char_p)(layer).decode("ascii")
        return f"layer {layer.value} ({name}): {self._status_text(status).decode('ascii')}"


def _image(image: NDArray[np.uint8], rgb: bool) -> tuple[_Image, NDArray[np.uint8]]:
    """The image as C sees it, and the array that must live as long."""
    colour = image.ndim == 3 and image.shape[2] == 3
    if image.dtype != np.uint8 or not (colour or image.ndim == 2) or 0 in image.shape:
        raise UsageError(f"image: expected (H, W, 3) or (H, W) uint8, found {image.shape} {image.dtype}")
    dense = image.strides[1:] == ((3, 1) if colour else (1,)) and image.strides[0] >= image.shape[1] * (
        3 if colour else 1
    )
    held = image if dense else np.ascontiguousarray(image)
    kind = _GREY if not colour else _RGB if rgb else _BGR
    height, width = held.shape[:2]
    return _Image(held.ctypes.data, width, height, held.strides[0], kind, None, 0), held


def _box(box: Box) -> _Box:
    return _Box(box.x0, box.y0, box.x1, box.y1)


class CModel:
    """A bundle's C as a back end of `Landmarker`."""

    def __init__(self, library: CLibrary, precision: Precision) -> None:
        self.library, self.spec = library, library.spec
        self.name = f"C {precision}, {library.isa}"

    def landmarks(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """BGR crops (N, S, S, 3) -> (N, points, 2) in [0, 1] of the crop."""
        return self.library.run(crops)

    def landmarks_in_image(self, image: NDArray[np.uint8], box: Box, *, rgb: bool = False) -> NDArray[np.float32]:
        """Landmarks of the face in a box, in pixels of the image; crop and way back run in C."""
        return self.library.run_image(image, box, rgb=rgb)

    def crop(self, image: NDArray[np.uint8], box: Box, *, rgb: bool = False) -> NDArray[np.uint8]:
        """The crop that `landmarks_in_image` makes."""
        return self.library.crop(image, box, rgb=rgb)


def open_c(bundle: Bundle, precision: Precision = "fp32", library: Path | str | None = None) -> CModel:
    """The C of a bundle, ready to run.

    Taken from `library`, else from a library beside the bundle (`face.c.so`, `face.c-int8.so` beside `face/`), else
    compiled into the user's cache. A library that was compiled elsewhere must find the landmarks that travel with the
    bundle.
    """
    folder = FOLDERS[precision]
    if os.name != "posix":
        raise MissingBackendError("the C back end loads libraries of Linux and macOS; use the ONNX back end here")
    if not bundle.manifest.has(folder):
        raise UsageError(f"{bundle.directory}: holds no {folder}/; export it with --c" + _also(precision))
    prefix = _prefix(bundle, folder)
    ready = Path(library) if library is not None else _beside(bundle.directory, folder)
    if library is not None or ready.exists():
        return CModel(_prebuilt(ready, bundle, precision, prefix), precision)
    return CModel(_compiled(bundle, folder, prefix), precision)


def is_c_folder(path: Path | str) -> bool:
    """Whether a path is `c` or `c-int8` of a bundle."""
    place = Path(path)
    return place.name in FOLDERS.values() and (place.parent / MANIFEST).is_file() and place.is_dir()


def _also(precision: Precision) -> str:
    return " and --int8" if precision == "int8" else ""


def _beside(directory: Path, folder: str) -> Path:
    place = directory.absolute()
    return place.parent / f"{place.name}.{folder}{LIBRARY_SUFFIX}"


def source_files(folder: str) -> dict[str, str]:
    """What has to be compiled: file -> name of the artefact."""
    return {"landmarks.c": folder, "landmarks.h": f"{folder}.landmarks.h"}


def _prefix(bundle: Bundle, folder: str) -> str:
    prefix = bundle.manifest.artefact(folder).settings.get("prefix")
    if not isinstance(prefix, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", prefix):
        raise InputError(
            f"{bundle.directory}: the manifest gives {folder} the prefix {prefix!r}, expected one like 'lm'"
        )
    return prefix


def _compiled(bundle: Bundle, folder: str, prefix: str) -> CLibrary:
    what, names = f"{bundle.directory / folder}", source_files(folder)
    files = {file: bundle.read(name) for file, name in names.items()}
    hashes = {file: bundle.manifest.artefact(name).sha256 for file, name in names.items()}
    found = re.search(rb"#define %s_ABI_VERSION (\d+)" % prefix.upper().encode(), files["landmarks.h"])
    if found is None or int(found[1]) != ABI:
        version = "none" if found is None else found[1].decode()
        raise InputError(f"{what}: its interface has version {version}, this runtime speaks {ABI}; export it again")
    path, fresh = library_for(files, hashes, what)
    try:
        library = CLibrary(path, bundle.spec, prefix)
    except InputError:
        if fresh:
            raise
        forget(path)  # cut short by a full disk or a crash: once more
        path, fresh = library_for(files, hashes, what)
        library = CLibrary(path, bundle.spec, prefix)
    wrong = library.selftest() if fresh else None
    if wrong is not None:
        forget(path)
        raise CheckFailedError(f"{what}: compiled here, its self-test fails at {wrong}; set CC to another compiler")
    return library


def _prebuilt(path: Path, bundle: Bundle, precision: Precision, prefix: str) -> CLibrary:
    """A library from elsewhere: nobody else may be able to change it, and it must be this very model."""
    if not path.exists():
        raise MissingBackendError(f"{path}: no such library; compile {bundle.directory / FOLDERS[precision]} into it")
    refuse_foreign(path)
    opened = CLibrary(path.absolute(), bundle.spec, prefix)
    arrays = read_arrays(bundle.read("probe"), "probe.npz")
    crops, wanted = arrays["crops"][:_PROOF_FACES], arrays[precision][:_PROOF_FACES]
    if not opened.fits(crops[0]) or _differ(opened.run(crops).reshape(wanted.shape), wanted, precision, bundle.spec):
        raise CheckFailedError(
            f"{path}: finds other landmarks than the bundle on its own faces; it was compiled from another model, "
            f"compile {bundle.directory / FOLDERS[precision]} again"
        )
    return opened


def _differ(found: NDArray[np.float32], wanted: NDArray[np.float32], precision: Precision, spec: ModelSpec) -> bool:
    if precision == "int8":
        return bool((found != wanted).any())
    return not float(np.abs(found - wanted).max(initial=0.0)) * spec.input_size <= MAX_LIBRARY_SHIFT
