"""How the field measures on its data sets: the points, and what errors are divided by. A name fixes both."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import UsageError
from runtime.layouts import IBUG68, WFLW98, Layout
from train.data.combine import can_convert, in_layout
from train.data.sample import FaceSource
from train.metrics import BOX


@dataclass(frozen=True)
class Protocol:
    """One way to measure."""

    name: str
    what: str
    layout: Layout
    """Of the truth; a model of 98 points is measured on the 68 of them that 300-W has."""
    normaliser: str
    also: tuple[str, ...] = ()
    """Normalisers that the same errors are given over as well, for comparison with other papers."""

    def source(self, source: FaceSource) -> FaceSource:
        """The faces with the protocol's points."""
        try:
            if source.layout.name != self.layout.name:
                can_convert(source.layout, self.layout)
                if source.layout.count < self.layout.count:
                    raise UsageError(f"they have {source.layout.count} points only")
        except UsageError as error:
            raise UsageError(
                f"--protocol {self.name} measures {self.layout.count} points ({self.layout.name}), "
                f"{source.name} has {source.layout.name}: {error}"
            ) from error
        return in_layout(source, self.layout)

    def check_normaliser(self, given: str | None) -> str:
        """The normaliser; another one contradicts the protocol."""
        if given is not None and given != self.normaliser:
            raise UsageError(
                f"--normaliser {given} contradicts --protocol {self.name}, which divides by {self.normaliser}; drop one"
            )
        return self.normaliser


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("wflw", "WFLW: 98 points over the distance of the outer eye corners (60, 72)", WFLW98, "inter-ocular"),
        Protocol(
            "300w",
            "300-W: 68 points over the distance of the outer eye corners (36, 45), and of the eyes' centres",
            IBUG68,
            "inter-ocular",
            ("inter-pupil",),
        ),
        Protocol("aflw2000", "AFLW2000: 68 points over sqrt(width x height) of the landmarks' box", IBUG68, BOX),
    )
}


def protocol_named(name: str) -> Protocol:
    """Look a protocol up by name."""
    try:
        return PROTOCOLS[name]
    except KeyError:
        raise UsageError(f"unknown protocol {name!r}; known: {', '.join(PROTOCOLS)}") from None
