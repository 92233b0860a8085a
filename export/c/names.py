"""Nothing that comes from a model reaches the C unescaped."""

from __future__ import annotations

import re

from runtime.errors import UsageError

MAX_NAME = 60
RESERVED_TEXT = (
    "alignas alignof and asm auto bool break case catch char class compl const continue default delete do "
    "double else enum explicit export extern false final float for friend goto if inline int long main "
    "mutable namespace new not operator or override private protected public register restrict return "
    "short signed sizeof static struct switch template this throw true try typedef typeid union unsigned "
    "using virtual void volatile wchar while xor std "
)
RESERVED = frozenset(RESERVED_TEXT.split())


def check_prefix(prefix: str) -> str:
    """A prefix for the generated names: a lower-case C identifier of at most 24 characters."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", prefix) or len(prefix) > 24 or prefix in RESERVED:
        raise UsageError(
            f"C prefix {prefix!r}: expected a short lower-case identifier, no C or C++ keyword, like 'lm' or 'face_net'"
        )
    return prefix


def comment_text(text: str) -> str:
    """Model text for a C comment: printable ASCII that can neither end it nor start a trigraph or a line splice."""
    safe = "".join(
        char if re.fullmatch(r"[A-Za-z0-9_.:+\-/ ]", char) else f"<{ord(char):x}>" for char in text[:MAX_NAME]
    )
    safe = safe.replace("/*", "/<2a>").replace("*/", "<2a>/").replace("//", "/<2f>")
    return safe + ("..." if len(text) > MAX_NAME else "")


def rename(source: str, prefix: str) -> str:
    """Give a hand-written source the wanted prefix."""
    if prefix == "lm":
        return source
    source = re.sub(r"\blm_", f"{prefix}_", source)
    return re.sub(r"\bLM_", f"{prefix.upper()}_", source)
