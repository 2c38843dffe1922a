"""What happens in a run, as records. Everything a person sees is derived from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kernel_generator.domain.attempt import Attempt
    from kernel_generator.domain.conversation import Reply
    from kernel_generator.domain.proposal import Proposal


@dataclass(frozen=True)
class RunStarted:
    """A task is about to be worked on."""

    run_id: str
    definition: str
    model: str
    language: str
    target: str
    rounds: int
    searched: int
    held_out: int


@dataclass(frozen=True)
class SamplingStarted:
    """Independent solutions are about to be asked for; none of them is evaluated."""

    run_id: str
    definition: str
    model: str
    language: str
    target: str
    samples: int


@dataclass(frozen=True)
class Notice:
    """Something a person should know before believing or paying; changes nothing."""

    text: str
    run_id: str = ""
    """Empty where it is of no run in particular."""


@dataclass(frozen=True)
class Asked:
    """A request is under way."""

    run_id: str
    proposal: Proposal


@dataclass(frozen=True)
class Replied:
    """The model answered."""

    run_id: str
    proposal: Proposal
    reply: Reply


@dataclass(frozen=True)
class Evaluating:
    """The judge has a candidate."""

    run_id: str
    proposal: Proposal
    solution: str


@dataclass(frozen=True)
class Attempted:
    """An attempt is complete."""

    run_id: str
    attempt: Attempt
    is_best: bool


@dataclass(frozen=True)
class SampleRead:
    """An independent sample's reply holds a solution."""

    run_id: str
    proposal: Proposal
    reply: Reply
    solution: str
    """The solution's name."""


@dataclass(frozen=True)
class RunFinished:
    """The run ended, or stopped for now; `reason` says why."""

    run_id: str
    reason: str
    best: Attempt | None


@dataclass(frozen=True)
class Saved:
    """A result was written into the trace set."""

    run_id: str
    path: Path
    name: str


Event: TypeAlias = (
    RunStarted
    | SamplingStarted
    | Notice
    | Asked
    | Replied
    | Evaluating
    | Attempted
    | SampleRead
    | RunFinished
    | Saved
)
Observer: TypeAlias = "Callable[[Event], None]"
"""Sees every event; cannot change anything."""
