"""What a careful user would try: every status, every layer broken once, hostile images and names, the corpus."""

from __future__ import annotations

import ctypes
import mmap
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from export.c import COptions, export_c
from export.c.read import supported_ops
from runtime.errors import InputError
from runtime.spec import ModelSpec

sys.path.insert(0, str(Path(__file__).parent))

import golden
from c_nets import STRICT, Net, as_image, compile_c, cpu_has, exported, run_program

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")


@pytest.fixture(scope="module")
def models() -> dict[bool, ModelProto]:
    return {False: golden.fp32_model(), True: golden.int8_model()}


@pytest.fixture(scope="module")
def libraries(models: dict[bool, ModelProto], tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    found = {}
    for int8, model in models.items():
        folder = tmp_path_factory.mktemp("int8" if int8 else "fp32")
        exported(model, golden.SPEC, folder, int8, isas=("scalar",))
        found[int8] = compile_c([folder / "landmarks.c"], folder / "net.so", "-O1", "-fPIC", "-shared")
    return found


def statuses() -> dict[str, int]:
    """Name -> value, from the header."""
    header = (golden.folder_of("fp32") / "landmarks.h").read_text()
    body = header[header.index("typedef enum lm_status {") : header.index("} lm_status;")]
    return {name: value for value, name in enumerate(re.findall(r"^    (LM_\w+)", body, re.MULTILINE))}


def call(net: Net, name: str, *arguments: object) -> int:
    return int(getattr(net.library, name)(*arguments))


def test_every_documented_status_can_be_reached(libraries: dict[bool, Path], tmp_path: Path) -> None:
    net = Net(libraries[False], golden.SPEC)
    photo, xy = np.zeros((20, 30, 3), np.uint8), np.zeros(10, np.float32)
    box, empty = (ctypes.c_float * 4)(2, 2, 12, 12), (ctypes.c_float * 4)(5, 5, 5, 5)
    good, gray = as_image(photo, 0), as_image(photo, 77)
    flat = as_image(photo, 0)
    flat.width = 0
    size = net.library.lm_arena_bytes()
    start = ctypes.c_void_p(-(-net.memory.ctypes.data // 64) * 64)
    off = ctypes.c_void_p(-(-net.memory.ctypes.data // 64) * 64 + 4)
    out = ctypes.c_void_p(xy.ctypes.data)
    blank = (ctypes.c_uint8 * 64)()
    context = (ctypes.c_uint8 * 64)()

    def run(image: object, where: object = box) -> int:
        return call(net, "lm_run_image", net.context, ctypes.byref(image), where, out)  # type: ignore[arg-type]

    reached: dict[str, int] = {
        "LM_OK": run(good),
        "LM_ERR_NULL": call(net, "lm_run_image", net.context, None, box, out),
        "LM_ERR_ARENA_SIZE": call(net, "lm_init", context, start, ctypes.c_size_t(size - 1)),
        "LM_ERR_ARENA_ALIGN": call(net, "lm_init", context, off, ctypes.c_size_t(size)),
        "LM_ERR_CONTEXT": call(net, "lm_selftest", blank, None),
        "LM_ERR_IMAGE": run(flat),
        "LM_ERR_FORMAT": run(gray),
        "LM_ERR_BOX": run(good, empty),
        "LM_ERR_SELFTEST": broken_layers(libraries[False], golden.SPEC, tmp_path, first=1)[0][1][0],
        "LM_ERR_ISA": call(net, "lm_use_isa", net.context, 99),
    }
    assert reached == statuses()
    net.library.lm_status_text.restype = ctypes.c_char_p
    texts = [net.library.lm_status_text(value) for value in range(-1, len(reached) + 1)]
    assert len(set(texts)) == len(reached) + 1 and texts[0] == texts[-1] == b"unknown status"


def _arrays(source: str) -> dict[str, bytes]:
    """The weight arrays of a generated file as they lie in memory."""
    kinds: dict[str, Callable[[list[str]], bytes]] = {
        "float": lambda words: np.array([float.fromhex(w.rstrip("f")) for w in words], np.float32).tobytes(),
        "int8_t": lambda words: np.array([int(w) for w in words], np.int8).tobytes(),
    }
    found = {}
    for kind, name, body in re.findall(
        r"(float|int8_t) LM_ALIGNED (lm_weights|lm_codes)\[\d+\] = \{\n(.*?)\};", source, re.S
    ):
        found[name] = kinds[kind](re.findall(r"[^\s,]+", body))
    return found


def broken_layers(
    library: Path, spec: ModelSpec, scratch: Path, first: int | None = None
) -> list[tuple[int, tuple[int, int]]]:
    """Change one weight of each weighted layer inside the compiled library: (layer, what the self-test says)."""
    source, code = (library.parent / "landmarks.c").read_text(), library.read_bytes()
    arrays = _arrays(source)
    found = []
    layers = re.findall(r"^static void lm_layer_(\d+)\((.*?)^\}", source, re.MULTILINE | re.S)
    for index, body in layers:
        weights = re.search(r"(lm_weights|lm_codes) \+ (\d+)", body)
        if weights is None:
            continue
        name, at = weights[1], int(weights[2])
        step = 4 if name == "lm_weights" else 1
        base = code.index(arrays[name])
        for lane in range(96):  # an input that is 0 everywhere hides its weight, an output that is cut off too
            place = base + (at + lane) * step
            old = code[place : place + step]
            new = np.float32(np.frombuffer(old, np.float32)[0] + 8).tobytes() if step == 4 else bytes([old[0] ^ 0x40])
            copy = scratch / f"broken{index}-{lane}.so"
            copy.write_bytes(code[:place] + new + code[place + step :])
            said = Net(copy, spec).selftest()
            copy.unlink()
            if said != (0, -1):
                break
        found.append((int(index), said))
        if first is not None and len(found) >= first:
            break
    return found


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_the_selftest_names_whichever_layer_has_a_wrong_weight(
    int8: bool, libraries: dict[bool, Path], tmp_path: Path
) -> None:
    found = broken_layers(libraries[int8], golden.SPEC, tmp_path)
    assert len(found) > 40
    assert [said for _, said in found] == [(statuses()["LM_ERR_SELFTEST"], layer) for layer, _ in found]


def test_gigantic_images(libraries: dict[bool, Path]) -> None:
    """The largest image that the header allows, in memory that exists only where it is read; one more is refused."""
    net = Net(libraries[False], golden.SPEC)
    side = 32767
    try:
        memory = mmap.mmap(-1, side * side, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
    except (OSError, ValueError):
        pytest.skip("no gigabyte of address space")
    photo = np.frombuffer(memory, np.uint8).reshape(side, side)
    xy = np.zeros(10, np.float32)
    image = as_image(photo[..., None], 2)
    for corner in (0.0, 32760.0):
        box = (ctypes.c_float * 4)(corner, corner, corner + 40, corner + 40)
        out = ctypes.c_void_p(xy.ctypes.data)
        assert call(net, "lm_run_image", net.context, ctypes.byref(image), box, out) == 0
        assert np.abs(xy - corner).max() < 400
    whole = (ctypes.c_float * 4)(0, 0, side, side)
    assert call(net, "lm_run_image", net.context, ctypes.byref(image), whole, out) == 0
    image.width = side + 1
    assert call(net, "lm_run_image", net.context, ctypes.byref(image), box, out) == statuses()["LM_ERR_IMAGE"]
    image.width, image.stride = 16, 2**63
    assert call(net, "lm_run_image", net.context, ctypes.byref(image), box, out) == statuses()["LM_ERR_IMAGE"]


def corpus() -> list[Path]:
    return sorted(CORPUS.iterdir())


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_the_corpus_of_the_fuzzer_is_replayed_under_sanitizers(
    int8: bool, models: dict[bool, ModelProto], tmp_path: Path
) -> None:
    exported(models[int8], golden.SPEC, tmp_path, int8, isas=("avx2", "neon"))
    sources = [HERE / "fuzz_run_image.c", tmp_path / "landmarks.c"]
    native = ("-march=native",) if cpu_has("avx2") else ()
    flags = (*STRICT, "-DLM_REPLAY", "-O1", *native, *SANITIZE, f"-I{tmp_path}")
    replay = compile_c(sources, tmp_path / "replay", *flags)
    assert len(corpus()) >= 30
    result = run_program(replay, *corpus())
    assert result.returncode == 0 and result.stdout == f"{len(corpus())} inputs\n", result.stderr[-3000:]


def test_the_fuzzer_builds_and_runs(tmp_path: Path) -> None:
    folder = golden.folder_of("fp32")
    if shutil.which("clang") is None:
        pytest.skip("no clang on this machine: libFuzzer comes with it")
    (tmp_path / "empty.c").write_text(
        "int LLVMFuzzerTestOneInput(void);\nint LLVMFuzzerTestOneInput(void) { return 0; }\n"
    )
    if run_program("clang", "-fsanitize=fuzzer", tmp_path / "empty.c", "-o", tmp_path / "empty").returncode != 0:
        pytest.skip("this clang has no libFuzzer (Debian: libclang-rt-14-dev)")
    sources = [HERE / "fuzz_run_image.c", folder / "landmarks.c"]
    flags = ("-O1", "-fsanitize=fuzzer,undefined", "-fno-sanitize-recover=all", f"-I{folder}")
    program = compile_c(sources, tmp_path / "fuzz", *flags, cc="clang")
    work = tmp_path / "work"
    work.mkdir()
    result = run_program(program, "-runs=300", "-seed=1", work, CORPUS)
    assert result.returncode == 0, result.stderr[-2000:]


HOSTILE = [
    *("*/ int main;", "a\nb", "??/", "%n%s", "na\u00efve\u202e", "/* //", "\\", 'q"q', "x" * 5000),
    *("??/\n#error", "\x00"),
]


def with_names(model: ModelProto) -> ModelProto:
    """The model under hostile names: nodes, tensors, graph, producer, documentation."""
    changed = ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    renamed: dict[str, str] = {}
    for index, node in enumerate(graph.node):
        node.name = HOSTILE[index % len(HOSTILE)] + str(index)
        for place, name in enumerate(node.output):
            renamed[name] = node.output[place] = f"{HOSTILE[(index + 3) % len(HOSTILE)]}{index}"
    for index, tensor in enumerate(graph.initializer):
        renamed[tensor.name] = f"{HOSTILE[index % len(HOSTILE)]}w{index}"
        tensor.name = renamed[tensor.name]
    for value in (*graph.input, *graph.output):
        renamed.setdefault(value.name, f"*/{value.name}??/\n")
        value.name = renamed[value.name]
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    graph.name = changed.producer_name = changed.doc_string = "*/ ??/\n%n\\"
    return changed


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_hostile_names_are_harmless_in_every_file(int8: bool, models: dict[bool, ModelProto], tmp_path: Path) -> None:
    spec = ModelSpec("*/ #error ??/\n%n \\", 0.125, 5, 32, layout="plain5")
    forms = [COptions(isas=("avx2",)), COptions(isas=("avx2",), dispatch=True, single_header=True)]
    for number, form in enumerate(forms):
        folder = tmp_path / str(number)
        precision = "int8" if int8 else "fp32"
        export_c(with_names(models[int8]), spec, folder, precision=precision, options=form)  # type: ignore[arg-type]
        plain = tmp_path / f"plain{number}"
        export_c(models[int8], golden.SPEC, plain, precision=precision, options=form)  # type: ignore[arg-type]
        for path in (p for p in folder.rglob("*") if p.is_file()):
            text = path.read_text(encoding="utf-8")
            assert text.isascii() and "\0" not in text and max(map(len, text.splitlines())) < 1500, path.name
            for sign in ("%n", "int main;", "??", "??/", "\\\\"):
                assert text.count(sign) == (plain / path.relative_to(folder)).read_text().count(sign), (path.name, sign)
        flags = (*STRICT, "-trigraphs", "-Wcomment", "-Wtrigraphs", "-O0", f"-I{folder}")
        program = compile_c([folder / "tools/selftest.c", folder / "landmarks.c"], folder / "selftest", *flags)
        assert run_program(program).returncode == 0


def test_refusals_name_the_operator_and_the_documented_list() -> None:
    """The list in the documentation is the list in the error is the list in the program."""
    page = (HERE.parents[2] / "docs/c-embedding.md").read_text()
    listed = re.search(r"Operators: (.*?)\.\n", page, re.S)
    assert listed is not None
    assert re.findall(r"`(\w+)`", listed[1]) == supported_ops()
    model = golden.fp32_model()
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "Softplus"
    with pytest.raises(InputError, match="Softplus") as error:
        export_c(model, golden.SPEC, HERE / "never")
    assert str(error.value).endswith(f"supported: {', '.join(supported_ops())}")
    assert not (HERE / "never").exists()
