"""From process start to the first landmarks: fresh processes, contenders alternating, everything warm on disk.

Every contender is given the same photo as an array file and the same box, so that no detector is measured along.
"upstream's flow" is what the published inference script does: OpenCV, ONNX Runtime with default settings, one face.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from runtime.bundle import Bundle
from tests.bench.measure import interleave, pinned, save

BOX = (800.0, 400.0, 1100.0, 700.0)
OURS = """
import sys
{hide}
import numpy as np
from runtime import Landmarker
image = np.load({photo!r})
face, = Landmarker({bundle!r}, {backend!r}, score="none")(image, [{box}])
print(face.points[0, 0])
"""
UPSTREAM = """
import cv2, numpy as np, onnxruntime
session = onnxruntime.InferenceSession({model!r}, providers=["CPUExecutionProvider"])
image = np.load({photo!r})
x0, y0, x1, y1 = map(int, {box})
side = int(1.2 * max(x1 - x0, y1 - y0)); cx, cy = (x0 + x1) // 2, (y0 + y1) // 2
crop = cv2.resize(image[cy - side // 2:cy + side // 2, cx - side // 2:cx + side // 2], ({size}, {size}))
batch = ((crop / 255.0 - 0.5) / 0.5).transpose(2, 0, 1)[None].astype(np.float32)
print(session.run(None, {{session.get_inputs()[0].name: batch}})[0][0, 0] * side)
"""
PLAIN = {"python alone": "print(1.0)", "python with numpy": "import numpy\nprint(1.0)"}
MEDIAPIPE = "import mediapipe\nprint(1.0)  # the import alone"


def process(code: str, bytecode: str) -> Callable[[], object]:
    """Runs code in a fresh interpreter that keeps its bytecode, as an installed package does."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = bytecode

    def call() -> float:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            sys.exit(f"a contender failed: {done.stderr.strip().splitlines()[-1]}")
        return float(done.stdout.split()[-1])

    return call


def c_program(bundle: Bundle, place: Path, box: tuple[float, ...]) -> Callable[[], object] | None:
    """The bundle's own demo.c: reads a photo, runs, writes it with its points; None without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None or not bundle.manifest.has("c"):
        return None
    folder, photo, program = bundle.directory / "c", place / "photo.ppm", place / "demo"
    pixels = np.load(place / "photo.npy")
    photo.write_bytes(b"P6 %d %d 255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes())
    sources = [str(folder / "landmarks.c"), str(folder / "demo.c")]
    subprocess.run([compiler, "-O3", "-march=native", *sources, "-lm", "-o", str(program)], check=True)
    command = [str(program), str(photo), *(str(int(v)) for v in box), str(place / "out.ppm")]
    return lambda: subprocess.run(command, capture_output=True, check=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="a bundle, exported with --c to measure the C too")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for the JSON files")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(argv)
    bundle = Bundle.open(options.bundle)
    with tempfile.TemporaryDirectory() as place, pinned():
        photo = str(Path(place) / "photo.npy")
        np.save(photo, np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8))
        model = str(bundle.directory.resolve() / bundle.manifest.artefact("fp32").file)
        given = {"photo": photo, "box": BOX, "size": bundle.spec.input_size, "model": model}
        hidden = "sys.modules['cv2'] = sys.modules['onnxruntime'] = None"
        ways = {"onnx": ("onnx", ""), "c": ("c", ""), "c, numpy alone": ("c", hidden)}
        codes = {
            name: OURS.format(bundle=str(bundle.directory.resolve()), backend=backend, hide=hide, **given)
            for name, (backend, hide) in ways.items()
            if backend == "onnx" or bundle.manifest.has("c")
        }
        codes |= {"upstream's flow": UPSTREAM.format(**given), **PLAIN}
        try:
            import mediapipe  # type: ignore[import-not-found]  # noqa: F401

            codes["mediapipe, import alone"] = MEDIAPIPE
        except ImportError:
            print("mediapipe is not installed: left out")
        contenders = {name: process(code, f"{place}/bytecode") for name, code in codes.items()}
        program = c_program(bundle, Path(place), BOX)
        if program is not None:
            contenders["C program, demo.c"] = program
        start = time.perf_counter()
        samples = interleave(contenders, options.rounds, warmup=1)
    rows = {}
    print(f"{'':26} {'min ms':>8} {'median ms':>10} {'/ upstream':>11}")
    for name in contenders:
        rows[name] = {"min": min(samples.seconds[name]), "median": samples.median(name)}
        ratio = samples.ratio(name, "upstream's flow")
        print(f"{name:26} {1000 * rows[name]['min']:8.1f} {1000 * rows[name]['median']:10.1f} {ratio:11.2f}")
    save(options.out, "first_landmarks", rows, {"processes": samples})
    print(f"{options.rounds} rounds in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
