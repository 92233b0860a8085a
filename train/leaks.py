"""Before a training: do its faces show pictures that validation or tests measure?"""

from __future__ import annotations

from train.data.combine import SubsetSource
from train.data.likeness import Sketches, sketch, twins
from train.data.open import SYNTH_PREFIX
from train.data.sample import FaceSource
from train.faces import Faces, Opened, Working
from train.recipe import Recipe

NAMED = 2
"""So many pairs are named in the warning."""


def shared_pictures(recipe: Recipe, faces: Faces, opened: Opened, working: Working) -> list[str]:
    """A warning for each set of measured photos that shares pictures with the training faces.

    Synthetic faces are left aside: what a seed renders no other seed does.
    """
    measured = [
        *zip(recipe.data.val, opened.validation, strict=False),
        *((text, source) for text, source in opened.tests),
    ]
    measured = [(text, source) for text, source in measured if not text.startswith(SYNTH_PREFIX)]
    trained: list[FaceSource] = [
        SubsetSource(part.pack, part.indices.tolist())
        for part, portion in zip(faces.parts, opened.portions, strict=True)
        if not portion.text.startswith(SYNTH_PREFIX)
    ]
    if not measured or not trained:
        return []
    with working("comparing with measured faces", sum(map(len, trained)) + sum(len(s) for _, s in measured)) as advance:
        ours = Sketches.stack([sketch(source, advance) for source in trained])
        warnings = [_warning(text, source, trained, ours, sketch(source, advance)) for text, source in measured]
    return [warning for warning in warnings if warning]


def _warning(text: str, source: FaceSource, trained: list[FaceSource], ours: Sketches, theirs: Sketches) -> str:
    found = twins(ours, theirs)
    if not found:
        return ""
    names = [_name(trained, twin.first) + " = " + source.sample(twin.second).image.name for twin in found[:NAMED]]
    more = ", ..." if len(found) > NAMED else ""
    return (
        f"warning: {len({twin.second for twin in found})} of the {len(source)} faces of {text} show pictures that "
        f"are trained on ({', '.join(names)}{more}): what is measured there is too good; "
        "toolkit data overlap names them all"
    )


def _name(sources: list[FaceSource], index: int) -> str:
    for source in sources:
        if index < len(source):
            return source.sample(index).image.name
        index -= len(source)
    raise IndexError(index)
