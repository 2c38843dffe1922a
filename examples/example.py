"""Walkthrough: every definition of one or more trace sets, up to two attempts each.

Change the settings, then run `python examples/example.py`. Without a model and a key the embedded
model is used, so it works as it is.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from dotenv import load_dotenv

from kernel_generator import KernelGenerator, NoPassingSolution, load_traceset
from kernel_generator.domain.errors import KernelGeneratorError, ProviderRefused

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


def process_traceset(path: Path, generator: KernelGenerator, statistics: Statistics) -> None:
    """Work through one trace set; one definition's failure never stops the rest."""
    traceset, problems = load_traceset(path)
    for problem in problems:
        print(f"skipped {problem}")
    total = len(traceset.definitions)
    for number, (name, definition) in enumerate(sorted(traceset.definitions.items()), start=1):
        print(f"[{number}/{total}] Processing definition: {name}")
        workloads = traceset.workloads.get(name, [])
        print(f"  type: {definition.op_type}, workloads: {len(workloads)}")
        statistics.processed += 1
        if not workloads:
            print(f"No workloads found for definition '{name}' - SKIPPING")
            continue
        for attempt in range(1, ATTEMPTS + 1):
            try:
                solution = generator.optimized_generate(
                    traceset=traceset, definition=definition, rounds=ROUNDS
                )
                saved = generator.save(solution, traceset)
            except ProviderRefused:
                raise
            except NoPassingSolution as error:
                outcomes = ", ".join(a.outcome for a in error.attempts)
                print(f"  attempt {attempt} of {ATTEMPTS}: nothing passed ({outcomes})")
            except KernelGeneratorError as error:
                print(f"  attempt {attempt} of {ATTEMPTS}: {error}")
            else:
                evaluation = solution.evaluation
                if evaluation is not None and evaluation.speedup is not None:
                    print(f"  {evaluation.speedup.value:.2f}x the reference")
                else:
                    print("  correct, not measured on this machine")
                print(f"  saved {saved}")
                statistics.successful += 1
                break
        else:
            print(f"All attempts failed for {name} - SKIPPING")


def main(paths: list[Path]) -> int:
    """Process all trace sets; 0 where every definition was solved."""
    load_dotenv()
    statistics = Statistics()
    try:
        generator = KernelGenerator(model_name=MODEL_NAME, language=LANGUAGE, target_gpu=TARGET_GPU)
        for path in paths:
            print(f"=== {path}")
            process_traceset(path, generator, statistics)
    except KernelGeneratorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        print(statistics)
    return 0 if statistics.failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main([Path(p) for p in sys.argv[1:]] or TRACESET_PATHS))
