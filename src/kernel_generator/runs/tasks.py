"""Tasks as trace sets pose them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_generator.domain.errors import NoWorkloads
from kernel_generator.domain.task import Task
from kernel_generator.evaluation.workloads import split_workloads
from kernel_generator.runs.tracesets import definition_of, workloads_of

if TYPE_CHECKING:
    from flashinfer_bench import Definition, TraceSet

    from kernel_generator.domain.target import Target


def make_task(traceset: TraceSet, definition: Definition, target: Target, language: str) -> Task:
    """The task that a definition of a trace set poses.

    Raises `NoWorkloads`, `UnknownName`.
    """
    definition_of(traceset, definition.name)
    workloads = workloads_of(traceset, definition.name)
    if not workloads:
        raise NoWorkloads(f"No workloads found for definition '{definition.name}' - SKIPPING")
    searched, held_out = split_workloads(definition, workloads, traceset.root)
    return Task(definition, searched, held_out, target, language, traceset.root)
