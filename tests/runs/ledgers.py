"""Runs whose costs and figures are known beforehand, as records and in a store."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kernel_generator.domain.conversation import Finish, Reply, Usage
from kernel_generator.domain.outcome import Outcome
from kernel_generator.runs.history import History, Steps
from kernel_generator.runs.journal import Journal, KnownRun
from kernel_generator.runs.settings import RunSettings
from tests.runs.sets import an_attempt, exactly

if TYPE_CHECKING:
    from kernel_generator.domain.attempt import Attempt
    from kernel_generator.runs.store import Store


def a_try(
    outcome: Outcome = Outcome.PASSED,
    cost: float | None = 0.5,
    *,
    speedup: float = 2.0,
    promoted: bool | None = None,
    tokens: int = 100,
    **baselines: float,
) -> Attempt:
    """An attempt that was paid for; its round is set by `a_run`."""
    made = an_attempt(outcome, speedup=speedup, promoted=promoted)
    reply = Reply("", Finish.COMPLETE, "a-model", Usage(tokens, 0, 20), cost)
    evaluation = made.evaluation
    if evaluation is not None and evaluation.speedup is not None:
        beside = {"reference": exactly(speedup)}
        beside |= {name.replace("_", "."): exactly(ratio) for name, ratio in baselines.items()}
        evaluation = evaluation.model_copy(update={"baselines": beside})
    return replace(made, reply=reply, evaluation=evaluation)


def a_run(*attempts: Attempt, definition: str = "scale_add", run_id: str = "r1") -> KnownRun:
    """A run of these attempts, in this order."""
    settings = RunSettings(
        definition=definition,
        traceset=None,
        model="a-model",
        language="python",
        target="CPU",
        rounds=9,
        strategy="refine",
        isolation="strict",
        program="1",
    )
    numbered = [
        replace(_of(definition, attempt), proposal=replace(attempt.proposal, round=number))
        for number, attempt in enumerate(attempts, start=1)
    ]
    steps = {(a.proposal.round, 0): Steps(a.reply, None, a.evaluation) for a in numbered}
    return KnownRun(run_id, "2026-01-01", settings, History(attempts=numbered, steps=steps))


def _of(definition: str, attempt: Attempt) -> Attempt:
    if attempt.candidate is None:
        return attempt
    mine = attempt.candidate.solution.model_copy(update={"definition": definition})
    return replace(attempt, candidate=replace(attempt.candidate, solution=mine))


def kept(store: Store, run: KnownRun) -> str:
    """The id under which a run is in a store, noted step by step."""
    journal = Journal.begin(store, run.settings)
    for attempt in run.history.attempts:
        if attempt.reply is not None:
            journal.replied(attempt.proposal, attempt.reply)
        if attempt.candidate is not None and attempt.evaluation is not None:
            journal.proposed(attempt.proposal, attempt.candidate.solution)
            journal.judged(attempt.proposal, attempt.evaluation)
        journal.attempted(attempt)
    return journal.run_id
