"""`kernel-generator evaluate`: judge a Solution JSON, or a plain source file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kernel_generator.cli.console import plain, print_json, to_people, to_stderr, warn_of
from kernel_generator.cli.options import (
    BaselinesOption,
    DefinitionOption,
    IsolationOption,
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
    baselines: BaselinesOption = None,
    save_traces: Annotated[
        bool,
        typer.Option(
            "--save-traces",
            help="Append the measured workloads to the trace set's traces: for a solution that is "
            "in the set, where it passes.",
        ),
    ] = False,
    isolation: IsolationOption = "strict",
    as_json: JsonOption = False,
) -> int:
    """Judge a solution, or a plain source file, on all workloads."""
    from kernel_generator.reporting import figures
    from kernel_generator.reporting.progress import Progress
    from kernel_generator.reporting.tables import evaluation_table
    from kernel_generator.runs import saving
    from kernel_generator.runs.defaults import local_target
    from kernel_generator.runs.solutions import read_solution_file
    from kernel_generator.runs.tracesets import definition_of, load_traceset
    from kernel_generator.verdict import evaluate, explain

    loaded, problems = load_traceset(traceset)
    warn_of(problems)
    found = definition_of(loaded, definition)
    name = target or local_target().name
    given = read_solution_file(solution, found, language, name)
    if save_traces:
        # Said before anything is measured.
        saving.writable_root(loaded)
        saving.check_known(given, loaded)
    progress = Progress(to_stderr())
    evaluation = evaluate(
        loaded,
        found,
        given,
        name,
        on_event=progress,
        isolation=isolation,
        baselines=baselines or None,
    )
    if as_json:
        print_json(plain(evaluation))
    console = to_people(as_json)
    if evaluation.workloads:
        console.print(evaluation_table(evaluation))
    console.print(
        f"{evaluation.outcome.value}: {evaluation.outcome.meaning}", markup=False, highlight=False
    )
    message = explain(evaluation, given)
    if message:
        console.print(message, markup=False, highlight=False, soft_wrap=True)
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
    for line in (
        figures.comparison(evaluation),
        figures.timers(evaluation),
        *figures.notes(evaluation),
    ):
        if line:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    if save_traces:
        count = saving.save_traces(given, loaded, evaluation)
        progress.line(f"{count} traces were appended")
    return 0 if evaluation.outcome.is_result else 1
