"""`kernel-generator resume`: runs go on where they were stopped."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kernel_generator.cli.console import warn_of
from kernel_generator.cli.exits import Exit
from kernel_generator.cli.options import (
    BaseUrlOption,
    EvaluatorsOption,
    JobsOption,
    JsonEventsOption,
    JsonOption,
    MaxDeviceMinutesOption,
    MaxMinutesOption,
    MaxTokensOption,
    MaxUsdOption,
    PriceOption,
    StoreOption,
    at_store,
)

if TYPE_CHECKING:
    from flashinfer_bench import TraceSet

    from kernel_generator.cli.campaign import Job
    from kernel_generator.domain.budget import Price
    from kernel_generator.domain.events import Observer
    from kernel_generator.generator import DevicePool
    from kernel_generator.reporting.progress import Progress
    from kernel_generator.reporting.tables import Row
    from kernel_generator.runs.journal import KnownRun
    from kernel_generator.runs.settings import RunSettings
    from kernel_generator.runs.spending import Spending
    from kernel_generator.runs.store import Store

_WORST_LAST = (Exit.SOLVED, Exit.UNSOLVED, Exit.PROVIDER, Exit.FAULT, Exit.INTERRUPTED)


def resume(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="The run's id, as `runs` lists it."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All runs that have not ended, oldest first.")
    ] = False,
    base_url: BaseUrlOption = None,
    traceset: Annotated[
        Path | None,
        typer.Option(
            "--traceset",
            metavar="DIR",
            help="Where the run's trace set is now, if it was moved.",
            show_default=False,
        ),
    ] = None,
    max_usd: MaxUsdOption = None,
    max_tokens: MaxTokensOption = None,
    max_minutes: MaxMinutesOption = None,
    max_device_minutes: MaxDeviceMinutesOption = None,
    price: PriceOption = None,
    jobs: JobsOption = None,
    evaluators: EvaluatorsOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
    json_events: JsonEventsOption = False,
) -> int:
    """Go on with runs that were stopped: no stored reply is asked for again."""
    from kernel_generator.cli.batch import Batching
    from kernel_generator.cli.budgets import budget_of, price_of
    from kernel_generator.cli.campaign import Campaign, Job
    from kernel_generator.cli.outputs import Outputs
    from kernel_generator.domain.errors import InvalidInput, KernelGeneratorError
    from kernel_generator.reporting.tables import Row
    from kernel_generator.runs.journal import known_run, known_runs
    from kernel_generator.runs.spending import Spending
    from kernel_generator.runs.store import Store

    if (run is None) is not every:
        raise InvalidInput("name a run, or give --all")
    outputs = Outputs(as_json, json_events)
    spending = Spending(
        budget_of(max_usd, max_tokens, max_minutes, max_device_minutes), price_of(price)
    )
    kept = Store(store)
    progress, observer = outputs.progress, outputs.observer
    if run is not None:
        chosen = [known_run(kept, run)]
    else:
        found, problems = known_runs(kept)
        chosen = [one for one in found if not one.is_over]
        for problem in problems:
            progress.line(f"error: {problem}")
    means = _Means(kept, base_url, traceset, spending, progress, observer, evaluators)
    with outputs:
        batching = Batching(kept, base_url, progress, observer, hint := at_store(store))
        means.noted.update(_noted(chosen, means, price_of(price)))
        shares = _shares(chosen, means)
        taken = [batching.take_in(those, share, run is not None) for share, those in shares]
        parts: list[Row | Job] = []
        for one in chosen:
            try:
                parts.append(_part(known_run(kept, one.run_id), means))
            except KernelGeneratorError as error:
                if run is not None:
                    raise
                progress.line(f"run {one.run_id}: error: {error}")
                parts.append(Row(one.settings.definition, "", "FAILED", message=str(error)))
        work = [part for part in parts if isinstance(part, Job)]
        at_once = max((job.generator.at_once for job in work), default=1)
        campaign = Campaign(work, progress, jobs or at_once, hint)
        code = campaign.work() if work else Exit.SOLVED
        rows = [part for part in parts if isinstance(part, Row)] + campaign.rows
        if not all(row.solved for row in rows):
            code = max(code, Exit.UNSOLVED, key=_WORST_LAST.index)
        if code is not Exit.INTERRUPTED:
            handed_in = (batching.submit(those, share) for share, those in shares)
            code = max([code, *taken, *handed_in], key=_WORST_LAST.index)
        if not chosen:
            progress.line("no run waits to go on")
        outputs.conclude(rows, len(chosen), kept.path, code)
        return code


@dataclass(frozen=True)
class _Means:
    """What runs go on with."""

    store: Store
    base_url: str | None
    traceset: Path | None
    """Where it was moved to, if it was."""
    spending: Spending
    """Of this command, for all runs that have none in `noted`."""
    progress: Progress
    observer: Observer
    """Who is told of events, the progress among them."""
    evaluators: str | None = None
    judges: dict[tuple[str, str], DevicePool] = field(
        default_factory=dict[tuple[str, str], "DevicePool"]
    )
    """By target and isolation: runs share them."""
    noted: dict[str, Spending] = field(default_factory=dict[str, "Spending"])
    """What is left of the budgets that runs were begun with, by `Allowance.command`."""

    def spending_of(self, settings: RunSettings) -> Spending:
        """What a run with these settings spends from."""
        command = "" if settings.allowance is None else settings.allowance.command
        return self.noted.get(command, self.spending)

    def judge(self, settings: RunSettings) -> DevicePool:
        """Who judges a run with these settings."""
        from kernel_generator.runs.defaults import judge_of

        key = settings.target, settings.isolation
        if key not in self.judges:
            self.judges[key] = judge_of(*key, evaluators=self.evaluators)
        return self.judges[key]


def _noted(chosen: list[KnownRun], means: _Means, price: Price | None) -> dict[str, Spending]:
    """See `_Means.noted`; tells of each. None where this command has limits of its own."""
    from kernel_generator.runs.journal import known_runs
    from kernel_generator.runs.spending import Spending

    if means.spending.allowance is not None:
        return {}
    wanted = [one.settings.allowance for one in chosen if one.history.reason is None]
    allowances = {one.command: one for one in wanted if one is not None}
    known = known_runs(means.store)[0] if allowances else []
    found = {key: Spending.going_on(one, known, price) for key, one in allowances.items()}
    for spending in found.values():
        means.progress.line(
            f"the budget goes on that was given when runs were begun: {spending.told}; "
            "with --max-usd and the like this command has a budget of its own instead"
        )
    return found


def _shares(chosen: list[KnownRun], means: _Means) -> list[tuple[Spending, list[str]]]:
    """The ids of runs by what they spend from."""
    found: dict[int, tuple[Spending, list[str]]] = {}
    for one in chosen:
        spending = means.spending_of(one.settings)
        found.setdefault(id(spending), (spending, []))[1].append(one.run_id)
    return list(found.values())


def _part(run: KnownRun, means: _Means) -> Row | Job:
    """A line of the closing table where the run has ended, what has to be done where it has not.
    Raises `InvalidInput` where its trace set or its model is gone, and what saving raises."""
    from kernel_generator.reporting.tables import Row
    from kernel_generator.runs.results import save_result

    definition, best = run.settings.definition, run.history.best
    # What another machine saved is not here.
    if run.is_over and (best is None or Path(run.history.saved or "").is_file()):
        means.progress.line(f"run {run.run_id} has ended: {run.state}")
        if best is None:
            return Row(definition, "", "FAILED", message=run.state)
        saved = run.history.saved
    elif run.history.reason is not None and (best is None or not run.history.is_elsewheres(best)):
        saved = str(save_result(run, means.store, _traceset(run, means.traceset)))
        means.progress.line(f"  saved {saved}")
    else:
        return _job(run, means)
    evaluation = best.evaluation if best is not None else None
    outcome = best.outcome.value if best is not None else ""
    return Row(definition, "", outcome, evaluation=evaluation, file=saved)


def _traceset(run: KnownRun, moved: Path | None) -> TraceSet:
    """Where it was begun, or where that was moved to. Raises `InvalidInput`."""
    from kernel_generator.domain.errors import InvalidInput, TraceSetError
    from kernel_generator.runs.saving import writable_root
    from kernel_generator.runs.tracesets import definition_of, load_traceset

    path = moved or run.settings.traceset
    if path is None:
        raise InvalidInput(f"run {run.run_id} was begun on a trace set that was never on disk")
    try:
        traceset, problems = load_traceset(path)
    except TraceSetError as error:
        raise InvalidInput(f"{error}; where it was moved, say so with --traceset DIR") from error
    warn_of(problems)
    definition_of(traceset, run.settings.definition)
    writable_root(traceset)
    return traceset


def _job(run: KnownRun, means: _Means) -> Job:
    """What moves a run forward. Raises `InvalidInput` where its trace set or model is gone."""
    from kernel_generator.cli.campaign import Job
    from kernel_generator.generator import KernelGenerator

    settings, traceset = run.settings, _traceset(run, means.traceset)
    judge = means.judge(settings)
    judge.check()
    generator = KernelGenerator(
        settings.model,
        settings.language,
        settings.target,
        base_url=means.base_url,
        reasoning_effort=settings.reasoning_effort,
        dialect=settings.dialect,
        on_event=means.observer,
        isolation=settings.isolation,
        store=means.store,
        budget=means.spending_of(settings),
        judge=judge,
        # Nothing is asked for a run that has ended, so no key is needed.
        batch=settings.batch or run.history.reason is not None,
    )
    return Job(generator, traceset, settings.definition, settings.goal, run.run_id)
