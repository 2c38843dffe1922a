"""How far a candidate is kept from this machine: the level asked for, and what it lacks here."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import StrEnum

from kernel_generator.sandbox.bounds import Bounds
from kernel_generator.sandbox.bubblewrap import Jail, find_jail


class Level(StrEnum):
    """What stands between a candidate and the user's machine."""

    STRICT = "strict"
    """Namespaces, an allow-list of files, no network, bounds on memory, processes and disk."""
    PROCESS = "process"
    """A process of its own with a scrubbed environment; it can do what the user can do."""


class JailUnavailable(Exception):
    """The level cannot be had here; the message says why, and what to do."""


@dataclass(frozen=True)
class Isolation:
    """What the children of one judge are kept in."""

    level: Level
    jail: Jail | None = None
    """None at level 'process'."""
    bounds: Bounds = field(default_factory=Bounds)

    @property
    def lacked(self) -> tuple[str, ...]:
        """What is not given, in words."""
        if self.jail is None:
            return (
                "filesystem isolation",
                "network isolation",
                "PID namespace",
                "a limit on files",
                "a limit on processes by the system (a watch ends the candidate)",
            )
        if os.geteuid() == 0 and not self.jail.as_root:
            return (
                "a kernel of its own",
                "a limit on processes by the system (a watch ends the candidate)",
            )
        return ("a kernel of its own",)


def isolate(level: Level, bounds: Bounds | None = None) -> Isolation:
    """Raises `JailUnavailable` where 'strict' cannot be had: nothing less is used unasked."""
    if level is Level.PROCESS:
        return Isolation(level, None, bounds or Bounds())
    jail = find_jail()
    if isinstance(jail, str):
        raise JailUnavailable(jail)
    return Isolation(level, jail, bounds or Bounds())
