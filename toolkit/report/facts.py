"""What the page says in words: names of artefacts, sentences, commands."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.bundle import Artefact, Manifest
from runtime.spec import ModelSpec

TITLES: dict[str, tuple[str, str]] = {
    "model": ("Trained model", "all training branches, as training left them"),
    "fused": ("Fused model", "every block folded into one plain convolution"),
    "fp32": ("ONNX, float32", "the model for every engine; the reference of all that follows"),
    "fp16": ("ONNX, float16", "half the size, for GPUs"),
    "int8": ("ONNX, int8", "a third of the size, whole-number arithmetic"),
    "c": ("C, float32", "two source files without dependencies"),
    "c-int8": ("C, int8", "two source files without dependencies, whole-number arithmetic"),
    "probe": ("Probe faces", "the inputs that every link is measured on, with all outputs"),
}


def title_of(artefact: Artefact) -> tuple[str, str]:
    """A name for people, and what it is."""
    known = TITLES.get(artefact.name)
    return known or (artefact.name, artefact.kind)


def precision_of(name: str) -> str:
    """The colour class of an artefact."""
    return next((p for p in ("int8", "fp16", "fp32") if p in name), "fp32" if name in ("c", "fused", "model") else "")


def about(spec: ModelSpec) -> str:
    """What the model is, in two sentences."""
    order = "blue, green, red" if spec.channels == "bgr" else "red, green, blue"
    side, crop = spec.input_size, spec.crop
    return (
        f"A neural network that finds {spec.points} landmarks in a photo of a face ({spec.architecture}, width factor "
        f"{spec.width:g}, point order {spec.layout}). It looks at a square of {side} x {side} pixels ({order}) cut out "
        f"around the face: {crop.scale:g} times the {crop.box} box."
    )


PYTHON = """\
from runtime.backends.ort import OrtModel
from runtime.bundle import Bundle
from runtime.geometry import network_input

bundle = Bundle.open("NAME")            # the manifest is checked here
model = OrtModel(bundle.read("fp32"))   # bytes only after size and hash were found right
points = model(network_input(crops, bundle.spec)).reshape(-1, bundle.spec.points, 2)"""


def how_to(manifest: Manifest, name: str) -> Sequence[tuple[str, str]]:
    """Headline and commands for each thing that the bundle holds."""
    shown = name if name.replace("-", "").replace("_", "").replace(".", "").isalnum() else "BUNDLE"
    steps = [("Prove every number on this page again", f"toolkit verify {shown}")]
    steps.append(("Measure accuracy on your own labelled faces", f"toolkit eval {shown} --data DIR"))
    steps.append(("Measure speed on your own machine", f"toolkit bench {shown} --against all"))
    if manifest.has("fp32"):
        steps.append(
            (
                "Run it from Python",
                PYTHON.replace("NAME", shown),
            )
        )
    folders = sorted({a.file.split("/")[0] for a in manifest.artefacts if a.file.startswith(("c/", "c-int8/"))})
    steps += [
        (f"Build the C ({folder})", f"cc -O3 -march=native -o demo {shown}/{folder}/*.c -lm") for folder in folders
    ]
    if manifest.has("int8"):
        steps.append(("What TensorRT thinks of the int8 file", f"toolkit inspect {shown}/model.int8.onnx --contract"))
    return steps
