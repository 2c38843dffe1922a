"""What runs cost and what they gave for it, from their stored replies and verdicts.

A sum of dollars that includes a reply of unknown price is unknown: None, never 0 and never the sum
of the rest. Only what was the best version at its time counts as reached.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kernel_generator.domain.conversation import Finish
from kernel_generator.domain.evaluation import Record
from kernel_generator.search.ranking import best_index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kernel_generator.domain.attempt import Attempt
    from kernel_generator.domain.conversation import Reply
    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.runs.history import History
    from kernel_generator.runs.journal import KnownRun

MARKS = (1.0, 1.2)
"""Speedups over the best baseline that are told with what it took to reach them."""
_REFERENCE = "reference"


class Point(Record):
    """A version that was the best one at its time, and faster than the best ones before it."""

    attempt: int
    """1-based."""
    speedup: float
    """Geometric mean over workloads."""
    baseline: str
    """What the speedup is over."""
    cost_usd: float | None
    """US dollars of all replies up to this attempt's."""
    tokens: int
    """Prompt and completion together, of the same replies, as far as they were reported."""


class Mark(Record):
    """What it took to be so many times as fast as the best baseline."""

    speedup: float
    reached: Point | None
    """The first point at or beyond it; None where there was none."""


class Economy(Record):
    """One run's cost, and what it gave."""

    run: str
    definition: str
    model: str
    replies: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    """Of all replies."""
    passing: int
    """Kernels that passed wherever they were tried."""
    cost_per_passing_usd: float | None
    """`cost_usd` over `passing`; None where either is unknown or nothing passed."""
    over_reference: tuple[Point, ...]
    """The best version's speedup over the reference, a point each time that it rose."""
    over_best_baseline: tuple[Point, ...]
    """The same over the fastest of the reference and the baselines that it was measured beside."""
    marks: tuple[Mark, ...]
    """One for each of `MARKS`."""

    @property
    def solved(self) -> bool:
        """True where a version passed."""
        return self.passing > 0


class CampaignEconomy(Record):
    """Several runs together. A definition may have had several of them."""

    definitions: int
    solved: int
    """Definitions of which a version passed in some run."""
    replies: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    passing: int
    cost_per_passing_usd: float | None
    cost_per_solved_usd: float | None
    """`cost_usd` over `solved`; None where either is unknown or nothing was solved."""
    runs: tuple[Economy, ...]


def economy_of(run: KnownRun) -> Economy:
    """What a run has cost so far and given for it."""
    history = run.history
    replies = [r for r in history.replies if r.finish is not Finish.EXHAUSTED]
    passing = sum(attempt.outcome.is_result for attempt in history.attempts)
    usage, cost_usd = history.usage, _total(reply.cost_usd for reply in replies)
    over_best = _curve(history, best_baseline)
    return Economy(
        run=run.run_id,
        definition=run.settings.definition,
        model=run.settings.model,
        replies=len(replies),
        prompt_tokens=usage.prompt,
        completion_tokens=usage.completion,
        cost_usd=cost_usd,
        passing=passing,
        cost_per_passing_usd=_share(cost_usd, passing),
        over_reference=_curve(history, _reference),
        over_best_baseline=over_best,
        marks=tuple(
            Mark(speedup=mark, reached=next((p for p in over_best if p.speedup >= mark), None))
            for mark in MARKS
        ),
    )


def campaign_economy(runs: Sequence[Economy]) -> CampaignEconomy:
    """The sums of several runs."""
    cost_usd, passing = _total(run.cost_usd for run in runs), sum(run.passing for run in runs)
    solved = len({run.definition for run in runs if run.solved})
    return CampaignEconomy(
        definitions=len({run.definition for run in runs}),
        solved=solved,
        replies=sum(run.replies for run in runs),
        prompt_tokens=sum(run.prompt_tokens for run in runs),
        completion_tokens=sum(run.completion_tokens for run in runs),
        cost_usd=cost_usd,
        passing=passing,
        cost_per_passing_usd=_share(cost_usd, passing),
        cost_per_solved_usd=_share(cost_usd, solved),
        runs=tuple(runs),
    )


def best_baseline(evaluation: Evaluation) -> tuple[str, float] | None:
    """The baseline that a kernel was least faster than, and how much; None where nothing was
    measured."""
    ratios = {name: interval.value for name, interval in evaluation.baselines.items()}
    if evaluation.speedup is not None:
        ratios.setdefault(_REFERENCE, evaluation.speedup.value)
    known = {name: ratio for name, ratio in ratios.items() if math.isfinite(ratio)}
    return min(known.items(), key=lambda item: item[1]) if known else None


def _reference(evaluation: Evaluation) -> tuple[str, float] | None:
    speedup = evaluation.speedup
    if speedup is None or not math.isfinite(speedup.value):
        return None
    return _REFERENCE, speedup.value


def _curve(
    history: History, figure: Callable[[Evaluation], tuple[str, float] | None]
) -> tuple[Point, ...]:
    """Attempts after which the best version's figure was higher than ever before."""
    points: list[Point] = []
    attempts = history.attempts
    for number, attempt in enumerate(attempts, start=1):
        if attempt.evaluation is None or best_index(attempts[:number]) != number - 1:
            continue
        found = figure(attempt.evaluation)
        if found is None or (points and found[1] <= points[-1].speedup):
            continue
        replies = _replies(attempts[:number])
        points.append(
            Point(
                attempt=number,
                speedup=found[1],
                baseline=found[0],
                cost_usd=_total(reply.cost_usd for reply in replies),
                tokens=sum(r.usage.prompt + r.usage.completion for r in replies if r.usage),
            )
        )
    return tuple(points)


def _replies(attempts: Iterable[Attempt]) -> list[Reply]:
    return [a.reply for a in attempts if a.reply is not None]


def _total(costs: Iterable[float | None]) -> float | None:
    """The sum; None where a part of it is unknown."""
    total = 0.0
    for cost in costs:
        if cost is None:
            return None
        total += cost
    return total


def _share(cost_usd: float | None, count: int) -> float | None:
    return None if cost_usd is None or not count else cost_usd / count
