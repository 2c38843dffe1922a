"""`kernel-generator evaluate`: judge a Solution JSON, or a plain source file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kernel_generator.cli.console import print_json, to_people, warn_of
from kernel_generator.cli.options import (
    DefinitionOption,
    JsonOption,
    LanguageOption,
    TargetOption,
    TraceSetArgument,
)


def evaluate_file(
    traceset: TraceSetArgument,
    definition: DefinitionOption,
    solution: Annotated[
        Path,
        typer.Option(
            "--solution",
            "-s",
            metavar="FILE",
            help="A Solution JSON, or a plain source file whose entry point is called `run`.",
        ),
    ],
    target: TargetOption = None,
    language: LanguageOption = None,
    as_json: JsonOption = False,
) -> int:
    """Judge a solution, or a plain source file, on all workloads."""
    from kernel_generator.generator import evaluate, local_target
    from kernel_generator.reporting import figures
    from kernel_generator.reporting.tables import evaluation_table
    from kernel_generator.runs.solutions import read_solution_file
    from kernel_generator.runs.tracesets import definition_of, load_traceset

    loaded, problems = load_traceset(traceset)
    warn_of(problems)
    found = definition_of(loaded, definition)
    name = target or local_target().name
    given = read_solution_file(solution, found, language, name)
    evaluation = evaluate(loaded, found, given, name)
    if as_json:
        print_json(evaluation.model_dump(mode="json"))
    console = to_people(as_json)
    if evaluation.workloads:
        console.print(evaluation_table(evaluation))
    console.print(
        f"{evaluation.outcome.value}: {evaluation.outcome.meaning}", markup=False, highlight=False
    )
    if evaluation.message:
        console.print(evaluation.message.strip(), markup=False, highlight=False, soft_wrap=True)
    for record in evaluation.workloads:
        for mismatch in record.mismatches:
            console.print(
                f"{mismatch.output}: {mismatch.wrong} of {mismatch.total} elements wrong; first at "
                f"{list(mismatch.first_index)}: got {mismatch.first_got:g}, expected "
                f"{mismatch.first_expected:g}; worst at {list(mismatch.worst_index)}: got "
                f"{mismatch.worst_got:g}, expected {mismatch.worst_expected:g}"
                + (f" ({mismatch.note})" if mismatch.note else ""),
                markup=False,
                highlight=False,
            )
    console.print(figures.comparison(evaluation), highlight=False)
    return 0 if evaluation.outcome.is_result else 1
