"""Numbers as C constants that mean exactly what they should."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def float_literal(value: float) -> str:
    """An exact hexadecimal float constant.

    >>> float_literal(0.5), float_literal(-1.5), float_literal(0.0)
    ('0x1p-1f', '-0x1.8p+0f', '0.0f')
    """
    if value == 0.0:
        return "0.0f"
    mantissa, exponent = float(value).hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}p{exponent}f"


def float_rows(values: NDArray[np.float32]) -> str:
    """The inside of a float array."""
    return rows([float_literal(v) for v in values.tolist()], 8)


def int_rows(values: NDArray[Any]) -> str:
    """The inside of an integer array."""
    return rows([str(v) for v in values.tolist()], 32)


def rows(literals: list[str], per_row: int) -> str:
    return "".join(f"    {', '.join(literals[i : i + per_row])},\n" for i in range(0, len(literals), per_row))
