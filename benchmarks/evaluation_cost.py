"""What a verdict costs: seconds from source to verdict, beside flashinfer-bench's own runners.

    python benchmarks/evaluation_cost.py [--only cost-rmsnorm|cost-gemm|cost-decode|share]...
        [--upstream 8] [--nvcc-upstream 2] [--isolated 1] [--stream 64] [--quick] [--cpu]

Eight candidates of each family go through one session of the judge, one after the other, each in
a fresh sandbox; a candidate's time is the wall time of `session.evaluate`, with the profile of a
search that has no incumbent yet. The
first is listed apart: it may wait for a sandbox that is still warming up. p50 and p95 are of the
others; "total / n" is of all.

flashinfer-bench's runners get the same sources and workloads with their default configuration,
empty caches and the judge's compiler settings, one candidate at a time as a search hands them over;
each then needs its reference timed again. "All in one call" shares that, as its `Benchmark` does.
`--upstream`, `--nvcc-upstream` (CUDA sources) and `--isolated` bound how many candidates they get.

The judge's share of device time is taken over a mixed stream of the same sources: one session for
each family, fed by a thread of its own, all at once. On a GPU it is the mean of NVML's utilisation,
sampled every 0.1 s: the share of the stream's wall time in which a kernel of a candidate, of a
reference or of the judge ran. On a CPU it is the share of all processors' time in use.

`--quick` shrinks everything. `--cpu` runs a CPU analogue with C++ and Python candidates, whose
figures say nothing of a GPU. Exits with 1 where a candidate does not pass or the bar is missed,
with 2 where there is no GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from busy import Busy, busy_cpu, busy_gpu
from kernels import gemm, paged_decode, rmsnorm
from machine import machine_line, quantile, run_program, table, told

from kernel_generator.evaluation import profiles
from kernel_generator.evaluation.local import LocalJudge
from kernel_generator.evaluation.toolchain import build_environment, gpu_name
from kernel_generator.runs.defaults import local_target, resolve_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernels.family import Family

    from kernel_generator.domain.target import Target
    from kernel_generator.evaluation.session import LocalSession

SHARE = "share"
PROFILE = profiles.search()
GOAL_S, BAR_S = 1.0, 1.5
"""For the Triton RMSNorm candidates' p50, on an H100."""
_COMPILED_SHARE = 8
"""In the mixed stream one candidate of so many is CUDA: nvcc would be all that is seen."""
_UPSTREAM_LIMIT_S = 240.0


@dataclass(frozen=True)
class Cost:
    """Seconds from source to verdict, in order of the candidates."""

    family: str
    judge: str
    ours: bool
    prepared_s: float
    """What is paid once: the session's references, or a runner's start."""
    seconds: tuple[float, ...]
    passed: int
    of: int
    candidates: int
    """More than there are `seconds` where they were judged in one call."""
    problem: str = ""
    """Why there is nothing, or not everything, to show."""

    def row(self) -> list[str]:
        """Its cells."""
        later = self.seconds[1:] or self.seconds
        together = self.candidates > len(self.seconds)
        figures = ["–"] * 4
        if self.seconds:
            each = [f"{quantile(later, 0.5):.2f}", f"{quantile(later, 0.95):.2f}"]
            figures = [
                "–" if together else f"{self.seconds[0]:.2f}",
                *(["–", "–"] if together else each),
                f"{sum(self.seconds) / self.candidates:.2f}",
            ]
        verdicts = f"{self.passed} of {self.of} passed" if self.of else ""
        return [
            self.family,
            self.judge,
            str(self.candidates),
            f"{self.prepared_s:.1f}" if self.prepared_s else "–",
            *figures,
            "; ".join(filter(None, [verdicts, self.problem])),
        ]


_HEADER = (
    "candidates",
    "judge",
    "n",
    "once s",
    "first s",
    "p50 s",
    "p95 s",
    "total / n s",
    "verdicts",
)


@dataclass(frozen=True)
class Streamed:
    """What a mixed stream took."""

    candidates: int
    lanes: int
    wall_s: float
    busy: float | None
    """0 to 1; None where nobody could tell."""
    passed: int


