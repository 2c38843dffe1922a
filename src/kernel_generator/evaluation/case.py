"""Cases: one candidate on one workload, and the record that comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation import sampling

if TYPE_CHECKING:
    import torch
    from flashinfer_bench import Workload

    from kernel_generator.domain.evaluation import WorkloadEvaluation
    from kernel_generator.evaluation.intervals import Ratio
    from kernel_generator.evaluation.judge import Profile
    from kernel_generator.sandbox.arena import Arena
    from kernel_generator.sandbox.device_arena import DeviceArena
    from kernel_generator.sandbox.worker import Worker


@dataclass(frozen=True)
class Subject:
    """A prepared implementation, in a child of its own."""

    name: str
    worker: Worker
    stores: bool
    """True where it returns its values instead of being given its outputs."""
    trusted: bool = True
    non_deterministic: bool = False
    """It says of itself that the same inputs may give other bits."""
    streams: bool = False
    """It uses streams of its own, as far as reading it tells."""
    compiles: bool = True
    """A first call may take as long as `torch.compile` does."""
    timed_draws: sampling.DrawCounter = field(default_factory=sampling.DrawCounter)
    """What a sampler drew in timed calls, of all workloads."""


@dataclass(frozen=True)
class Judged:
    """The record of one workload, with the raw ratios for the mean over workloads."""

    record: WorkloadEvaluation
    ratios: dict[str, Ratio] = field(default_factory=dict[str, "Ratio"])
    """By baseline."""
    lost: dict[str, str] = field(default_factory=dict[str, str])
    """Baselines that could not be timed here, and why."""
    skipped: bool = False
    """True where the workload cannot be run here, whatever the candidate."""
    starved: bool = False
    """True where that is for want of memory or time, which the candidate may have brought about."""


@dataclass
class Errors:
    absolute: float = 0.0
    relative: float = 0.0


@dataclass
class Case:
    """One candidate on one workload."""

    subject: Subject
    workload: Workload
    arena: Arena | DeviceArena
    profile: Profile
    errors: Errors
    found: torch.Tensor
    """The first set's bytes as the last call left them. What comes later is too late."""
    waits_s: list[float] = field(default_factory=list[float])
    """What its calls so far took by the judge's clock."""


def skipped(record: WorkloadEvaluation, reason: str, starved: bool) -> Judged:
    found = record.model_copy(update={"outcome": Outcome.NOT_RUN, "message": reason})
    return Judged(found, skipped=True, starved=starved)


def blamed(judged: Judged) -> Judged:
    """A workload that was starved by the candidate: it can be run without."""
    found = {
        "outcome": Outcome.RESOURCE_LIMIT,
        "message": f"nothing else can be run beside it: {judged.record.message}",
    }
    return Judged(judged.record.model_copy(update=found))


def with_errors(record: WorkloadEvaluation, errors: Errors) -> WorkloadEvaluation:
    return record.model_copy(
        update={
            "max_absolute_error": errors.absolute,
            "max_relative_error": errors.relative,
        }
    )
