"""What re-proving a bundle found: one result per check, passed, failed or not run here."""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime.bundle import MANIFEST, Check, Manifest


@dataclass(frozen=True)
class Result:
    """One thing that was proven, or was not."""

    link: str
    name: str
    passed: bool
    detail: str
    value: float | None = None
    limit: float | None = None
    ran: bool = True
    """False where this machine lacks what the check needs; `detail` says what."""


SLACK = 4.0
"""How much worse another machine may measure than what was written down at export."""
_SMALL = {"ULP": 16.0, "mean": 0.001, "largest": 0.001}
"""Noise that even a perfect link shows, by the first word of the metric."""


@dataclass
class Report:
    """Everything `verify` found about a bundle."""

    manifest: Manifest
    results: list[Result] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return bool(self.results) and all(r.passed for r in self.results)

    @property
    def failures(self) -> list[Result]:
        return [r for r in self.results if not r.passed]

    @property
    def not_run(self) -> list[Result]:
        return [r for r in self.results if not r.ran]

    def check(self, link: str, check: Check, *, recorded_at_export: bool = True) -> None:
        """Take a measured number over; where export wrote it down, what it wrote must be honest."""
        self.results.append(Result(link, check.name, check.passed, check.metric, check.value, check.limit))
        if check.name.startswith("repeat-") or not recorded_at_export:
            return
        recorded = [c for c in self.manifest.artefact(link).checks if c.name == check.name]
        if not recorded:
            self.say(link, check.name, False, f"{MANIFEST} does not record it")
        elif recorded[0].metric != check.metric or recorded[0].limit > SLACK * check.limit:
            wanted = f"{check.limit:g} ({check.metric})"
            self.say(
                link, check.name, False, f"recorded against {recorded[0].limit:g} ({recorded[0].metric}), not {wanted}"
            )
        elif recorded[0].data != self.manifest.artefact("probe").sha256:
            self.say(link, check.name, False, "was measured on other probes than the bundle's")
        elif check.value > SLACK * recorded[0].value + _SMALL.get(check.metric.split()[0], 0.0):
            self.say(link, check.name, False, f"recorded as {recorded[0].value:g}, measured {check.value:g}")

    def say(self, link: str, name: str, passed: bool, detail: str) -> None:
        self.results.append(Result(link, name, passed, detail))

    def skip(self, link: str, name: str, why: str) -> None:
        """A check that this machine cannot make; it neither passes nor fails."""
        self.results.append(Result(link, name, True, f"not run: {why}", ran=False))
