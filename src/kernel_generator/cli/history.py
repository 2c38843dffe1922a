"""`kernel-generator runs` and `show`: what the store holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernel_generator.cli.console import plain, print_json, to_people, to_stderr
from kernel_generator.cli.options import JsonOption, StoreOption

if TYPE_CHECKING:
    from kernel_generator.runs.journal import KnownRun


def runs(
    delete: Annotated[
        str | None,
        typer.Option(
            "--delete",
            metavar="RUN",
            help="Forget this run first. What it saved into a trace set stays.",
            show_default=False,
        ),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the runs that are kept, oldest first."""
    from kernel_generator.cli.run_tables import runs_table
    from kernel_generator.runs.journal import known_runs
    from kernel_generator.runs.store import Store

    kept = Store(store)
    if delete is not None:
        kept.delete(delete)
    found, problems = known_runs(kept)
    for problem in problems:
        to_stderr().print(f"error: {problem}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print_json({"store": str(kept.path), "runs": [_summary(run) for run in found]})
        return
    console = to_people()
    console.print(runs_table(found))
    console.print(f"{len(found)} in {kept.path}", markup=False, highlight=False, soft_wrap=True)


def show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's id, as `runs` lists it.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a run's attempts: what each was made from, what became of it, what it cost and gave."""
    from kernel_generator.cli.economy import run_lines
    from kernel_generator.cli.run_tables import history_table
    from kernel_generator.runs.economy import economy_of
    from kernel_generator.runs.journal import known_run
    from kernel_generator.runs.store import Store

    found = known_run(Store(store), run)
    economy = economy_of(found)
    if as_json:
        attempts = [
            {
                "round": attempt.proposal.round,
                "purpose": attempt.proposal.purpose.value,
                "parent": attempt.proposal.parent,
                "outcome": attempt.outcome.value,
                "message": attempt.message,
                "solution": attempt.candidate.solution.name if attempt.candidate else None,
                "answered_by": attempt.reply.model if attempt.reply else None,
                "cost_usd": attempt.reply.cost_usd if attempt.reply else None,
                "evaluation": plain(attempt.evaluation) if attempt.evaluation else None,
            }
            for attempt in found.history.attempts
        ]
        print_json({**_summary(found), "economy": plain(economy), "attempts": attempts})
        return
    console = to_people()
    for line in (
        f"run {found.run_id}, begun {found.began}: {found.settings.definition}",
        f"{found.settings.model} writes {found.settings.language} for {found.settings.target}; "
        f"{found.settings.rounds} rounds, '{found.settings.strategy}'",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(history_table(found))
    replies = len(found.history.replies)
    for line in (
        f"{found.state}; {found.history.asked} requests noted, {replies} replies",
        *run_lines(economy),
        f"saved {found.history.saved}" if found.history.saved else "nothing was saved",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _summary(run: KnownRun) -> dict[str, Any]:
    best = run.history.best
    evaluation = best.evaluation if best is not None else None
    interval = evaluation.speedup if evaluation is not None else None
    return {
        "run": run.run_id,
        "began": run.began,
        "definition": run.settings.definition,
        "model": run.settings.model,
        "language": run.settings.language,
        "target": run.settings.target,
        "state": run.state,
        "over": run.is_over,
        "rounds": run.settings.rounds,
        "made": len(run.history.attempts),
        "speedup": plain(interval) if interval is not None else None,
        "cost_usd": run.history.cost_usd,
        "saved": run.history.saved,
    }
