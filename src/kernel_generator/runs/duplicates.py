"""Whether a candidate was judged before: by its content, whatever it is called.

Within a run the same source keeps its verdict. Across the runs of a store it does where the rules,
the device and what it is judged on are the same too; what came from another store never counts.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from kernel_generator.domain.outcome import Outcome
from kernel_generator.domain.version import VERSION
from kernel_generator.runs.contents import contents
from kernel_generator.runs.settings import fingerprints

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashinfer_bench import Solution

    from kernel_generator.domain.attempt import Attempt
    from kernel_generator.domain.evaluation import Device, Evaluation
    from kernel_generator.domain.task import Task
    from kernel_generator.runs.journal import Journal

_PASSING = (
    Outcome.NOT_RUN,
    Outcome.BUILT_NOT_RUN,
    Outcome.TIMEOUT,
    Outcome.RESOURCE_LIMIT,
    Outcome.TIMING_UNTRUSTED,
)
"""Verdicts in which the machine's state may have had a part: another try may end otherwise."""


def content_key(solution: Solution) -> str:
    """The hash of all that is built and run, and of how it is called."""
    spec = solution.spec
    about = {
        "language": spec.language.value,
        "entry_point": spec.entry_point,
        "dependencies": sorted(spec.dependencies),
        "destination_passing_style": spec.destination_passing_style,
        "binding": None if spec.binding is None else str(spec.binding),
        "sources": sorted((source.path, source.content) for source in solution.sources),
    }
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def judged_on(task: Task) -> dict[str, str] | None:
    """Hashes of the definition, the workloads and their captured inputs. None where a file is too
    large to be read whole: a change in it might not be seen."""
    files = contents(task)
    if any(content.ends and not content.whole for content in files.values()):
        return None
    return fingerprints(task) | {path: content.whole for path, content in files.items()}


def subject(
    solution: Solution, judged_on: Mapping[str, str] | None, target: str, isolation: str
) -> str:
    """What a verdict is about: a candidate, what it was judged on, and by which rules. Empty where
    what it was judged on is not known."""
    if judged_on is None:
        return ""
    about = [content_key(solution), sorted(judged_on.items()), target, isolation, VERSION]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def same_as(attempts: Sequence[Attempt], solution: Solution) -> int | None:
    """Index of the attempt whose verdict holds for this source too; None where none does."""
    key = content_key(solution)
    for index, attempt in enumerate(attempts):
        if attempt.candidate is None or attempt.evaluation is None:
            continue
        if attempt.outcome in _PASSING or attempt.duplicate_of is not None:
            continue
        if content_key(attempt.candidate.solution) == key:
            return index
    return None


def repeated(attempt: Attempt) -> Evaluation:
    """Its verdict, for the same source asked for again: that cannot be better than itself."""
    assert attempt.evaluation is not None
    told = f"the same source as in round {attempt.proposal.round}, which was judged before"
    return attempt.evaluation.model_copy(
        update={"promoted": False, "reused": told, "seconds": 0.0, "log": ""}
    )


def judged_elsewhere(
    journal: Journal, about: str, device: Device | None, has_best: bool
) -> Evaluation | None:
    """The verdict of another run of the store on the same device; None where there is none that
    holds here. With a best version it would have to be timed beside that one: only a failure holds.
    """
    if device is None or not about:
        return None
    for run_id, found in journal.verdicts(about):
        if found.device != device or found.outcome in _PASSING:
            continue
        if found.outcome.is_result and (has_best or not found.certified):
            continue
        told = f"the same source was judged in run {run_id}, on this device and by these rules"
        update = {"promoted": None, "reused": told, "seconds": 0.0}
        return found.model_copy(update=update)
    return None
