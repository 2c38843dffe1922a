"""`kernel-generator optimize`: the main job over one or all definitions of a trace set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kernel_generator.cli.console import warn_of
from kernel_generator.cli.options import (
    BaseUrlOption,
    BatchOption,
    DefinitionsOption,
    DialectOption,
    EffortOption,
    EstimateOption,
    EvaluatorsOption,
    IsolationOption,
    JobsOption,
    JsonEventsOption,
    JsonOption,
    LanguageOption,
    MaxDeviceMinutesOption,
    MaxMinutesOption,
    MaxTokensOption,
    MaxUsdOption,
    ModelOption,
    PriceOption,
    StoreOption,
    TargetOption,
    TraceSetsArgument,
    at_store,
)

if TYPE_CHECKING:
    from pathlib import Path

    from flashinfer_bench import TraceSet


def optimize(
    tracesets: TraceSetsArgument,
    definitions: DefinitionsOption = None,
    model: ModelOption = None,
    language: LanguageOption = None,
    target: TargetOption = None,
    rounds: Annotated[
        int, typer.Option("--rounds", "-r", help="Most versions asked for per definition.")
    ] = 5,
    keep_improving: Annotated[
        bool,
        typer.Option(
            "--keep-improving", help="Use all rounds and save the best version, not the first."
        ),
    ] = False,
    target_speedup: Annotated[
        float | None,
        typer.Option(
            "--target-speedup",
            metavar="X",
            help="Go on until a version is this many times as fast as the reference.",
            show_default=False,
        ),
    ] = None,
    base_url: BaseUrlOption = None,
    dialect: DialectOption = None,
    reasoning_effort: EffortOption = None,
    isolation: IsolationOption = "strict",
    jobs: JobsOption = None,
    evaluators: EvaluatorsOption = None,
    max_usd: MaxUsdOption = None,
    max_tokens: MaxTokensOption = None,
    max_minutes: MaxMinutesOption = None,
    max_device_minutes: MaxDeviceMinutesOption = None,
    price: PriceOption = None,
    batch: BatchOption = False,
    store: StoreOption = None,
    estimate: EstimateOption = False,
    as_json: JsonOption = False,
    json_events: JsonEventsOption = False,
) -> int:
    """Ask, judge, tell the model what was wrong, and save what passes."""
    from kernel_generator.cli.batch import Batching
    from kernel_generator.cli.budgets import budget_of, price_of
    from kernel_generator.cli.campaign import Campaign, Job
    from kernel_generator.cli.outputs import Outputs
    from kernel_generator.domain.errors import InvalidInput
    from kernel_generator.generator import KernelGenerator
    from kernel_generator.runs.database import default_path
    from kernel_generator.runs.defaults import judge_of
    from kernel_generator.runs.goal import Goal, check_goal
    from kernel_generator.runs.saving import writable_root
    from kernel_generator.runs.spending import Spending
    from kernel_generator.runs.store import Store

    outputs = Outputs(as_json, json_events)
    chosen = _chosen(tracesets, definitions)
    if not chosen:
        at = ", ".join(f"'{path}'" for path in tracesets)
        raise InvalidInput(f"the trace set at {at} has no readable definition")
    goal = check_goal(Goal(rounds, keep_improving, target_speedup))
    budget = budget_of(max_usd, max_tokens, max_minutes, max_device_minutes)
    stated, kept = price_of(price), store or default_path()
    if estimate:
        from kernel_generator.cli.estimate import Wanted, tell_estimate

        if json_events:
            raise InvalidInput("--estimate has no events to tell: leave --json-events out")
        asking = (model, language, target, base_url, reasoning_effort, goal, stated, max_usd)
        return tell_estimate(chosen, Wanted(*asking, batch, store=kept), as_json)
    for traceset, _ in chosen:
        writable_root(traceset)
    hint = at_store(store)
    with outputs:
        progress, observer = outputs.progress, outputs.observer
        batching = Batching(Store(store), base_url, progress, observer, hint) if batch else None
        spending = Spending(budget, stated)
        judge = judge_of(target, isolation, evaluators=evaluators)
        generators = [
            KernelGenerator(
                model,
                language,
                target,
                base_url=base_url,
                reasoning_effort=reasoning_effort,
                dialect=dialect,
                on_event=observer,
                isolation=isolation,
                store=kept,
                budget=spending,
                judge=judge,
                batch=batch,
            )
            for _ in chosen
        ]
        judge.check()
        if batching is not None:
            batching.begin(model, dialect, reasoning_effort)
        work = [
            Job(generator, traceset, name, goal)
            for generator, (traceset, names) in zip(generators, chosen, strict=True)
            for name in names
        ]
        campaign = Campaign(work, progress, jobs or generators[0].at_once, hint)
        code = campaign.work()
        if batching is not None:
            code = batching.end(code, spending)
        outputs.conclude(campaign.rows, len(work), kept, code)
        return code


def _chosen(paths: list[Path], definitions: list[str] | None) -> list[tuple[TraceSet, list[str]]]:
    """The trace sets, each with the names of what is to be worked on there. Raises `InvalidInput`
    where a name is in none of them."""
    from kernel_generator.runs.tracesets import definition_of, load_traceset

    loaded: list[TraceSet] = []
    for path in {path.absolute(): path for path in paths}.values():
        traceset, problems = load_traceset(path)
        warn_of(problems)
        loaded.append(traceset)
    if not definitions:
        chosen = [(one, sorted(one.definitions)) for one in loaded]
    else:
        names = dict.fromkeys(definitions)
        known = {name for one in loaded for name in one.definitions}
        for name in names:
            if name not in known:
                definition_of(loaded[0], name)
        chosen = [(one, [name for name in names if name in one.definitions]) for one in loaded]
    return [(one, names) for one, names in chosen if names]
