"""The files beside the two: demo, self-test, bench, CMake, pkg-config, README."""

from __future__ import annotations

from export.c.isas import HERE
from export.c.names import rename

PACKAGE = {
    "demo.c": "demo.c",
    "tools/selftest.c": "selftest.c",
    "tools/bench.c": "bench.c",
    "CMakeLists.txt": "CMakeLists.txt",
    "landmarks.pc.in": "landmarks.pc.in",
    "README.md": "README.txt.in",
}
"""File of the package -> template."""


def package_files(summary: str, titles: list[str], prefix: str) -> dict[str, str]:
    """What lies beside the two files."""
    words = {"@SUMMARY@": summary, "@ISAS@": ", ".join(titles)}
    files = {}
    for name, template in PACKAGE.items():
        text = (HERE / "templates" / template).read_text(encoding="utf-8")
        for word, value in words.items():
            text = text.replace(word, value)
        files[name] = rename(text, prefix)
    return files
