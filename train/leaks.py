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
    """A warning for each set of measured faces that shares pictures with the training faces.

    Photos are compared; of synthetic faces the seed says it, for one seed renders the same faces in the same order.
    """
    measured = [*zip(recipe.data.val, opened.validation, strict=False), *opened.tests]
    seeds = {_seed(portion.text) for portion in opened.portions} - {None}
    warnings = [
        f"warning: {text} and the training faces are synthetic faces of one seed, so the same faces: what is measured "
        f"there is too good; name another seed, as in {text.partition('@')[0]}@99"
        for text, _ in measured
        if _seed(text) in seeds
    ]
    photos = [(text, source) for text, source in measured if _seed(text) is None]
    trained: list[FaceSource] = [
        SubsetSource(part.pack, part.indices.tolist())
        for part, portion in zip(faces.parts, opened.portions, strict=True)
        if _seed(portion.text) is None
    ]
    if not photos or not trained:
        return warnings
    with working("comparing with measured faces", sum(map(len, trained)) + sum(len(s) for _, s in photos)) as advance:
        ours = Sketches.stack([sketch(source, advance) for source in trained])
        warnings += [_warning(text, source, trained, ours, sketch(source, advance)) for text, source in photos]
    return [warning for warning in warnings if warning]


def _seed(text: str) -> int | None:
    """Of synthetic faces; None for photos.

    >>> _seed("synth:400"), _seed("synth:400@7"), _seed("faces")
    (0, 7, None)
    """
    return int(text.partition("@")[2] or 0) if text.startswith(SYNTH_PREFIX) else None


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
