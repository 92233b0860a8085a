"""Pickles that are small to store and endless to use: tuples of tuples that are shared over and over.

A tuple's hash visits every path to every leaf, so thirty levels of pairs of one shared pair keep a machine busy for
minutes, and sixty for ever; a chain of a hundred thousand levels overflows the C stack.
"""

from __future__ import annotations

import pickletools
from typing import NamedTuple

MAX_VISITS = 1_000_000
MAX_DEPTH = 64


class _Size(NamedTuple):
    """What it costs to walk an object as tuples are walked."""

    visits: int
    depth: int


_LEAF = _Size(1, 0)
_PUT = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GET = frozenset({"GET", "BINGET", "LONG_BINGET"})
_KEPT = frozenset({"MEMOIZE", "DUP"})


class TupleWatch:
    """Follows a pickle's operations on a stack of sizes; nothing is built.

    >>> watch = TupleWatch()
    >>> for step in pickletools.genops(b"(K\\x01K\\x02t."): watch.see(step[0], step[1])
    >>> watch.problem is None
    True
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        self._stack: list[_Size | None] = []
        """Sizes; None is a mark."""
        self._memo: dict[int, _Size | None] = {}

    def see(self, opcode: pickletools.OpcodeInfo, argument: object) -> None:
        """Follow one operation; an IndexError or KeyError means that the pickle is damaged."""
        if opcode.name in _PUT:
            self._memo[int(str(argument))] = self._stack[-1]
            return
        if opcode.name in _GET:
            self._stack.append(self._memo[int(str(argument))])
            return
        if opcode.name == "MARK":
            self._stack.append(None)
            return
        taken = self._take(opcode)
        if opcode.name in _KEPT:
            self._stack.extend(taken * len(opcode.stack_after))
            if opcode.name == "MEMOIZE":
                self._memo[len(self._memo)] = taken[0]
        elif opcode.stack_after == [pickletools.pytuple]:
            self._stack.append(self._tuple_of(taken))
        else:
            self._stack.extend([_LEAF] * len(opcode.stack_after))

    def _take(self, opcode: pickletools.OpcodeInfo) -> list[_Size]:
        """Remove from the stack what the operation consumes."""
        before = opcode.stack_before
        sliced = pickletools.stackslice in before
        taken: list[_Size] = []
        if sliced:
            while (size := self._stack.pop()) is not None:
                taken.append(size)
        for _ in range(len(before) - 2 if sliced else len(before)):
            size = self._stack.pop()
            if size is None:
                raise IndexError("a mark in the wrong place")
            taken.append(size)
        return taken

    def _tuple_of(self, parts: list[_Size]) -> _Size:
        size = _Size(1 + sum(p.visits for p in parts), 1 + max((p.depth for p in parts), default=0))
        if size.visits > MAX_VISITS or size.depth > MAX_DEPTH:
            self.problem = self.problem or f"a tuple of {size.depth} levels and {size.visits} visits"
        # Numbers that grow without end would be a bomb of their own.
        return _Size(min(size.visits, MAX_VISITS + 1), min(size.depth, MAX_DEPTH + 1))
