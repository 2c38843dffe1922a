"""What happens in a run, as records. Everything a person sees is derived from them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
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
    recalled: bool = False
    """True where it was made before the run went on, and is told again."""


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
    """The run ended; `reason` says why. It does not go on."""

    run_id: str
    reason: str
    best: Attempt | None


class StopKind(StrEnum):
    """What sort of thing stopped a run."""

    PROVIDER = "provider"
    """The model was not to be had, or gave up."""
    BUDGET = "budget"
    PENDING = "pending"
    """The model is asked elsewhere, and its reply is not here yet."""
    DEVICE = "device"
    """The device, or the sandbox, failed."""
    STORE = "store"
    """A step could not be noted."""
    INPUT = "input"
    """The definition cannot be worked on here."""
    INTERRUPTED = "interrupted"
    FAULT = "fault"
    """This program's own."""


@dataclass(frozen=True)
class RunStopped:
    """The run stopped before its end; most may go on later."""

    run_id: str
    reason: str
    kind: StopKind
    best: Attempt | None = None
    """What had passed, where the run gives that back; None where it ends with an error."""


@dataclass(frozen=True)
class CampaignEnded:
    """A command is through with its definitions: the last event, with its statistics."""

    total: int
    """Definitions that it was about."""
    processed: int
    successful: int
    waiting: int
    """Those whose model is asked elsewhere and has not answered."""
    failed: int
    success_rate: float
    """Per cent of those processed."""
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    """Of this command; None where one reply's price is unknown."""
    exit_code: int


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
    | RunStopped
    | CampaignEnded
    | Saved
)
Observer: TypeAlias = "Callable[[Event], None]"
"""Sees every event; cannot change anything."""
