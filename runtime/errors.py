"""Every error a user can meet, by who must act on it.

A message says what, where, found against expected, and what to do: one line, no traceback.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command tells the shell."""

    OK = 0
    CHECK_FAILED = 1
    USAGE = 2


class ToolkitError(Exception):
    """Base of all errors that are meant for people."""

    exit_code = ExitCode.USAGE


class UsageError(ToolkitError):
    """The command line, a recipe or an argument asks for something impossible."""


class InputError(ToolkitError):
    """A file or its content is not what it should be."""


class CheckFailedError(ToolkitError):
    """A measured number broke its limit; nothing was shipped."""

    exit_code = ExitCode.CHECK_FAILED


class MissingBackendError(ToolkitError):
    """A package, compiler or device that this step needs is not here."""
