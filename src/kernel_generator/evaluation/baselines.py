"""What a candidate is compared with, as solutions that run in children of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashinfer_bench.data import BuildSpec, Solution, SourceFile, SupportedLanguages

from kernel_generator.domain.compiled import ENTRY_POINT, compiled_sources

if TYPE_CHECKING:
    from kernel_generator.domain.task import Task


@dataclass(frozen=True)
class Baseline:
    """A trusted implementation to compare with."""

    name: str
    solution: Solution


def reference_solution(task: Task) -> Solution:
    """The definition's reference as a value-returning Python solution."""
    return _trusted(task, "reference", {"main.py": task.definition.reference})


def compiled_solution(task: Task) -> Solution:
    """`torch.compile` of the reference, default mode."""
    return _trusted(task, "torch-compile", compiled_sources(task.definition.reference))


def compiled_baseline(task: Task) -> Baseline:
    """`torch.compile` of the reference, default mode."""
    return Baseline("torch.compile", compiled_solution(task))


def _trusted(task: Task, what: str, sources: dict[str, str]) -> Solution:
    return Solution(
        name=f"{task.definition.name}__{what}",
        definition=task.definition.name,
        author="kernel-generator",
        spec=BuildSpec(
            language=SupportedLanguages.PYTHON,
            target_hardware=[task.target.name],
            entry_point=ENTRY_POINT,
            destination_passing_style=False,
        ),
        sources=[SourceFile(path=path, content=text) for path, text in sources.items()],
    )
