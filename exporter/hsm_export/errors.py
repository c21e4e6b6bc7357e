"""Errors of the toolkit; each carries the exit code that the CLI ends with."""

from __future__ import annotations


class HsmExportError(Exception):
    """Base error: one sentence that says what was wrong and where, and a hint that says how to fix it.

    Args:
        message: what was wrong, and where.
        hint: what the user can do about it; printed on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(HsmExportError):
    """Options that contradict each other or the file they are applied to (exit code 2)."""

    exit_code = 2


class MissingDependencyError(HsmExportError):
    """A library, tool or device that the command needs is not there (exit code 3)."""

    exit_code = 3


class BadInputError(HsmExportError):
    """An input file is missing, damaged, hostile or of the wrong kind (exit code 4)."""

    exit_code = 4


class NumbersDifferError(HsmExportError):
    """A runtime's numbers depart from the reference beyond the derived tolerance (exit code 5)."""

    exit_code = 5


class BuildRefusedError(HsmExportError):
    """An engine builder refused the network, or a target cannot take it (exit code 6)."""

    exit_code = 6


def first_line(error: object) -> str:
    """Return the first line of an error's text that says something; its type's name where it has none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)
