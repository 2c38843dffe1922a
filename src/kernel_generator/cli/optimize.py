"""`kernel-generator optimize`: the main job over one or all definitions of a trace set."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernel_generator.cli.console import print_json, to_people, to_stderr, warn_of
from kernel_generator.cli.options import (
    BaseUrlOption,
    DefinitionsOption,
    DialectOption,
    EffortOption,
    JsonOption,
    LanguageOption,
    ModelOption,
    TargetOption,
    TraceSetArgument,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from flashinfer_bench import TraceSet

    from kernel_generator.generator import GeneratedSolution, KernelGenerator
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
    as_json: JsonOption = False,
) -> int:
    """Ask, judge, tell the model what was wrong, and save what passes."""
    from kernel_generator.cli.say import say_embedded
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
    check_goal(Goal(rounds, keep_improving, target_speedup))
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
    say_embedded(generator.model_name, model, to_stderr())
    campaign = _Campaign(generator, loaded, progress)
    code = 0
    try:
        for number, name in enumerate(names, start=1):
            progress.line(f"[{number}/{len(names)}] Processing definition: {name}")
            campaign.process(name, rounds, keep_improving, target_speedup)
    except KeyboardInterrupt:
        code = 130
        progress.line("interrupted; what was finished is below")
    except _Refused as refused:
        code = 3
        progress.line(f"error: {refused}")
    finally:
        progress.close()
    _conclude(campaign, len(names), as_json)
    if code:
        return code
    return 0 if all(row.solved for row in campaign.rows) else 1


class _Refused(Exception):
    """The provider said no; no further definition will fare better."""


@contextmanager
def _uninterrupted() -> Generator[None]:
    """Lets a second Ctrl-C not take away what the first one is saving."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Campaign:
    """Works through definitions; one's failure never stops the rest."""

    def __init__(self, generator: KernelGenerator, traceset: TraceSet, progress: Progress) -> None:
        self._generator = generator
        self._traceset = traceset
        self._progress = progress
        self.progress = progress
        self.rows: list[Row] = []

    def process(
        self, name: str, rounds: int, keep_improving: bool, target_speedup: float | None
    ) -> None:
        """Work on one definition. Raises `_Refused`, and `KeyboardInterrupt` after saving."""
        from kernel_generator.domain.errors import (
            KernelGeneratorError,
            NoPassingSolution,
            NoWorkloads,
            ProviderRefused,
        )

        began = time.monotonic()
        definition = self._traceset.definitions[name]
        workloads = len(self._traceset.workloads.get(name, []))
        self._progress.line(f"  type {definition.op_type}, {workloads} workloads")
        try:
            solution = self._generator.optimized_generate(
                traceset=self._traceset,
                definition=definition,
                rounds=rounds,
                keep_improving=keep_improving,
                target_speedup=target_speedup,
            )
        except NoPassingSolution as error:
            last = error.attempts[-1].outcome.value if error.attempts else "FAILED"
            self._failed(name, last, str(error), began)
        except NoWorkloads as error:
            self._failed(name, "SKIPPED", str(error), began)
        except ProviderRefused as error:
            self._failed(name, "FAILED", str(error), began)
            raise _Refused(str(error)) from error
        except KernelGeneratorError as error:
            self._failed(name, "FAILED", str(error), began)
        except KeyboardInterrupt:
            self._progress.close()
            if self._generator.interrupted is not None:
                self._save(name, self._generator.interrupted, began)
            else:
                self._failed(name, "INTERRUPTED", "interrupted before anything passed", began)
            raise
        else:
            self._save(name, solution, began)

    def _save(self, name: str, solution: GeneratedSolution, began: float) -> None:
        from kernel_generator.domain.errors import SaveFailed, TraceSetError
        from kernel_generator.reporting.tables import Row
        from kernel_generator.runs.saving import rescue_solution

        file, message = None, ""
        with _uninterrupted():
            try:
                file = str(self._generator.save(solution, self._traceset))
            except (SaveFailed, TraceSetError) as error:
                try:
                    message = f"{error}; the solution is kept in {rescue_solution(solution)}"
                except SaveFailed as worse:
                    message = f"{error}; {worse}"
                self._progress.line(f"  error: {message}")
        evaluation = solution.evaluation
        self.rows.append(
            Row(
                definition=name,
                op_type=self._traceset.definitions[name].op_type,
                outcome=evaluation.outcome.value if evaluation else "FAILED",
                evaluation=evaluation,
                file=file,
                message=message,
                seconds=time.monotonic() - began,
            )
        )

    def _failed(self, name: str, outcome: str, message: str, began: float) -> None:
        from kernel_generator.reporting.tables import Row

        self._progress.close()
        self._progress.line(f"  {message}")
        self.rows.append(
            Row(
                definition=name,
                op_type=self._traceset.definitions[name].op_type,
                outcome=outcome,
                message=message,
                seconds=time.monotonic() - began,
            )
        )


def _conclude(campaign: _Campaign, total: int, as_json: bool) -> None:
    from kernel_generator.reporting import figures
    from kernel_generator.reporting.tables import campaign_table

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
        "evaluation": evaluation.model_dump(mode="json") if evaluation else None,
    }
