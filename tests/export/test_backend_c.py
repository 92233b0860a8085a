"""The C back end: the same landmarks as ONNX Runtime and the exact integers, from a library nobody else could plant."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from export.artefact import open_artefact
from runtime.backends import c_build
from runtime.backends.c import CModel, is_c_folder, open_c
from runtime.backends.choose import open_backend
from runtime.backends.protocol import FaceModel
from runtime.bundle import Bundle, read_arrays
from runtime.errors import CheckFailedError, InputError, MissingBackendError, ToolkitError, UsageError
from runtime.geometry import Box, crop_region, network_input, output_to_points, warp

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def quick_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled here need not be fast."""
    monkeypatch.setattr(c_build, "BASE_FLAGS", ("-std=c99", "-O1", "-ffp-contract=off", "-fPIC", "-shared"))


@pytest.fixture
def bundle(c_bundle_dir: Path) -> Bundle:
    return Bundle.open(c_bundle_dir)


@pytest.fixture
def probe(bundle: Bundle) -> dict[str, NDArray[np.generic]]:
    return read_arrays(bundle.read("probe"), "probe.npz")


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """Every call of the compiler, which still takes place."""
    calls: list[list[str]] = []
    run = c_build._run

    def counted(command: list[str], folder: Path) -> tuple[int, str]:
        calls.append(command)
        return run(command, folder)

    monkeypatch.setattr(c_build, "_run", counted)
    yield calls


def photo() -> NDArray[np.uint8]:
    """Smooth enough that a grey level of the crop does not matter much."""
    y, x = np.mgrid[0:180, 0:240]
    waves = [np.sin(x / 17 + k) * np.cos(y / (11 + k)) for k in range(3)]
    return np.stack([(127 + 120 * wave).astype(np.uint8) for wave in waves], axis=-1)


def test_float_c_gives_the_landmarks_of_onnx_runtime(bundle: Bundle, probe: dict[str, NDArray[np.generic]]) -> None:
    model = open_c(bundle)
    assert isinstance(model, FaceModel)
    found = model.landmarks(np.asarray(probe["crops"], np.uint8))
    assert found.dtype == np.float32
    apart = np.abs(found.reshape(len(found), -1) - probe["fp32"]) * bundle.spec.input_size
    assert 0 < apart.max() < 0.01


def test_int8_c_gives_the_exact_integers_landmarks(bundle: Bundle, probe: dict[str, NDArray[np.generic]]) -> None:
    found = open_c(bundle, "int8").landmarks(np.asarray(probe["crops"], np.uint8))
    assert found.reshape(len(found), -1).tobytes() == np.asarray(probe["int8"], np.float32).tobytes()


def test_no_face_and_one_face(bundle: Bundle, probe: dict[str, NDArray[np.generic]]) -> None:
    model = open_c(bundle)
    crops = np.asarray(probe["crops"], np.uint8)
    assert model.landmarks(crops[:0]).shape == (0, bundle.spec.points, 2)
    assert (model.landmarks(crops[2:3]) == model.landmarks(crops)[2:3]).all()


@pytest.mark.parametrize("box", [Box(50, 40, 150, 160), Box(-30.5, -20, 60, 70), Box(200, 100, 300, 250)])
def test_a_face_in_a_photo_is_found_where_the_python_runtime_finds_it(bundle: Bundle, box: Box) -> None:
    model, spec, image = open_c(bundle), bundle.spec, photo()
    region = crop_region(box, spec.crop)
    crop = warp(image, region.to_crop(spec.input_size), spec.input_size, spec.crop.padding)
    assert np.abs(model.crop(image, box).astype(int) - crop).max() <= 1
    wanted = output_to_points(model.landmarks(crop[None])[0], region, spec)
    assert np.abs(model.landmarks_in_image(image, box) - wanted).max() < 0.05


def test_views_of_images_and_other_channel_orders(bundle: Bundle) -> None:
    model, image, box = open_c(bundle), photo(), Box(50, 40, 150, 160)
    wanted = model.landmarks_in_image(image, box)
    wide = np.zeros((180, 300, 3), np.uint8)
    wide[:, 20:260] = image
    assert (model.landmarks_in_image(wide[:, 20:260], box) == wanted).all()
    assert (model.landmarks_in_image(image[..., ::-1], box, rgb=True) == wanted).all()
    assert (model.landmarks_in_image(np.asfortranarray(image), box) == wanted).all()
    turned = model.landmarks_in_image(image[::-1], Box(50, 19, 150, 139))
    assert not np.array_equal(turned, wanted)
    grey = image[..., 0]
    assert (model.landmarks_in_image(grey, box) == model.landmarks_in_image(np.stack([grey] * 3, -1), box)).all()


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_image_is_refused(bundle: Bundle, image: NDArray[np.generic]) -> None:
    with pytest.raises(UsageError, match="image: expected"):
        open_c(bundle).landmarks_in_image(image, Box(0, 0, 3, 3))  # type: ignore[arg-type]


