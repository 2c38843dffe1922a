"""Hostile and broken candidates in a row through one judge: what it holds before and after.

    python benchmarks/hostile_stream.py [--count 500] [--seed 0] [--target CPU]

Prints the process's memory, file handles, child processes, temporary files and, with a GPU, its
memory, as a Markdown table, and how the candidates ended. Exits with 1 where an honest candidate no
longer passes at the end. Candidates that harm an unprotected machine are left out unless the
judge's isolation level is 'strict'.
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

# The corpus is a package of the tests, which are not installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))

import torch

from kernel_generator.evaluation.judge import Limits
from kernel_generator.evaluation.local import LocalJudge
from kernel_generator.runs.defaults import local_target
from tests.adversarial.broken import BROKEN
from tests.adversarial.cheats import CHEATS
from tests.adversarial.courtroom import STRICT, Planted, as_solution, descendants, planted
from tests.adversarial.definitions import NORM, ROOT, definition, workloads
from tests.evaluation.judging import BRIEF, solution, task

if TYPE_CHECKING:
    from flashinfer_bench.data import Solution

    from kernel_generator.evaluation.session import LocalSession

LIMITS = Limits(build_s=20.0, first_call_s=5.0, call_s=3.0)
_PROGRESS = 25
_SLOW_TO_BUILD = "C++ that takes forever to compile"


@dataclass(frozen=True)
class Holdings:
    """What a judge holds of the machine."""

    resident_mib: float
    file_handles: int
    processes: int
    temporary_files: int
    shared_memory: int
    gpu_mib: float | None


def main() -> int:
    """Print the tables; 0 where the judge still serves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", default=local_target().name)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (private := Path(folder, "t")).mkdir()
        (hidden := Path(folder, "p")).mkdir()
        tempfile.tempdir = str(private)
        try:
            with planted(hidden) as here:
                return _stream(options, here, private)
        finally:
            tempfile.tempdir = None


def _stream(options: argparse.Namespace, here: Planted, private: Path) -> int:
    what = task(definition(NORM), workloads(NORM), target=options.target, root=ROOT)
    session = LocalJudge(LIMITS).open(what)
    honest = solution(definition(NORM).reference, definition=NORM)
    ended: Counter[str] = Counter()
    try:
        session.prepare()
        # What the first evaluation sets up for good is no leak.
        first = session.evaluate(honest, BRIEF)
        level = first.isolation.level if first.isolation else "unknown"
        candidates = _candidates(here, strict=level == STRICT, on_gpu=what.target.is_gpu)
        chosen = random.Random(options.seed)
        before, began = _holdings(private), time.perf_counter()
        for number in range(1, options.count + 1):
            ended[_judge(session, chosen.choice(candidates))] += 1
            if number % _PROGRESS == 0:
                print(f"{number}: {_holdings(private)}", file=sys.stderr, flush=True)
        took = time.perf_counter() - began
        here.left_behind()
        after = _holdings(private)
        last = session.evaluate(honest, BRIEF)
    finally:
        session.close()
    _report(before, after, _holdings(private), ended)
    print(
        f"\n{options.count} of {len(candidates)} kinds in {took:.0f} s on {options.target}, "
        f"isolation '{level}'; honest before: {first.outcome}, after: {last.outcome}"
    )
    return 0 if last.outcome.is_result else 1


def _candidates(here: Planted, *, strict: bool, on_gpu: bool) -> list[Solution]:
    """All candidates that can be handed in for the one definition."""
    cheats = [
        as_solution(case, here.fill_in(case.source))
        for case in CHEATS
        if case.definition == NORM
        and case.language in (("python", "triton", "cuda") if on_gpu else ("python", "cpp"))
        and (case.device == "any" or on_gpu)
        and (strict or not case.contained)
    ]
    broken = [
        solution(
            # The broken candidates take one tensor; what goes wrong does so all the same.
            case.source.replace("def run(x):", "def run(x, weight):"),
            language=case.language,
            passing=case.passing,
            entry=case.entry,
            definition=NORM,
        )
        for case in BROKEN
        if case.language == "python" and case.name != _SLOW_TO_BUILD
        if strict or not case.contained
    ]
    return cheats + broken


def _judge(session: LocalSession, candidate: Solution) -> str:
    return session.evaluate(candidate, BRIEF).outcome.value


def _holdings(private: Path) -> Holdings:
    gc.collect()
    return Holdings(
        resident_mib=_resident_mib(),
        file_handles=len(list(Path("/proc/self/fd").iterdir())),
        processes=len(descendants()),
        temporary_files=sum(1 for _ in private.iterdir()),
        shared_memory=sum("kernel" in path.name for path in Path("/dev/shm").iterdir()),
        gpu_mib=_gpu_mib(),
    )


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _gpu_mib() -> float | None:
    """MiB in use on the first GPU, by whomever; None without one."""
    if not torch.cuda.is_available():
        return None
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"]
    return float(subprocess.run(query, capture_output=True, text=True, check=True).stdout)


def _report(before: Holdings, after: Holdings, closed: Holdings, ended: Counter[str]) -> None:
    print("| | before | after | session closed |\n|---|---|---|---|")
    for name in Holdings.__dataclass_fields__:
        values = [getattr(one, name) for one in (before, after, closed)]
        cells = " | ".join("–" if v is None else f"{v:.0f}" for v in values)
        print(f"| {name.replace('_', ' ')} | {cells} |")
    print("\n| ended as | candidates |\n|---|---|")
    for outcome, count in ended.most_common():
        print(f"| {outcome} | {count} |")


if __name__ == "__main__":
    raise SystemExit(main())
