"""`kernel-generator optimize`: the main job over one or all definitions of a trace set."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernel_generator.cli.console import plain, print_json, to_people, to_stderr, warn_of
from kernel_generator.cli.options import (
    BaseUrlOption,
    DefinitionsOption,
    DialectOption,
    EffortOption,
    IsolationOption,
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
    TraceSetArgument,
)

if TYPE_CHECKING:
    from kernel_generator.domain.events import Observer
    from kernel_generator.reporting.progress import Progress
    from kernel_generator.reporting.tables import Row


def optimize(
    traceset: TraceSetArgument,
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
    max_usd: MaxUsdOption = None,
    max_tokens: MaxTokensOption = None,
    max_minutes: MaxMinutesOption = None,
    max_device_minutes: MaxDeviceMinutesOption = None,
    price: PriceOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
    json_events: JsonEventsOption = False,
) -> int:
    """Ask, judge, tell the model what was wrong, and save what passes."""
    from kernel_generator.cli.budgets import budget_of, price_of
    from kernel_generator.cli.campaign import Campaign
    from kernel_generator.domain.errors import InvalidInput
    from kernel_generator.generator import KernelGenerator, check_goal, writable_root
    from kernel_generator.reporting.progress import Progress
    from kernel_generator.runs.goal import Goal
    from kernel_generator.runs.store import default_path
    from kernel_generator.runs.tracesets import definition_of, load_traceset

    check_outputs(as_json, json_events)
    loaded, problems = load_traceset(traceset)
    warn_of(problems)
    names = list(dict.fromkeys(definitions)) if definitions else sorted(loaded.definitions)
    for name in names:
        definition_of(loaded, name)
    if not names:
        raise InvalidInput(f"the trace set at '{traceset}' has no readable definition")
    goal = check_goal(Goal(rounds, keep_improving, target_speedup))
    writable_root(loaded)
    progress = Progress(to_stderr())
    generator = KernelGenerator(
        model,
        language,
        target,
        base_url=base_url,
        reasoning_effort=reasoning_effort,
        dialect=dialect,
        on_event=observer_of(progress, json_events),
        isolation=isolation,
        store=store or default_path(),
        budget=budget_of(max_usd, max_tokens, max_minutes, max_device_minutes),
        price=price_of(price),
    )
    generator.check_isolation()
    campaign = Campaign(generator, loaded, goal, progress)
    code = campaign.work(names)
    conclude(campaign.rows, progress, len(names), as_json, json_events)
    return code


def check_outputs(as_json: bool, json_events: bool) -> None:
    """Raises `InvalidInput` where stdout is wanted for two things."""
    from kernel_generator.domain.errors import InvalidInput

    if as_json and json_events:
        raise InvalidInput("--json prints one document and --json-events lines: choose one")


def observer_of(progress: Progress, json_events: bool) -> Observer:
    """Who is told of events: people, and whoever reads stdout."""
    from kernel_generator.reporting.lines import EventLines, each

    return each(progress, EventLines(sys.stdout)) if json_events else progress


def conclude(
    rows: list[Row], progress: Progress, total: int, as_json: bool, json_events: bool = False
) -> None:
    """The closing table and statistics of `total` definitions."""
    from kernel_generator.reporting import figures
    from kernel_generator.reporting.tables import campaign_notes, campaign_table

    solved = sum(row.solved for row in rows)
    rate = 100.0 * solved / len(rows) if rows else 0.0
    if as_json:
        print_json(
            {
                "definitions": [_row_document(row) for row in rows],
                "statistics": {
                    "total": total,
                    "processed": len(rows),
                    "successful": solved,
                    "failed": len(rows) - solved,
                    "success_rate": rate,
                    "prompt_tokens": progress.usage.prompt,
                    "completion_tokens": progress.usage.completion,
                    "cost_usd": progress.cost_usd,
                },
            }
        )
    console = to_people(as_json or json_events)
    console.print(campaign_table(rows))
    for note in campaign_notes(rows):
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"processed {len(rows)} of {total}, successful {solved}, failed {len(rows) - solved}, "
        f"success rate {rate:.0f} %; {figures.tokens(progress.usage)}, "
        f"{figures.dollars(progress.cost_usd)}",
        highlight=False,
    )


def _row_document(row: Row) -> dict[str, Any]:
    evaluation = row.evaluation
    return {
        "definition": row.definition,
        "op_type": row.op_type,
        "outcome": row.outcome,
        "solved": row.solved,
        "file": row.file,
        "message": row.message,
        "seconds": row.seconds,
        "evaluation": plain(evaluation) if evaluation else None,
    }
