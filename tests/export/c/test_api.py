"""The interface of the generated C: statuses, guards, sanitizers, crops, strict compilers, names."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from export.c import export_c
from export.c.names import check_prefix, comment_text
from runtime.errors import InputError, UsageError
from runtime.geometry import Box, crop_region, network_input, output_to_points, warp
from runtime.spec import CropRule, ModelSpec

sys.path.insert(0, str(Path(__file__).parent))

import golden
from c_nets import (
    STRICT,
    Image,
    Net,
    as_image,
    built,
    compile_c,
    exported,
    fp32_model,
    int8_model,
    run_program,
    spec_of,
)

HERE = Path(__file__).parent
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_statuses_and_guards_under_sanitizers(int8: bool, tmp_path: Path) -> None:
    spec = spec_of("ghostnet", 0.125, 32, 5)
    model = fp32_model(spec)
    exported(int8_model(model) if int8 else model, spec, tmp_path, int8)
    sources = [HERE / "api_test.c", tmp_path / "landmarks.c"]
    program = compile_c(sources, tmp_path / "api", "-O0", "-march=native", *SANITIZE, f"-I{tmp_path}", "-lm")
    result = run_program(program)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]


RULES = {
    "plain": (CropRule(), "centre"),
    "upstream": (CropRule(rounding="pixel"), "corner"),
    "shifted": (CropRule(scale=1.37, shift=(0.05, -0.11), padding=119), "centre"),
    "shifted-pixel": (CropRule(scale=1.3, shift=(-0.07, 0.2), padding=7, rounding="pixel"), "corner"),
}
BOXES = [(30.2, 40.7, 99.1, 120.4), (-30.5, -20.2, 60.9, 80.1), (100.0, 90.0, 260.0, 200.0), (50.3, 50.2, 53.9, 53.1)]


@pytest.mark.parametrize("rule", RULES)
def test_crops_and_points_are_those_of_the_python_runtime(rule: str, tmp_path: Path) -> None:
    crop, coordinates = RULES[rule]
    convention: Any = coordinates
    spec = ModelSpec("ghostone", 0.125, 5, 32, layout="plain5", crop=crop, coordinates=convention)
    net = built(fp32_model(spec), spec, tmp_path, "-O1")
    photo = np.random.default_rng(3).integers(0, 256, (160, 171, 3), dtype=np.uint8)[:, :150]
    photo = photo // 2 + np.roll(photo, 1, axis=1) // 2
    padded = np.zeros((160, 177, 3), np.uint8)
    padded[:, :150] = photo
    image = as_image(padded[:, :150], 0)
    for edges in BOXES:
        box = (ctypes.c_float * 4)(*edges)
        region = crop_region(Box(*[float(v) for v in box]), crop)
        wanted = warp(photo, region.to_crop(32), 32, crop.padding)
        face = np.zeros((32, 32, 3), np.uint8)
        assert net.library.lm_crop_image(ctypes.byref(image), box, ctypes.c_void_p(face.ctypes.data)) == 0
        assert np.abs(face.astype(int) - wanted.astype(int)).max() <= 1
        xy = np.zeros(10, np.float32)
        status = net.library.lm_run_image(net.context, ctypes.byref(image), box, ctypes.c_void_p(xy.ctypes.data))
        assert status == 0
        points = output_to_points(net(face).reshape(-1, 2), region, spec)
        assert np.abs(xy.reshape(-1, 2) - points).max() < 0.01


def python_landmarks(
    session: onnxruntime.InferenceSession, photo: NDArray[np.uint8], box: Box, spec: ModelSpec
) -> NDArray[np.float64]:
    """The road of the Python runtime: cut, normalise, run, map back."""
    region = crop_region(box, spec.crop)
    face = warp(photo, region.to_crop(spec.input_size), spec.input_size, spec.crop.padding)
    name = session.get_inputs()[0].name
    output = session.run(None, {name: network_input(face[None], spec)})[0]
    return np.asarray(output_to_points(output.reshape(-1, 2), region, spec), np.float64)


def c_landmarks(net: Net, photo: NDArray[np.uint8], box: Box) -> NDArray[np.float32]:
    xy = np.zeros(2 * net.points, np.float32)
    edges = (ctypes.c_float * 4)(box.x0, box.y0, box.x1, box.y1)
    out = ctypes.c_void_p(xy.ctypes.data)
    assert net.library.lm_run_image(net.context, ctypes.byref(as_image(photo, 0)), edges, out) == 0
    return xy.reshape(-1, 2)


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("rule", ["plain", "upstream"])
def test_landmarks_in_the_photo_are_those_of_the_python_runtime(rule: str, tmp_path: Path) -> None:
    """From photo and box to photo pixels, nothing shared but the weights: within 0.05 pixel."""
    crop, coordinates = RULES[rule]
    convention: Any = coordinates
    spec = ModelSpec("ghostone", 0.125, 5, 32, layout="plain5", crop=crop, coordinates=convention)
    net = built(golden.fp32_model(), spec, tmp_path, "-O1")
    draw = np.random.default_rng(7)
    coarse = draw.integers(0, 256, (12, 15, 3)).astype(np.float32)
    photo = np.kron(coarse, np.ones((16, 16, 1), np.float32)).astype(np.uint8)
    session = session_of(golden.fp32_model())
    for edges in BOXES[:3]:
        box = Box(*(float(np.float32(edge)) for edge in edges))
        assert np.abs(c_landmarks(net, photo, box) - python_landmarks(session, photo, box, spec)).max() <= 0.05


@pytest.mark.slow
def test_landmarks_of_real_faces_are_those_of_the_python_runtime(shared: Path, tmp_path: Path) -> None:
    """The published network on real photos, its own crop rule."""
    model = onnx.load(shared / "models/landmarks/PFLD_GhostOne_112_1_opt_sim.onnx")
    spec = ModelSpec("ghostone", 1.0, 98, 112, crop=CropRule(rounding="pixel"), coordinates="corner")
    net = built(model, spec, tmp_path, "-O1", "-march=native")
    assert net.selftest() == (0, -1)
    folder = shared / "data/wflw_real/WFLW_annotations/list_98pt_rect_attr_train_test"
    lines = (folder / "list_98pt_rect_attr_test.txt").read_text().splitlines()[::24]
    session, worst = session_of(model), 0.0
    for line in lines:
        words = line.split()
        points = np.array(words[:196], float).reshape(-1, 2)
        photo = cv2.imread(str(shared / "data/wflw_real/WFLW_images" / words[-1]))
        low, high = points.min(axis=0), points.max(axis=0)
        box = Box(*(float(np.float32(edge)) for edge in (*low, *high)))
        worst = max(worst, np.abs(c_landmarks(net, photo, box) - python_landmarks(session, photo, box, spec)).max())
    assert len(lines) > 15 and worst <= 0.05


def test_pixel_formats_agree(tmp_path: Path) -> None:
    spec = spec_of("ghostone", 0.125, 32, 5)
    net = built(fp32_model(spec), spec, tmp_path, "-O1")
    photo = np.random.default_rng(1).integers(0, 256, (90, 80, 3), dtype=np.uint8)
    box = (ctypes.c_float * 4)(10.5, 12.25, 70.0, 77.5)

    def crop(image: Image) -> NDArray[np.uint8]:
        face = np.zeros((32, 32, 3), np.uint8)
        assert net.library.lm_crop_image(ctypes.byref(image), box, ctypes.c_void_p(face.ctypes.data)) == 0
        return face

    bgr = crop(as_image(photo, 0))
    rgb = np.ascontiguousarray(photo[..., ::-1])
    assert (crop(as_image(rgb, 1)) == bgr).all()
    grey = np.ascontiguousarray(photo[..., 0])
    assert (crop(as_image(grey, 2)) == crop(as_image(np.repeat(grey[..., None], 3, axis=2), 0))).all()
    neutral = np.full((45, 80), 128, np.uint8)
    nv12 = as_image(grey, 3)
    nv12.chroma, nv12.chroma_stride = neutral.ctypes.data, 80
    assert (crop(nv12) == crop(as_image(grey, 2))).all()
    colour = np.tile(np.array([90, 200], np.uint8), (45, 40))
    nv12.chroma = colour.ctypes.data
    flat = np.full((90, 80), 120, np.uint8)
    nv12.data = flat.ctypes.data
    blue, green, red = crop(nv12)[16, 16].astype(int)
    u, v = 90 - 128, 200 - 128
    wanted = np.array([120 + 1.772 * u, 120 - 0.344136 * u - 0.714136 * v, 120 + 1.402 * v])
    assert np.abs(np.array([blue, green, red]) - wanted).max() <= 1.5


def test_nv12_of_odd_size_with_padded_rows(tmp_path: Path) -> None:
    """Colours as full-range BT.601 has them, chroma at half size rounded up, both planes with strides of their own."""
    spec = golden.SPEC
    net = built(golden.fp32_model(), spec, tmp_path, "-O1")
    draw = np.random.default_rng(4)
    luma = np.kron(draw.integers(0, 256, (13, 12)), np.ones((7, 7))).astype(np.uint8)[:89, :83]
    chroma = draw.integers(90, 170, (45, 42, 2)).astype(np.uint8)
    y, uv = np.zeros((89, 96), np.uint8), np.zeros((45, 100), np.uint8)
    y[:, :83], uv[:, :84] = luma, chroma.reshape(45, 84)
    u, v = (np.kron(chroma[..., i].astype(float) - 128, np.ones((2, 2)))[:89, :83] for i in (0, 1))
    blue, green, red = luma + 1.772 * u, luma - 0.344136 * u - 0.714136 * v, luma + 1.402 * v
    photo = np.clip(np.rint(np.stack([blue, green, red], axis=2)), 0, 255).astype(np.uint8)
    image = as_image(y[:, :83], 3)
    image.chroma, image.chroma_stride = uv.ctypes.data, 100
    for edges in ((10.0, 12.0, 70.0, 75.0), (-20.0, 50.0, 40.0, 120.0), (60.0, 60.0, 90.0, 95.0)):
        box = (ctypes.c_float * 4)(*edges)
        face = np.zeros((32, 32, 3), np.uint8)
        assert net.library.lm_crop_image(ctypes.byref(image), box, ctypes.c_void_p(face.ctypes.data)) == 0
        wanted = warp(photo, crop_region(Box(*edges), spec.crop).to_crop(32), 32, spec.crop.padding)
        off = np.abs(face.astype(int) - wanted.astype(int))
        assert off.max() <= 2 and off.mean() < 0.3


STRICT_CPP = ("-x", "c++", "-std=c++17", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror")


@pytest.mark.parametrize("cc", ["gcc", "clang"])
@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_no_warning_as_c_or_cpp(cc: str, int8: bool, tmp_path: Path) -> None:
    spec = spec_of("pfld", 0.125, 32, 5)
    model = fp32_model(spec)
    exported(int8_model(model) if int8 else model, spec, tmp_path, int8)
    for flags in ((*STRICT, "-O1"), (*STRICT, "-O1", "-march=native"), (*STRICT_CPP, "-O1", "-march=native")):
        compile_c([tmp_path / "landmarks.c"], tmp_path / "out.o", *flags, "-c", cc=cc)


def test_the_package_builds_as_its_readme_says(tmp_path: Path) -> None:
    spec = spec_of("ghostone", 0.125, 32, 5)
    exported(fp32_model(spec), spec, tmp_path)
    demo = compile_c(sorted(tmp_path.glob("*.c")), tmp_path / "demo", *STRICT, "-O1", "-march=native")
    assert "self-test ok" in run_program(demo).stdout
    (tmp_path / "in.ppm").write_bytes(b"P6\n# a comment\n40 30\n255\n" + bytes(range(200)) * 18)
    result = run_program(demo, tmp_path / "in.ppm", "5", "5", "25", "25", tmp_path / "out.ppm")
    assert result.returncode == 0 and len(result.stdout.splitlines()) == 5
    assert (tmp_path / "out.ppm").stat().st_size == len(b"P6\n40 30\n255\n") + 3600
    (tmp_path / "cut.ppm").write_bytes(b"P6 40 30 255\n123")
    assert run_program(demo, tmp_path / "cut.ppm", "5", "5", "25", "25", tmp_path / "no.ppm").returncode == 2
    tools = tmp_path / "tools"
    selftest = compile_c(
        [tools / "selftest.c", tmp_path / "landmarks.c"], tmp_path / "selftest", *STRICT, f"-I{tmp_path}"
    )
    assert run_program(selftest).returncode == 0
    bench = compile_c([tools / "bench.c"], tmp_path / "bench", *STRICT, "-O1", f"-I{tmp_path}")
    assert "p95" in run_program(bench, "3", "--layers").stdout


HOSTILE = ["*/ int main;", "a\nb", "??/", "%n%s", "naïve\u202e", "/* //", "\\", 'q"q', "x" * 500]


def test_names_from_the_model_cannot_leave_their_comment(tmp_path: Path) -> None:
    spec = spec_of("ghostone", 0.125, 32, 5)
    model = fp32_model(spec)
    renamed: dict[str, str] = {}
    for index, node in enumerate(model.graph.node):
        node.name = HOSTILE[index % len(HOSTILE)] + str(index)
        for outputs in (node.output,):
            for place, name in enumerate(outputs):
                if name != model.graph.output[0].name:
                    renamed[name] = outputs[place] = f"{HOSTILE[(index + 3) % len(HOSTILE)]}{index}"
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
    exported(model, spec, tmp_path)
    text = (tmp_path / "landmarks.c").read_text()
    assert text.isascii() and "*/ int main" not in text and "??/" not in text and "%n" not in text
    compile_c([tmp_path / "landmarks.c"], tmp_path / "out.o", *STRICT, "-Wcomment", "-Wtrigraphs", "-O0", "-c")


@pytest.mark.parametrize("text", HOSTILE)
def test_comment_text_is_harmless(text: str) -> None:
    safe = comment_text(text)
    assert (
        safe.isascii()
        and "*/" not in safe
        and "/*" not in safe
        and "\n" not in safe
        and "\\" not in safe
        and "?" not in safe
    )


@pytest.mark.parametrize("prefix", ["", "1a", "A", "a-b", "int", "class", "a b", "x" * 25, "a__b", "é"])
def test_impossible_prefixes_are_refused(prefix: str) -> None:
    with pytest.raises(UsageError, match="prefix"):
        check_prefix(prefix)


def test_two_models_with_different_prefixes_link_into_one_program(tmp_path: Path) -> None:
    spec = spec_of("ghostone", 0.125, 32, 5)
    for prefix in ("one", "two_b"):
        export_c(fp32_model(spec), spec, tmp_path / prefix, prefix=prefix)
    (tmp_path / "main.c").write_text(
        '#include "one/landmarks.h"\n#include "two_b/landmarks.h"\n'
        "int main(void) { return (int)(one_arena_bytes() != TWO_B_ARENA_BYTES) + (ONE_POINTS != 5); }\n"
    )
    (tmp_path / "two_b/landmarks.h").write_text((tmp_path / "two_b/landmarks.h").read_text())
    sources = [tmp_path / "main.c", tmp_path / "one/landmarks.c", tmp_path / "two_b/landmarks.c"]
    assert run_program(compile_c(sources, tmp_path / "both", "-O0", f"-I{tmp_path}")).returncode == 0


def test_output_is_the_same_bytes_again(tmp_path: Path) -> None:
    spec = spec_of("ghostone", 0.125, 32, 5)
    model = fp32_model(spec)
    first, second = (exported(model, spec, tmp_path / name) for name in ("a", "b"))
    for one, other in zip(first.files, second.files, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_refusals_write_nothing(tmp_path: Path) -> None:
    spec = spec_of("ghostone", 0.125, 32, 5)
    model = fp32_model(spec)
    cases: list[tuple[onnx.ModelProto, ModelSpec, dict[str, object], str]] = [
        (model, spec_of("ghostone", 0.125, 48, 5), {}, "the spec says"),
        (model, spec_of("ghostone", 0.125, 32, 6), {}, "the spec says"),
        (model, spec, {"precision": "int8"}, "int8 was asked for"),
    ]
    for proto, one_spec, options, message in cases:
        with pytest.raises(InputError, match=message):
            export_c(proto, one_spec, tmp_path / "no", **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max-ram"):
        exported(model, spec, tmp_path / "no", max_ram=1000)
    with pytest.raises(UsageError, match="instruction set"):
        exported(model, spec, tmp_path / "no", isas=("mmx",))
    assert not (tmp_path / "no").exists()


def test_net_can_be_used_by_two_contexts_at_once(tmp_path: Path) -> None:
    spec = spec_of("ghostone", 0.125, 32, 5)
    one = built(fp32_model(spec), spec, tmp_path, "-O1")
    other = Net(tmp_path / "net.so", spec)
    faces = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    alone = one(faces[0])
    other(faces[1])
    assert (one(faces[0]) == alone).all() and (other(faces[0]) == alone).all()
