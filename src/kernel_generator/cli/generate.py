"""`kernel-generator generate`."""

from __future__ import annotations

from typing import Annotated

import typer

from kernel_generator.cli.console import plain, print_json, to_stderr, warn_of
from kernel_generator.cli.exits import Exit
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
    from kernel_generator.cli.keeping import keep
    from kernel_generator.domain.errors import IncompleteGeneration, ProviderError
    from kernel_generator.generator import KernelGenerator
    from kernel_generator.reporting import figures
    from kernel_generator.reporting.progress import Progress
    from kernel_generator.runs.saving import writable_root
    from kernel_generator.runs.tracesets import definition_of, load_traceset, workloads_of

    loaded, problems = load_traceset(traceset)
    warn_of(problems)
    found = definition_of(loaded, definition)
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
    )
    code, told = Exit.SOLVED, ""
    try:
        solutions = generator.generate(found, pass_k, workloads=workloads_of(loaded, definition))
    except IncompleteGeneration as error:
        solutions, told = list(error.solutions), f"error: {error}"
        refused = isinstance(error.__cause__, ProviderError)
        code = Exit.PROVIDER if refused else Exit.UNSOLVED
    except KeyboardInterrupt:
        solutions, told = list(generator.interrupted), "interrupted; what had arrived is saved"
        code = Exit.INTERRUPTED
        if not solutions:
            raise
    finally:
        progress.close()
    kept = [keep(generator, solution, loaded, progress) for solution in solutions]
    if told:
        progress.line(told)
    if code is Exit.SOLVED and any(k.path is None for k in kept):
        code = Exit.UNSOLVED
    progress.line(
        f"{len(solutions)} of {pass_k} samples could be read; {figures.tokens(progress.usage)}, "
        f"{figures.dollars(progress.cost_usd)}"
    )
    paths = [k.path for k in kept if k.path is not None]
    if as_json:
        print_json(
            {
                "definition": definition,
                "evaluated": False,
                "files": [str(path) for path in paths],
                "unsaved": [k.message for k in kept if k.path is None],
                "solutions": [plain(s) for s in solutions],
                "message": told,
                "prompt_tokens": progress.usage.prompt,
                "completion_tokens": progress.usage.completion,
                "cost_usd": progress.cost_usd,
            }
        )
    else:
        for path in paths:
            print(path)
    return code
