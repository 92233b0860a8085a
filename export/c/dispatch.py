"""Builds that choose their instruction set at run time: the engine of each one, side by side under names of its own."""

from __future__ import annotations

import re

from export.c.isas import F32, MICRO, S8, chosen, guard, source_text
from runtime.errors import UsageError


def dispatch_order(isas: tuple[str, ...], int8: bool) -> list[str]:
    """Best first, plain C last: it is what other machines fall back on."""
    if MICRO in isas:
        raise UsageError(f"dispatch chooses among instruction sets of x86-64; {MICRO} is for other machines")
    names = chosen(isas, int8)
    if not any((S8 if int8 else F32)[name].target for name in names):
        raise UsageError(f"dispatch needs instruction sets of x86-64 to choose among; asked for: {', '.join(isas)}")
    return names


def in_its_own_names(engine: str, name: str, shared: str) -> str:
    """Every name that the engine does not share gets the instruction set's, its macros end with it."""
    known = set(re.findall(r"\blm_\w+", shared))
    renamed = re.sub(r"\blm_(\w+)", lambda match: match[0] if match[0] in known else f"lm_{name}_{match[1]}", engine)
    macros = dict.fromkeys(re.findall(r"^[ \t]*#define (\w+)", renamed, re.MULTILINE))
    return renamed + "".join(f"#undef {macro}\n" for macro in macros)


def _targeted(engine: str, target: str) -> str:
    return (
        "#if defined(LM_DISPATCH) && defined(__clang__)\n"
        f'#pragma clang attribute push(__attribute__((target("{target}"))), apply_to = function)\n'
        "#elif defined(LM_DISPATCH)\n#pragma GCC push_options\n"
        f'#pragma GCC target("{target}")\n#endif\n'
        f"{engine}"
        "#if defined(LM_DISPATCH) && defined(__clang__)\n#pragma clang attribute pop\n"
        "#elif defined(LM_DISPATCH)\n#pragma GCC pop_options\n#endif\n"
    )


def _switches(names: list[str], int8: bool) -> str:
    """Which engines a build holds: all that x86-64 can have, or the one that the compiler's flags allow."""
    table = S8 if int8 else F32
    anywhere = next(name for name in names if table[name].target == "")
    text = "#if defined(__GNUC__) && defined(__x86_64__) && !defined(LM_FORCE_SCALAR) && !defined(LM_NO_DISPATCH)\n"
    text += "#define LM_DISPATCH\n#include <immintrin.h>\n"
    for name in names:
        if table[name].target or name == anywhere:
            define = f"#define LM_WITH_{name.upper()}\n"
            known = table[name].compilers
            text += f"#if {known}\n{define}#endif\n" if known else define
    for name in names:
        text += f"#elif {guard(name, int8)}\n#define LM_WITH_{name.upper()}\n"
    return text + "#endif\n"


def dispatched(shared: str, engines: dict[str, str], int8: bool) -> str:
    """The shared part, the engines, and the table that lm_init chooses from."""
    table = S8 if int8 else F32
    text = f"{_switches(list(engines), int8)}\n{shared}\n{source_text('templates/cpu.c')}\n"
    paths = ""
    for name, engine in engines.items():
        isa = table[name]
        own = in_its_own_names(engine, name, shared)
        text += f"#ifdef LM_WITH_{name.upper()} /* ======== {isa.title} ======== */\n"
        text += f"{_targeted(own, isa.target) if isa.target else own}#endif\n\n"
        needs = " | ".join(f"LM_CPU_{bit}" for bit in isa.needs) or "0"
        paths += f"#ifdef LM_WITH_{name.upper()}\n"
        paths += f'    {{"{isa.title}", {needs}, lm_{name}_network}},\n#endif\n'
    text += f"static const lm_path lm_paths[] = {{\n{paths}}};\n"
    return text + "#define LM_PATHS ((int)(sizeof lm_paths / sizeof lm_paths[0]))\n"
