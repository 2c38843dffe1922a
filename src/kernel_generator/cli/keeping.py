"""Saves results so that none is lost: what the trace set does not take is rescued, else printed."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from flashinfer_bench import Solution, TraceSet

    from kernel_generator.generator import KernelGenerator
    from kernel_generator.reporting.progress import Progress


@dataclass(frozen=True)
class Kept:
    """What became of a result that was to be saved."""

    path: Path | None
    """The file in the trace set, or None."""
    message: str = ""
    """Why it is not there, and where it is instead."""


def keep(
    generator: KernelGenerator, solution: Solution, traceset: TraceSet, progress: Progress
) -> Kept:
    """Save a result; a second Ctrl-C does not take away what the first one is saving."""
    from kernel_generator.domain.errors import KernelGeneratorError, SaveFailed

    with _uninterrupted():
        try:
            return Kept(generator.save(solution, traceset))
        except KernelGeneratorError as error:
            try:
                message = f"{error}; the solution is kept in {generator.rescue(solution)}"
            except SaveFailed as worse:
                message = f"{error}; {worse}; here it is"
                progress.line(solution.model_dump_json())
            progress.line(f"  error: {message}")
            return Kept(None, message)


@contextmanager
def _uninterrupted() -> Generator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
