"""How a command ends, as numbers that scripts rely on."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes."""

    SOLVED = 0
    UNSOLVED = 1
    BAD_INPUT = 2
    PROVIDER = 3
    FAULT = 70
    """A fault of this program; 1 would read as 'some unsolved'."""
    INTERRUPTED = 130