def test_an_image_beyond_the_limit_is_refused_in_words(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="width, height or stride"):
        open_c(bundle).landmarks_in_image(np.zeros((1, 40000, 3), np.uint8), Box(0, 0, 1, 1))


def test_crops_of_another_size_are_refused(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="crops: expected"):
        open_c(bundle).landmarks(np.zeros((1, 8, 8, 3), np.uint8))


def test_threads_do_not_disturb_each_other(bundle: Bundle, probe: dict[str, NDArray[np.generic]]) -> None:
    model, crops = open_c(bundle), np.asarray(probe["crops"], np.uint8)
    wanted = model.landmarks(crops)
    wrong: list[int] = []

    def work(turn: int) -> None:
        for _ in range(10):
            order = np.roll(np.arange(len(crops)), turn)
            if not (model.landmarks(crops[order]) == wanted[order]).all():
                wrong.append(turn)

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_it_is_compiled_once(bundle: Bundle, compiles: list[list[str]]) -> None:
    open_c(bundle)
    compiles.clear()
    open_c(bundle)
    assert not compiles


def test_a_changed_source_is_refused_although_its_library_is_there(c_bundle_dir: Path, tmp_path: Path) -> None:
    open_c(Bundle.open(c_bundle_dir))
    copy = Path(shutil.copytree(c_bundle_dir, tmp_path / "copy"))
    with (copy / "c" / "landmarks.c").open("a") as stream:
        stream.write("\n")
    with pytest.raises(InputError, match="was changed or damaged"):
        open_c(Bundle.open(copy))


