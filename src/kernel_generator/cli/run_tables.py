"""Tables of what the store holds: runs, and the attempts of one. Nothing in them is interpreted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from kernel_generator.reporting import figures

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kernel_generator.domain.attempt import Attempt
    from kernel_generator.runs.journal import KnownRun


def runs_table(runs: Iterable[KnownRun]) -> Table:
    """One line a run."""
    table = Table(show_lines=False)
    for name in ("run", "begun", "definition", "model", "attempts", "best", "cost", "state"):
        table.add_column(name, overflow="fold")
    for run in runs:
        best = run.history.best
        table.add_row(
            run.run_id,
            run.began[:19].replace("T", " "),
            escape(run.settings.definition),
            escape(run.settings.model),
            f"{len(run.history.attempts)} of {run.settings.rounds}",
            "-" if best is None else _speedup(best),
            figures.dollars(run.history.cost_usd),
            escape(run.state),
        )
    return table


def history_table(run: KnownRun) -> Table:
    """One line an attempt, with what it was made from and who answered."""
    table = Table(show_lines=False)
    for name in ("attempt", "purpose", "from", "outcome", "speedup", "tokens", "cost", "by"):
        table.add_column(name, overflow="fold")
    for number, attempt in enumerate(run.history.attempts, start=1):
        parent, reply = attempt.proposal.parent, attempt.reply
        best = "  <- best" if attempt is run.history.best else ""
        table.add_row(
            str(number),
            attempt.proposal.purpose.value,
            "-" if parent is None else str(parent + 1),
            f"{attempt.outcome.value}{best}",
            _speedup(attempt),
            "-" if reply is None else figures.tokens(reply.usage),
            "-" if reply is None else figures.dollars(reply.cost_usd),
            "-" if reply is None else escape(reply.model),
        )
    return table


def _speedup(attempt: Attempt) -> str:
    evaluation = attempt.evaluation
    return "-" if evaluation is None else figures.times(evaluation.speedup)
