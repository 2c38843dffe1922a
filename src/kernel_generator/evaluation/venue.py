"""Where a task is judged: what can be run on that device, and how a child is told to load it.

What is timed against each other is told the same, whatever its environment says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from flashinfer_bench.data import SupportedLanguages

from kernel_generator.evaluation import warmth
from kernel_generator.evaluation.processor import cpus_of
from kernel_generator.sandbox.orders import Order

if TYPE_CHECKING:
    from flashinfer_bench import Solution

    from kernel_generator.domain.task import Task


@dataclass(frozen=True)
class Venue:
    """One task on one device."""

    task: Task
    device: str
    """'cpu' or 'cuda:0'."""

    @property
    def on_gpu(self) -> bool:
        """True for a GPU."""
        return self.device != "cpu"

    @property
    def measures(self) -> bool:
        """True where times mean something: on the target itself."""
        return self.on_gpu or not self.task.target.is_gpu

    def cannot_run(self, solution: Solution) -> bool:
        """True for what can be compiled here and not be run."""
        return solution.spec.language is SupportedLanguages.CUDA and not self.on_gpu

    def interprets(self, solution: Solution) -> bool:
        """True for what Triton's interpreter runs in the GPU's place."""
        return solution.spec.language is SupportedLanguages.TRITON and not self.on_gpu

    def order(self, solution: Solution) -> Order:
        """What a child is told, to build it or to load it."""
        threads = torch.get_num_threads() if not self.on_gpu else 0
        return Order(
            definition_json=self.task.definition.model_dump_json(),
            solution_json=solution.model_dump_json(),
            device=self.device,
            interpret=self.interprets(solution),
            stands_in=not self.on_gpu and self.task.target.is_gpu,
            # The same for all that are timed against each other, whatever their environment says.
            threads=threads,
            cpus=cpus_of(threads) if threads else (),
            furnish=self._furniture(solution),
        )

    def _furniture(self, solution: Solution) -> str | None:
        """The folder of warm caches; what is slow to warm up is the CPU's compiler only."""
        if self.on_gpu or not _may_compile(solution):
            return None
        folder = warmth.compile_caches()
        return None if folder is None else str(folder)


def _may_compile(solution: Solution) -> bool:
    """True where `torch.compile` may be called, and its caches are worth copying."""
    return solution.spec.language is SupportedLanguages.PYTHON and any(
        "compile" in source.content for source in solution.sources
    )