def own_cache(monkeypatch: pytest.MonkeyPatch, place: Path) -> Path:
    """A cache of the test's own."""
    monkeypatch.setattr(c_build, "BASE_FLAGS", ("-std=c99", "-O0", "-ffp-contract=off", "-fPIC", "-shared"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    return place / "landmark-toolkit-c"


def test_a_library_cut_short_is_compiled_again(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiles: list[list[str]]
) -> None:
    cache = own_cache(monkeypatch, tmp_path)
    name = _key_of(bundle)
    cache.mkdir(mode=0o700)
    (cache / name).write_bytes(b"\x7fELF")
    (cache / name).chmod(0o600)
    assert open_c(bundle).landmarks(np.zeros((1, 64, 64, 3), np.uint8)).shape == (1, 98, 2)
    assert len(compiles) == 1
    assert [p.name for p in cache.iterdir()] == [name]
    assert (cache / name).stat().st_mode & 0o777 == 0o700


def _key_of(bundle: Bundle) -> str:
    from runtime.backends.c import source_files

    compiler = c_build.find_compiler()
    assert compiler is not None
    hashes = {file: bundle.manifest.artefact(name).sha256 for file, name in source_files("c").items()}
    return c_build.cache_key(hashes, compiler) + ".so"


def test_a_cache_that_others_can_write_is_refused(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = own_cache(monkeypatch, tmp_path)
    cache.mkdir()
    cache.chmod(0o770)
    with pytest.raises(InputError, match=r"can be written by others \(mode 770\)"):
        open_c(bundle)
    cache.chmod(0o700)
    planted = cache / _key_of(bundle)
    planted.write_bytes(b"")
    planted.chmod(0o666)
    with pytest.raises(InputError, match="can be written by others"):
        open_c(bundle)
    planted.unlink()
    planted.symlink_to(tmp_path / "elsewhere.so")
    with pytest.raises(InputError, match="is a symbolic link"):
        open_c(bundle)
    planted.unlink()
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with pytest.raises(InputError, match=r"belongs to user \d+, not to you \(4242\)"):
        open_c(bundle)


def test_without_a_compiler_one_line_says_what_to_install(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(MissingBackendError, match="apt install gcc") as caught:
        open_c(bundle)
    assert "\n" not in str(caught.value)


def test_a_compiler_that_fails_is_named(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = own_cache(monkeypatch, tmp_path)
    monkeypatch.setenv("CC", "false")
    with pytest.raises(MissingBackendError, match=r"false cannot compile landmarks\.c: no message; set CC"):
        open_c(bundle)
    assert not list(cache.iterdir())


def test_a_place_that_cannot_hold_the_cache_is_one_line(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(MissingBackendError, match=r"cannot make this folder for compiled libraries: .*XDG"):
        open_c(bundle)


def test_a_build_that_fails_its_selftest_is_not_kept(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = own_cache(monkeypatch, tmp_path)
    monkeypatch.setattr("runtime.backends.c.CLibrary.selftest", lambda _: "layer 3 (conv)")
    with pytest.raises(CheckFailedError, match=r"its self-test fails at layer 3 \(conv\)"):
        open_c(bundle)
    assert not list(cache.iterdir())


@pytest.fixture(scope="module")
def shipped(c_bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle and, beside it, the library that somebody compiled for it."""
    place = tmp_path_factory.mktemp("shipped")
    shutil.copytree(c_bundle_dir, place / "face")
    command = ["cc", "-O0", "-shared", "-fPIC", "face/c/landmarks.c", "-o", "face.c.so", "-lm"]
    subprocess.run(command, cwd=place, check=True)
    (place / "face.c.so").chmod(0o755)
    return place


def test_a_library_beside_the_bundle_needs_no_compiler(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probe: dict[str, NDArray[np.generic]]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    model: CModel = open_c(Bundle.open(shipped / "face"))
    assert model.library.path == shipped / "face.c.so"
    found = model.landmarks(np.asarray(probe["crops"], np.uint8))
    assert np.abs(found.reshape(len(found), -1) - probe["fp32"]).max() * 64 < 0.01


def test_a_library_of_another_model_is_refused(shipped: Path) -> None:
    with pytest.raises(CheckFailedError, match="finds other landmarks than the bundle"):
        open_c(Bundle.open(shipped / "face"), "int8", shipped / "face.c.so")


def test_a_library_that_others_can_write_or_that_is_none_is_refused(shipped: Path, tmp_path: Path) -> None:
    library = Path(shutil.copy(shipped / "face.c.so", tmp_path / "x.so"))
    library.chmod(0o777)
    bundle = Bundle.open(shipped / "face")
    with pytest.raises(InputError, match="can be written by others"):
        open_c(bundle, library=library)
    library.write_bytes(b"no library")
    library.chmod(0o700)
    with pytest.raises(InputError, match="not a library"):
        open_c(bundle, library=library)
    with pytest.raises(MissingBackendError, match="no such library"):
        open_c(bundle, library=tmp_path / "absent.so")


def test_the_runtime_chooses_c_by_itself(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert open_backend(bundle).name == "c"
    assert "C fp32" in capsys.readouterr().err
    assert open_backend(bundle, "c-int8").model.name.startswith("C int8")


def test_a_bundle_without_c_is_told_how_to_get_it(bundle_dir: Path) -> None:
    with pytest.raises(UsageError, match="export it with --c and --int8"):
        open_c(Bundle.open(bundle_dir), "int8")


def test_numpy_alone_is_enough(c_bundle_dir: Path) -> None:
    flags = c_build.BASE_FLAGS
    open_c(Bundle.open(c_bundle_dir))
    script = (
        "import sys\n"
        "for name in ('cv2', 'onnxruntime', 'torch', 'onnx'): sys.modules[name] = None\n"
        "import numpy as np; from runtime.bundle import Bundle; from runtime.backends.c import open_c\n"
        "from runtime import Box; from runtime.backends import c_build\n"
        f"c_build.BASE_FLAGS = {flags!r}\n"
        "model = open_c(Bundle.open(sys.argv[1]))\n"
        "print(model.landmarks_in_image(np.zeros((90, 90, 3), np.uint8), Box(10, 10, 70, 70)).shape)\n"
    )
    command = [sys.executable, "-c", script, str(c_bundle_dir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "(98, 2)", done.stderr


def test_c_as_an_artefact(c_bundle_dir: Path, probe: dict[str, NDArray[np.generic]]) -> None:
    bundle = Bundle.open(c_bundle_dir)
    batch = network_input(np.asarray(probe["crops"], np.uint8), bundle.spec)
    exact = open_artefact(c_bundle_dir / "c-int8")
    assert (exact.kind, exact.precision, exact.spec, exact.layers) == ("c", "int8", bundle.spec, ())
    assert exact.predict(batch).tobytes() == np.asarray(probe["int8"], np.float32).tobytes()
    full = open_artefact(c_bundle_dir / "c")
    assert np.abs(full.predict(batch) - probe["fp32"]).max() * 64 < 0.01
    with pytest.raises(UsageError, match="pictures of 8 bits"):
        full.predict(batch * np.float32(0.97))
    with pytest.raises(ToolkitError, match="compare its ONNX model"):
        full.layer("conv1")


def test_only_the_folders_of_a_bundle_are_c(c_bundle_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    assert is_c_folder(c_bundle_dir / "c")
    assert is_c_folder(c_bundle_dir / "c-int8")
    assert not is_c_folder(c_bundle_dir)
    assert not is_c_folder(tmp_path / "c")


def test_the_landmarker_finds_the_same_faces_on_c(bundle: Bundle) -> None:
    from runtime.landmarker import Landmarker

    boxes = [Box(50, 40, 150, 160), Box(-30.5, -20, 60, 70)]
    on_c = Landmarker(bundle, backend="c", score="none")(photo(), boxes)
    on_onnx = Landmarker(bundle, backend="onnx", score="none")(photo(), boxes)
    for mine, its in zip(on_c, on_onnx, strict=True):
        assert np.abs(mine.points - its.points).max() < 0.01 * mine.region.side / bundle.spec.input_size
