"""`kernel-generator generate`."""

from __future__ import annotations

from typing import Annotated

import typer

from kernel_generator.cli.console import print_json, to_stderr, warn_of
from kernel_generator.cli.options import (
    BaseUrlOption,
    DefinitionOption,
    DialectOption,
    EffortOption,
    JsonOption,
    LanguageOption,
    ModelOption,
    TargetOption,
    TraceSetArgument,
)


def generate(
    traceset: TraceSetArgument,
    definition: DefinitionOption,
    pass_k: Annotated[
        int, typer.Option("--pass-k", "-k", help="How many independent solutions to ask for.")
    ] = 1,
    model: ModelOption = None,
    language: LanguageOption = None,
    target: TargetOption = None,
    base_url: BaseUrlOption = None,
    dialect: DialectOption = None,
    reasoning_effort: EffortOption = None,
    as_json: JsonOption = False,
) -> int:
    """Ask for independent solutions of a definition, without evaluating."""
    from kernel_generator.cli.say import say_embedded
    from kernel_generator.domain.errors import IncompleteGeneration
    from kernel_generator.generator import KernelGenerator, writable_root
    from kernel_generator.runs.tracesets import definition_of, load_traceset, workloads_of

    loaded, problems = load_traceset(traceset)
    warn_of(problems)
    found = definition_of(loaded, definition)
    writable_root(loaded)
    generator = KernelGenerator(
        model,
        language,
        target,
        base_url=base_url,
        reasoning_effort=reasoning_effort,
        dialect=dialect,
    )
    console = to_stderr()
    say_embedded(generator.model_name, model, console)
    code = 0
    try:
        solutions = generator.generate(found, pass_k, workloads=workloads_of(loaded, definition))
    except IncompleteGeneration as error:
        console.print(f"error: {error}", markup=False, highlight=False)
        solutions, code = list(error.solutions), 1
    paths = [generator.save(solution, loaded) for solution in solutions]
    if as_json:
        print_json(
            {
                "definition": definition,
                "evaluated": False,
                "files": [str(path) for path in paths],
                "solutions": [s.model_dump(mode="json") for s in solutions],
            }
        )
    else:
        for path in paths:
            print(path)
    return code
