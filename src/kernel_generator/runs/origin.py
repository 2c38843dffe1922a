"""What a solution says of where it came from: its name, and one line of its description."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kernel_generator.evaluation.toolchain import portable_build_environment
from kernel_generator.runs.saving import slug

if TYPE_CHECKING:
    from flashinfer_bench import Solution

    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.domain.proposal import Proposal
    from kernel_generator.domain.task import Task


def solution_name(task: Task, model: str, run_id: str, proposal: Proposal) -> str:
    """Unique in any trace set by its run id; safe for model names with '/' and ':'."""
    parts = [task.definition.name, slug(model), task.language, f"r{proposal.round}", run_id]
    if proposal.sample:
        parts.append(f"s{proposal.sample + 1}")
    return "_".join(parts)


def describe(
    solution: Solution,
    task: Task,
    run_id: str,
    proposal: Proposal,
    evaluation: Evaluation | None,
) -> Solution:
    """The solution with its origin as one JSON line at the end of its description."""
    origin: dict[str, object] = {
        "author": solution.author,
        "run_id": run_id,
        "round": proposal.round,
        "target": task.target.name,
    }
    environment = portable_build_environment(task.target, task.language)
    if environment:
        origin["build_environment"] = environment
    if evaluation is not None:
        origin["outcome"] = evaluation.outcome.value
        origin["workloads"] = f"{evaluation.judged} of {len(task.workloads)}"
        if evaluation.speedup is not None and evaluation.device is not None:
            origin["speedup"] = round(evaluation.speedup.value, 4)
            origin["measured_on"] = evaluation.device.name
    line = json.dumps(origin, sort_keys=True)
    text = f"{solution.description}\n{line}" if solution.description else line
    return solution.model_copy(update={"description": text})
