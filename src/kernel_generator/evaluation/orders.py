"""What is asked of a judge that works in another process, and what it answers.

Plain records that can be pickled: both ends are this program, in the same version. Imports nothing
heavy, so that a process can be told what to do before it loads what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from flashinfer_bench import Solution

    from kernel_generator.domain.errors import KernelGeneratorError
    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.judge import Opened, Profile


@dataclass(frozen=True)
class Prepare:
    """Open a session and prepare it; answered with its `Opened`."""

    session: str
    """A name that whoever asks has chosen and that nobody else has."""
    task: Task
    captured: tuple[str, ...] = ()
    """Files of captured inputs, as the workloads name them, that the task's owner has."""


@dataclass(frozen=True)
class Evaluate:
    """Judge one solution in a session that is prepared; answered with its `Evaluation`."""

    session: str
    solution: Solution
    profile: Profile


@dataclass(frozen=True)
class Close:
    """End a session, whatever it is doing or about to do; answered with None."""

    session: str


@dataclass(frozen=True)
class Room:
    """Whether another session fits beside those that are open; answered with a boolean."""


@dataclass(frozen=True)
class Refused:
    """The judge raised an error of this package, which is to be raised again as it is."""

    error: KernelGeneratorError


@dataclass(frozen=True)
class Broken:
    """The judge itself is at fault."""

    trace: str
    """Where, as Python tells it."""


Order: TypeAlias = Prepare | Evaluate | Close | Room
Answer: TypeAlias = "Opened | Evaluation | Refused | Broken | bool | None"
