"""What runs cost and gave, in words: for `show`, and at the end of `optimize` and `resume`.

What is unknown is said to be unknown; of what was free and took no tokens, little is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_generator.reporting import figures

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from kernel_generator.runs.economy import CampaignEconomy, Economy, Mark, Point


def economy_of_runs(store: Path, run_ids: Iterable[str]) -> CampaignEconomy | None:
    """Of these runs from their beginning, earlier commands included. None where there are none, or
    the store cannot be read any more."""
    from kernel_generator.domain.errors import InvalidInput
    from kernel_generator.runs.economy import campaign_economy, economy_of
    from kernel_generator.runs.journal import known_run
    from kernel_generator.runs.store import Store

    distinct = list(dict.fromkeys(run_ids))
    if not distinct:
        return None
    try:
        kept = Store(store)
        return campaign_economy([economy_of(known_run(kept, run_id)) for run_id in distinct])
    except InvalidInput:
        # Whatever stopped the runs was told; the statistics that need no store still are.
        return None


def summary_lines(economy: CampaignEconomy | None) -> list[str]:
    """What a command's runs cost for what they gave."""
    if economy is None:
        return []
    first = f"cost per passing kernel: {_each(economy.cost_per_passing_usd, economy.passing)}"
    if economy.definitions > 1:
        first += f"; per solved definition: {_each(economy.cost_per_solved_usd, economy.solved)}"
    marks = [
        f"{run.definition} (run {run.run}): {told}" for run in economy.runs if (told := _marks(run))
    ]
    is_free = economy.cost_usd == 0.0 and not economy.prompt_tokens + economy.completion_tokens
    return [first] if is_free else [first, *marks]


def run_lines(economy: Economy) -> list[str]:
    """What one run cost for what it gave, its curves included."""
    found = [
        f"cost per passing kernel: {_each(economy.cost_per_passing_usd, economy.passing)}; "
        f"{economy.passing} of {economy.replies} replies passed",
        _marks(economy),
        _curve("best speedup over the reference", economy.over_reference, named=False),
        _curve("best speedup over the best baseline", economy.over_best_baseline, named=True),
    ]
    return [line for line in found if line]


def _each(usd: float | None, count: int) -> str:
    return figures.dollars(usd) if count else "nothing passed"


def _marks(economy: Economy) -> str:
    """'' where nothing was measured."""
    if not economy.over_best_baseline:
        return ""
    return "; ".join(_mark(mark) for mark in economy.marks)


def _mark(mark: Mark) -> str:
    head = f"{mark.speedup:.1f}x the best baseline"
    if mark.reached is None:
        return f"{head} not reached"
    return f"{head} ({mark.reached.baseline}) reached after {_spent(mark.reached)}"


def _curve(head: str, points: tuple[Point, ...], *, named: bool) -> str:
    """'' where nothing was measured."""
    told = [
        f"{point.speedup:.2f}x{f' {point.baseline}' if named else ''} after {_spent(point)} "
        f"(attempt {point.attempt})"
        for point in points
    ]
    return f"{head}: {', '.join(told)}" if told else ""


def _spent(point: Point) -> str:
    if point.cost_usd is None and not point.tokens:
        return "cost and tokens that nobody told"
    if point.cost_usd is None:
        return f"{point.tokens:,} tokens, cost unknown"
    return f"{figures.dollars(point.cost_usd)} and {point.tokens:,} tokens"
