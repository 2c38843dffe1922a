"""Walkthrough: every definition of one or more trace sets, up to two attempts each.

Change the settings, then run `python examples/example.py`. Without a model the embedded one is
used, so it works as it is. Ends with 0 (all solved), 1 (some unsolved), 2 (bad input), 3 (the
provider refused) or 130 (interrupted).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dotenv import load_dotenv

from kernel_generator import (
    KernelGenerator,
    KernelGeneratorError,
    NoPassingSolution,
    ProviderError,
    ProviderRefused,
    load_traceset,
)
from kernel_generator.runs.saving import writable_root

if TYPE_CHECKING:
    from flashinfer_bench import TraceSet

    from kernel_generator import GeneratedSolution

# --- Settings ---------------------------------------------------------------------------------
MODEL_NAME: str | None = None  # "gpt-5", "claude-opus-4-1", ...; None: the embedded model
LANGUAGE: str | None = None  # "triton", "cuda", "cpp", "python"; None: what suits the target
TARGET_GPU: str | None = None  # "H100", ..., "CPU"; None: this machine's GPU, else its CPU
TRACESET_PATHS = [Path(__file__).parent / "traceset"]  # several trace sets in one go: add them
ROUNDS = 5
ATTEMPTS = 2


@dataclass
class Statistics:
    """What became of the definitions."""

    processed: int = 0
    successful: int = 0

    @property
    def failed(self) -> int:
        """Processed without a result."""
        return self.processed - self.successful

    def __str__(self) -> str:
        rate = 100 * self.successful / self.processed if self.processed else 0.0
        return (
            f"Processed: {self.processed}, successful: {self.successful}, "
            f"failed: {self.failed}, success rate: {rate:.0f} %"
        )


def open_tracesets(paths: list[Path]) -> list[TraceSet]:
    """The trace sets that can be worked on; what is wrong with the others is said at once."""
    opened: list[TraceSet] = []
    for path in paths:
        try:
            traceset, problems = load_traceset(path)
            writable_root(traceset)
        except KernelGeneratorError as error:
            print(f"error: {error}", file=sys.stderr)
            continue
        for problem in problems:
            print(f"skipped {problem}")
        opened.append(traceset)
    return opened


def save(generator: KernelGenerator, solution: GeneratedSolution, traceset: TraceSet) -> bool:
    """Save a result into its trace set, or at least elsewhere; True where it is in the set."""
    evaluation = solution.evaluation
    if evaluation is not None and evaluation.speedup is not None:
        print(f"  {evaluation.speedup.value:.2f}x the reference")
    else:
        print("  correct, not measured on this machine")
    try:
        print(f"  saved {generator.save(solution, traceset)}")
    except KernelGeneratorError as error:
        print(f"  error: {error}", file=sys.stderr)
        print(f"  the solution is kept in {generator.rescue(solution)}", file=sys.stderr)
        return False
    return True


def solve(generator: KernelGenerator, traceset: TraceSet, name: str) -> bool:
    """Up to `ATTEMPTS` tries at one definition; True where a result was saved.

    Raises `ProviderRefused`: no other definition would fare better.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            solution = generator.optimized_generate(
                traceset=traceset, definition=traceset.definitions[name], rounds=ROUNDS
            )
        except ProviderRefused:
            raise
        except NoPassingSolution as error:
            outcomes = ", ".join(a.outcome for a in error.attempts)
            print(f"  attempt {attempt} of {ATTEMPTS}: nothing passed ({outcomes})")
        except KernelGeneratorError as error:
            print(f"  attempt {attempt} of {ATTEMPTS}: {error}")
        else:
            return save(generator, solution, traceset)
    print(f"All attempts failed for {name} - SKIPPING")
    return False


def process_traceset(
    traceset: TraceSet, generator: KernelGenerator, statistics: Statistics
) -> None:
    """Work through one trace set; one definition's failure never stops the rest."""
    total = len(traceset.definitions)
    for number, (name, definition) in enumerate(sorted(traceset.definitions.items()), start=1):
        print(f"[{number}/{total}] Processing definition: {name}")
        workloads = traceset.workloads.get(name, [])
        print(f"  type: {definition.op_type}, workloads: {len(workloads)}")
        statistics.processed += 1
        if not workloads:
            print(f"No workloads found for definition '{name}' - SKIPPING")
            continue
        try:
            statistics.successful += solve(generator, traceset, name)
        except KeyboardInterrupt:
            for solution in generator.interrupted:
                statistics.successful += save(generator, solution, traceset)
            raise


def main(paths: list[Path]) -> int:
    """Process all trace sets; the exit code."""
    load_dotenv()
    statistics = Statistics()
    if MODEL_NAME is None:
        print("No MODEL_NAME is set: the embedded model compiles each reference instead.")
    try:
        generator = KernelGenerator(
            model_name=MODEL_NAME or "builtin:compiler", language=LANGUAGE, target_gpu=TARGET_GPU
        )
        tracesets = open_tracesets(paths)
        for traceset in tracesets:
            print(f"=== {traceset.root}")
            process_traceset(traceset, generator, statistics)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except KernelGeneratorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3 if isinstance(error, ProviderError) else 2
    finally:
        print(statistics)
    if len(tracesets) < len(paths):
        return 2
    return 0 if statistics.failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main([Path(p) for p in sys.argv[1:]] or TRACESET_PATHS))