def main() -> int:
    """Print the table."""
    options = _options()
    on_gpu = gpu_name() is not None and local_target().is_gpu
    if not on_gpu and not options.cpu:
        told("no GPU that is known here: nothing to show (--cpu runs a CPU analogue)")
        return 2
    target = resolve_target("CPU" if options.cpu else None)
    families = _families(options)
    costs: list[Cost] = []
    streamed: Streamed | None = None
    with contextlib.ExitStack() as stack:
        sessions: list[tuple[Family, LocalSession]] = []
        for family in families:
            session, prepared_s = _prepared(family, target, stack)
            sessions.append((family, session))
            if _wanted(options, f"cost-{family.name}"):
                costs.append(_ours(family, session, prepared_s))
        if _wanted(options, SHARE):
            busy = busy_cpu() if options.cpu else busy_gpu()
            count = 2 * len(sessions) if options.quick else options.stream
            streamed = _stream(sessions, count, busy)
    for family in families:
        if _wanted(options, f"cost-{family.name}"):
            costs += _upstream(family, options, target)
    return _report(costs, streamed, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    only = ["cost-rmsnorm", "cost-gemm", "cost-decode", SHARE]
    parser.add_argument("--only", action="append", choices=only)
    parser.add_argument("--upstream", type=int, default=8)
    parser.add_argument("--nvcc-upstream", type=int, default=2)
    parser.add_argument("--isolated", type=int, default=1)
    parser.add_argument("--stream", type=int, default=64)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    return parser.parse_args()


def _wanted(options: argparse.Namespace, part: str) -> bool:
    return not options.only or part in options.only


def _families(options: argparse.Namespace) -> list[Family]:
    if options.cpu:
        found = [rmsnorm.cpp_family(), gemm.python_family()]
    else:
        found = [rmsnorm.triton_family(), gemm.cuda_family(), paged_decode.triton_family()]
    if options.quick:
        found = [family.shrunk(2, 2) for family in found]
    return [f for f in found if _wanted(options, SHARE) or _wanted(options, f"cost-{f.name}")]


# -- this judge ------------------------------------------------------------------------------------


def _prepared(
    family: Family, target: Target, stack: contextlib.ExitStack
) -> tuple[LocalSession, float]:
    """A prepared session, which is closed with the stack, and the seconds it took."""
    began = time.perf_counter()
    session = LocalJudge().open(family.task(target))
    stack.callback(session.close)
    session.prepare()
    prepared_s = time.perf_counter() - began
    told(f"{family.title}: prepared in {prepared_s:.1f} s")
    return session, prepared_s


def _ours(family: Family, session: LocalSession, prepared_s: float) -> Cost:
    seconds: list[float] = []
    passed, level = 0, "unknown"
    for solution in family.solutions:
        began = time.perf_counter()
        verdict = session.evaluate(solution, PROFILE)
        seconds.append(time.perf_counter() - began)
        passed += verdict.outcome.is_result
        level = verdict.isolation.level if verdict.isolation else level
        told(f"{solution.name}: {verdict.outcome} in {seconds[-1]:.2f} s {verdict.message[-500:]}")
    count = len(seconds)
    judge = f"kernel-generator, a fresh '{level}' sandbox each"
    return _told(Cost(family.title, judge, True, prepared_s, tuple(seconds), passed, count, count))


def _told(cost: Cost) -> Cost:
    """Its row, at once: a run that is cut off has shown something."""
    told(" | ".join(cost.row()))
    return cost


def _stream(
    sessions: Sequence[tuple[Family, LocalSession]], count: int, busy: Busy | None
) -> Streamed:
    """Feed every session its share of `count` candidates, all sessions at once."""
    shares = _shares([family.language == "cuda" for family, _ in sessions], count)
    passed: list[bool] = []

    def feed(family: Family, session: LocalSession, share: int) -> None:
        for i in range(share):
            number = i % len(family.solutions)
            solution = family.solutions[number].model_copy(
                update={"name": f"{family.solutions[number].name}_{i}"}
            )
            passed.append(session.evaluate(solution, PROFILE).outcome.is_result)

    threads = [
        threading.Thread(target=feed, args=(family, session, share))
        for (family, session), share in zip(sessions, shares, strict=True)
    ]
    began = time.perf_counter()
    with busy or contextlib.nullcontext():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    wall_s = time.perf_counter() - began
    share = busy.share if busy else None
    told(f"{count} candidates in {wall_s:.1f} s, {shares} by lane, {sum(passed)} passed")
    told(f"busy: {share}")
    return Streamed(count, len(threads), wall_s, share, sum(passed))


def _shares(compiled: Sequence[bool], count: int) -> list[int]:
    """How many candidates each lane gets: all the same, but for those that nvcc compiles."""
    few = count // _COMPILED_SHARE if not all(compiled) else 0
    others = [at for at, slow in enumerate(compiled) if not slow or not few]
    shares = [few if slow else 0 for slow in compiled]
    for i in range(count - sum(shares)):
        shares[others[i % len(others)]] += 1
    return shares


# -- flashinfer-bench's runners --------------------------------------------------------------------


def _upstream(family: Family, options: argparse.Namespace, target: Target) -> list[Cost]:
    few = options.nvcc_upstream if family.language == "cuda" else options.upstream
    asked: list[tuple[str, str, bool, int]] = [
        ("persistent", "flashinfer-bench, persistent runner", False, few),
        ("isolated", "flashinfer-bench, isolated runner", False, options.isolated),
    ]
    if family.language != "cuda":
        asked.insert(1, ("persistent", "the same, all in one call", True, few))
    return [
        _run_upstream(family.shrunk(count, len(family.workloads)), kind, title, together, target)
        for kind, title, together, count in asked
        if count
    ]


def _run_upstream(family: Family, kind: str, title: str, together: bool, target: Target) -> Cost:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        order = {
            "runner": kind,
            "together": together,
            "definition": family.definition.model_dump(mode="json"),
            "workloads": [w.model_dump(mode="json") for w in family.workloads],
            "solutions": [s.model_dump(mode="json") for s in family.solutions],
            "root": str(family.root or folder),
            "log_dir": str(folder / "logs"),
        }
        environment = {
            **build_environment(target, family.language),
            # Else a second run would find what the first one built.
            "FIB_CACHE_PATH": str(folder / "cache"),
            "TRITON_CACHE_DIR": str(folder / "triton"),
        }
        ran = run_program("upstream", order, folder, _UPSTREAM_LIMIT_S, environment)
    start, *lines = [json.loads(line) for line in ran.answers] or [{"started_s": 0.0}]
    problem = ran.problem if ran.answers or not ran.problem else f"cannot start: {ran.problem}"
    return _told(
        Cost(
            family.title,
            title,
            False,
            start["started_s"],
            tuple(line["seconds"] for line in lines),
            sum(line["passed"] for line in lines),
            sum(line["of"] for line in lines),
            len(family.solutions) if together or not lines else len(lines),
            problem,
        )
    )


# -- the report ------------------------------------------------------------------------------------


def _report(costs: Sequence[Cost], streamed: Streamed | None, options: argparse.Namespace) -> int:
    if options.cpu:
        print("A CPU analogue: its figures say nothing of a GPU.\n")
    print(f"{machine_line('cpu' if options.cpu else 'cuda:0')}\n")
    if costs:
        print(table(_HEADER, [cost.row() for cost in costs]))
    ours = [cost for cost in costs if cost.ours]
    met = all(cost.passed == cost.of for cost in ours)
    for cost in ours:
        if cost.family == "Triton RMSNorm" and not options.quick:
            p50 = quantile(cost.seconds[1:], 0.5)
            print(
                f"\n{cost.family}: p50 {p50:.2f} s; goal {GOAL_S} s "
                f"{_word(p50 <= GOAL_S)}, bar {BAR_S} s {_word(p50 <= BAR_S)}"
            )
            met = met and p50 <= BAR_S
    if streamed is not None:
        met = met and streamed.passed == streamed.candidates
        what = "processors in use" if options.cpu else "device busy (NVML)"
        share = "not known" if streamed.busy is None else f"{streamed.busy:.0%}"
        print(
            f"\nMixed stream of {streamed.candidates} candidates, {streamed.lanes} sessions at "
            f"once: {streamed.wall_s:.1f} s, {streamed.wall_s / streamed.candidates:.2f} s each, "
            f"{streamed.passed} passed; {what} {share} of the time"
        )
    return 0 if met else 1


def _word(met: bool) -> str:
    return "met" if met else "missed"


if __name__ == "__main__":
    sys.exit(main())
