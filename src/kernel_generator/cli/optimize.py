"""`kernel-generator optimize`: the main job over one or all definitions of a trace set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernel_generator.cli.console import plain, print_json, to_people, to_stderr, warn_of
from kernel_generator.cli.options import (
    BaseUrlOption,
    DefinitionsOption,
    DialectOption,
    EffortOption,
    IsolationOption,
    JsonOption,
    LanguageOption,
    ModelOption,
    TargetOption,
    TraceSetArgument,
)

if TYPE_CHECKING:
    from kernel_generator.cli.campaign import Campaign
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
    as_json: JsonOption = False,
) -> int:
    """Ask, judge, tell the model what was wrong, and save what passes."""
    from kernel_generator.cli.campaign import Campaign
    from kernel_generator.domain.errors import InvalidInput
    from kernel_generator.generator import KernelGenerator, check_goal, writable_root
    from kernel_generator.reporting.progress import Progress
    from kernel_generator.runs.engine import Goal
    from kernel_generator.runs.tracesets import definition_of, load_traceset

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
        on_event=progress,
        isolation=isolation,
    )
    generator.check_isolation()
    campaign = Campaign(generator, loaded, goal, progress)
    code = campaign.work(names)
    _conclude(campaign, len(names), as_json)
    return code


def _conclude(campaign: Campaign, total: int, as_json: bool) -> None:
    from kernel_generator.reporting import figures
    from kernel_generator.reporting.tables import campaign_notes, campaign_table

    rows = campaign.rows
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
                    "prompt_tokens": campaign.progress.usage.prompt,
                    "completion_tokens": campaign.progress.usage.completion,
                    "cost_usd": campaign.progress.cost_usd,
                },
            }
        )
    console = to_people(as_json)
    console.print(campaign_table(rows))
    for note in campaign_notes(rows):
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"processed {len(rows)} of {total}, successful {solved}, failed {len(rows) - solved}, "
        f"success rate {rate:.0f} %; {figures.tokens(campaign.progress.usage)}, "
        f"{figures.dollars(campaign.progress.cost_usd)}",
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
