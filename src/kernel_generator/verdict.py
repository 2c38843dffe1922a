"""A verdict on one solution that is there already, without a run or a language model.

What is found is certified: the full set of checks, on all workloads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_generator.domain.events import Notice
from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation import profiles
from kernel_generator.evaluation.baselines import default_baselines, named_baselines
from kernel_generator.evaluation.local import LocalJudge
from kernel_generator.evaluation.toolchain import check_target, find_toolchain
from kernel_generator.prompts import logs
from kernel_generator.runs.defaults import resolve_target
from kernel_generator.runs.observers import watched
from kernel_generator.runs.tasks import make_task
from kernel_generator.runs.tracesets import solutions_by_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashinfer_bench import Definition, Solution, TraceSet

    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.domain.events import Observer
    from kernel_generator.evaluation.judge import Limits


def evaluate(
    traceset: TraceSet,
    definition: Definition,
    solution: Solution,
    target_gpu: str | None = None,
    *,
    limits: Limits | None = None,
    on_event: Observer | None = None,
    isolation: str = "strict",
    baselines: Sequence[str] | None = None,
) -> Evaluation:
    """Judge one solution on all workloads of its definition.

    `on_event` is called with a `Notice` for what cannot be done on this machine. `baselines` names
    what is timed beside it and the reference: 'torch.compile', 'torch.compile max-autotune' (takes
    minutes), 'cuBLAS' (for a GEMM on a GPU), or any solution of the trace set by its name. None:
    'torch.compile', and 'cuBLAS' where there is one.

    Raises `UnknownName`, `NoWorkloads`, `ReferenceFailed` and other `InvalidInput`.
    """
    target = resolve_target(target_gpu)
    language = solution.spec.language.value
    notices = check_target(target, language, find_toolchain())
    task = make_task(traceset, definition, target, language)
    chosen = default_baselines(task)
    if baselines is not None:
        chosen = named_baselines(task, baselines, solutions_by_name(traceset))
    tell = watched(on_event)
    for notice in notices:
        tell(Notice(notice))
    session = LocalJudge(limits, isolation).open(task)
    try:
        session.prepare()
        return session.evaluate(solution, profiles.certification(tuple(chosen)))
    finally:
        session.close()


def explain(evaluation: Evaluation, solution: Solution) -> str:
    """The evaluation's message, with a compiler's output cut down to what names the error."""
    message = evaluation.message.strip()
    if evaluation.outcome is not Outcome.COMPILE_ERROR or logs.is_python_failure(message):
        return message
    return logs.compiler_errors(message, [source.path for source in solution.sources])
