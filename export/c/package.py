"""The form of the package, and the files beside the two: demo, self-test, bench, CMake, pkg-config, README."""

from __future__ import annotations

from dataclasses import dataclass

from export.c.isas import F32, HERE, MICRO, NAMES, S8, chosen
from export.c.names import rename

PACKAGE = {
    "demo.c": "demo.c",
    "tools/selftest.c": "selftest.c",
    "tools/bench.c": "bench.c",
    "tools/peak.h": "peak.h",
    "CMakeLists.txt": "CMakeLists.txt",
    "landmarks.pc.in": "landmarks.pc.in",
    "README.md": "README.txt.in",
}
"""File of the package -> template."""

COMPILE_TIME = "The compiler's flags choose the kernels"
RUN_TIME = (
    "On x86-64 one build holds the kernels of all of them and `lm_init` chooses; elsewhere the compiler's flags do"
)
TWO_FILES = "Two files are all you need: `landmarks.h` and `landmarks.c`"
ONE_FILE = (
    "One file is all you need: `landmarks.h`; exactly one source says `#define LM_IMPLEMENTATION` before it\n"
    "includes it, as `landmarks.c` does"
)
SINGLE_SOURCE = '#define LM_IMPLEMENTATION\n#include "landmarks.h"\n'


@dataclass(frozen=True)
class Form:
    """How the kernels are chosen, and how many files there are."""

    isas: tuple[str, ...] = NAMES
    dispatch: bool = False
    single_header: bool = False


def single(header: str, source: str) -> str:
    """Header and source in one; the source appears where LM_IMPLEMENTATION is defined, once."""
    return (
        f"{header}\n#if defined(LM_IMPLEMENTATION) && !defined(LM_IMPLEMENTED)\n#define LM_IMPLEMENTED\n"
        "#if defined(__GNUC__)\n#pragma GCC diagnostic push\n#endif\n"
        f"{source}"
        "#if defined(__GNUC__)\n#pragma GCC diagnostic pop\n#endif\n#endif\n"
    )


def package_files(summary: str, form: Form, prefix: str, int8: bool) -> dict[str, str]:
    """What lies beside the two files."""
    titles = [(S8 if int8 else F32)[name].title for name in chosen(form.isas, int8)]
    titles += ["Arm DSP"] if int8 and MICRO in form.isas else []
    words = {
        "@SUMMARY@": summary,
        "@ISAS@": ", ".join(titles),
        "@CHOICE@": RUN_TIME if form.dispatch else COMPILE_TIME,
        "@FILES@": ONE_FILE if form.single_header else TWO_FILES,
        "@NATIVE@": "OFF" if form.dispatch else "ON",
        "@PREFIX@": prefix,
    }
    files = {}
    for name, template in PACKAGE.items():
        text = (HERE / "templates" / template).read_text(encoding="utf-8")
        for word, value in words.items():
            text = text.replace(word, value)
        files[name] = rename(text, prefix)
    return files
