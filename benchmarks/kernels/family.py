"""A family: one definition, a few of its workloads, and several right solutions of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flashinfer_bench import TraceSet
from flashinfer_bench.data import (
    BuildSpec,
    Solution,
    SourceFile,
    SupportedBindings,
    SupportedLanguages,
)

from kernel_generator.domain.task import Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flashinfer_bench import Definition, Workload

    from kernel_generator.domain.target import Target

BUNDLED = Path(__file__).resolve().parents[2] / "examples" / "traceset"
"""The trace set in `examples/`."""
_ENTRY_FILES = {"cpp": "kernel.cpp", "cuda": "kernel.cu"}


@dataclass(frozen=True)
class Family:
    """What a stream of candidates is drawn from."""

    name: str
    title: str
    """As the tables call it."""
    definition: Definition
    workloads: tuple[Workload, ...]
    solutions: tuple[Solution, ...]
    """At least eight, all of one language."""
    root: Path | None = None
    """Folder that captured inputs are relative to."""

    @property
    def language(self) -> str:
        """Of its solutions."""
        return self.solutions[0].spec.language.value

    def task(self, target: Target) -> Task:
        """All workloads searched, none held out: every candidate is tried on all of them."""
        return Task(self.definition, self.workloads, (), target, self.language, self.root)

    def shrunk(self, solutions: int, workloads: int) -> Family:
        """The first few of each."""
        return replace(
            self,
            solutions=self.solutions[:solutions],
            workloads=self.workloads[:workloads],
        )


def constants(values: Mapping[str, object], pattern: str) -> str:
    """One line for each constant; `pattern` is how the language writes one."""
    return "".join(pattern.format(name=n, value=v) + "\n" for n, v in values.items())


def solution(definition: str, name: str, language: str, source: str) -> Solution:
    """A solution of one file, given its outputs."""
    path = _ENTRY_FILES.get(language, "main.py")
    return Solution(
        name=name,
        definition=definition,
        author="benchmarks",
        spec=BuildSpec(
            language=SupportedLanguages(language),
            target_hardware=["any"],
            entry_point=f"{path}::run",
            destination_passing_style=True,
            binding=SupportedBindings.TVM_FFI if language in _ENTRY_FILES else None,
        ),
        sources=[SourceFile(path=path, content=source)],
    )


def bundled(name: str, picks: tuple[int, ...]) -> tuple[Definition, tuple[Workload, ...]]:
    """A definition of the bundled trace set and the workloads at these places of its file."""
    traceset = TraceSet.from_path(str(BUNDLED))
    workloads = [trace.workload for trace in traceset.workloads[name]]
    return traceset.definitions[name], tuple(workloads[i] for i in picks)
