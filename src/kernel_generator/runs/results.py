"""What came of a run: its best version as a solution, written into its trace set once.

Nothing is written again that is there already, whichever program wrote it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kernel_generator.domain.errors import InvalidInput, StoreError, UnknownName
from kernel_generator.domain.outcome import Outcome
from kernel_generator.runs import saving
from kernel_generator.runs.defaults import resolve_target
from kernel_generator.runs.generated import GeneratedSolution
from kernel_generator.runs.journal import known_run, note_saved
from kernel_generator.runs.tasks import make_task
from kernel_generator.runs.tracesets import definition_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashinfer_bench import Solution, TraceSet

    from kernel_generator.domain.attempt import Attempt
    from kernel_generator.domain.task import Task
    from kernel_generator.runs.history import History
    from kernel_generator.runs.journal import KnownRun
    from kernel_generator.runs.store import Store


def solution_of(attempt: Attempt, run_id: str) -> GeneratedSolution:
    """The attempt's. Raises `ValueError` where it has none."""
    if attempt.candidate is None:
        raise ValueError("only an attempt with a candidate can be best")
    return GeneratedSolution.of(attempt.candidate.solution, attempt.evaluation, run_id)


def why_none(attempts: Sequence[Attempt], task: Task) -> str:
    """Why attempts gave no solution, for people."""
    told = f"All attempts failed for {task.definition.name} - SKIPPING"
    if not attempts:
        return f"{told} (nothing was proposed)"
    outcomes = ", ".join(a.outcome.value for a in attempts)
    last = attempts[-1]
    why = last.outcome.meaning
    if last.outcome is Outcome.BUILT_NOT_RUN:
        why += f"; it compiled, and to be run and judged it needs a machine with {task.target.name}"
    elif last.outcome is Outcome.NOT_RUN:
        why += f": {last.message}"
    return f"{told} ({len(attempts)} attempts: {outcomes}; the last: {why})"


def save_result(run: KnownRun, store: Store, traceset: TraceSet) -> Path:
    """Write the best version of a run that has ended into its trace set; the path written. Nothing
    is asked or judged for it.

    Raises `SaveFailed`, `TraceSetError`, `StoreError`; `InvalidInput` where what it was judged on
    has changed since or its verdict is another store's word; `ValueError` where nothing passed.
    """
    with store.working_on(run.run_id):
        history = known_run(store, run.run_id).history
        if history.is_saved and (before := _saved_in(traceset, history)) is not None:
            # Another program was quicker.
            return before
        if history.best is None:
            raise ValueError("there is nothing to save")
        if history.is_elsewheres(history.best):
            raise InvalidInput(
                f"what passed in run {run.run_id} was judged elsewhere: 'resume {run.run_id}' "
                "judges it here and saves it then"
            )
        run.settings.check_same(run.run_id, task_of(run, traceset))
        solution = solution_of(history.best, run.run_id)
        path, _ = saving.save_solution(solution, traceset, solution.evaluation, once=True)
        note_saved(store, run.run_id, path.absolute(), solution.name)
        return path


def task_of(run: KnownRun, traceset: TraceSet) -> Task:
    """The run's, as its trace set poses it now. Raises `InvalidInput`."""
    settings = run.settings
    definition = definition_of(traceset, settings.definition)
    return make_task(traceset, definition, resolve_target(settings.target), settings.language)


def saved_before(store: Store, run_id: str, solution: Solution, traceset: TraceSet) -> Path | None:
    """Where a run's solution lies in the trace set; None where it was not saved there, or the store
    does not tell."""
    try:
        history = known_run(store, run_id).history
    except (StoreError, UnknownName):
        return None
    return _saved_in(traceset, history) if history.saved_name == solution.name else None


def _saved_in(traceset: TraceSet, history: History) -> Path | None:
    """What a run wrote into the trace set; None where that is not here."""
    path = Path(history.saved or "")
    here = traceset.root is not None and path.is_relative_to(Path(traceset.root).absolute())
    return path if here and path.is_file() else None
