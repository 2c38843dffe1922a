"""Whether the judge's figures repeat, tell 3 % from nothing, and are true.

    python benchmarks/repeatability.py [--names 20] [--rounds 1] [--power 20] [--quick] [--cpu]

One RMSNorm kernel is judged under `--names` names, `--rounds` times each, with itself as incumbent:
every evaluation starts a fresh process for it and makes fresh inputs. Its five workloads take about
2, 8, 20, 80 and 300 us (of the last, rows are computed several times). Counted are the intervals of
the speedup over the incumbent that cover 1, the promotions, how far GPU times are from their median
over all names, and how far from CUPTI's durations of the same kernel in a plain process. For the
power the incumbent computes some rows once more: as many as make it 3 % slower by CUPTI. Each of
`--power` names is then judged on one workload alone, and promotions are counted.

A share is shown with Wilson's 95 % interval; `--rounds` narrows it. `--quick` takes a few names.
`--cpu` goes through the same steps with a C++ kernel and the clock of a plain process in CUPTI's
place: a check of this program, whose figures say nothing of a GPU. Exits with 1 where a line
fails, with 2 where there is no GPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernels import rmsnorm
from machine import Share, machine_line, table, told
from stage import ON_CPU, Stage, plainly, sizes_on

from kernel_generator.evaluation.toolchain import gpu_name
from kernel_generator.runs.defaults import local_target, resolve_target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stage import Slowed

    from kernel_generator.domain.evaluation import Evaluation, WorkloadEvaluation

COVERED, FALSE, POWERFUL = 0.95, 0.005, 0.9
MEDIUM_US, LONG_US = 5.0, 20.0
MEDIUM_SPREAD, LONG_SPREAD = 0.03, 0.01
TRUE_SHARE, TRUE_US = 0.03, 0.5
_AGAINST = "incumbent"


@dataclass(frozen=True)
class Claim:
    """A line of the table."""

    claim: str
    measured: str
    needed: str
    met: bool | None
    """None where nothing is needed."""

    def row(self) -> list[str]:
        """Its cells."""
        verdict = "" if self.met is None else "pass" if self.met else "FAIL"
        return [self.claim, self.measured, self.needed, verdict]


def main() -> int:
    """Print the table."""
    options = _options()
    on_gpu = gpu_name() is not None and local_target().is_gpu
    if not on_gpu and not options.cpu:
        told("no GPU that is known here: nothing to show (--cpu goes through the same steps)")
        return 2
    target = resolve_target("CPU" if options.cpu else None)
    stage = (
        Stage(rmsnorm.definition(rmsnorm.CPU_HIDDEN, "float32"), target, ON_CPU)
        if options.cpu
        else Stage(rmsnorm.definition(), target, sizes_on(target))
    )
    count, power = (3, 2) if options.quick else (options.names, options.power)
    names = [f"rmsnorm_name_{i}" for i in range(count)] * options.rounds
    evaluations = stage.judge(stage.sizes.rows, names, stage.kernel("rmsnorm_incumbent"))
    records = {
        rows: [_on(e, rows) for e in evaluations if e.outcome.is_result]
        for rows in stage.sizes.rows
    }
    claims = [_passed(evaluations), *_same(evaluations, records), *_spread(records)]
    try:
        truth, slowed = plainly(stage)
        claims.append(_truth(records, truth))
        claims += [_power(stage, slow, power) for slow in slowed]
    except RuntimeError as error:
        truth = [float("nan")] * len(stage.sizes.rows)
        claims.append(Claim("truth and power", f"not shown: {error}", "shown", False))
    if options.cpu:
        print("On a CPU: a check of the program. The figures say nothing of a GPU.\n")
    print(f"{machine_line('cpu' if options.cpu else 'cuda:0')}\n")
    print(table(("claim", "measured", "needed", "verdict"), [claim.row() for claim in claims]))
    print(f"\n{_details(records, truth, options.cpu)}")
    return 0 if all(claim.met is not False for claim in claims) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--power", type=int, default=20)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    return parser.parse_args()


# -- one kernel against itself ---------------------------------------------------------------------


def _on(evaluation: Evaluation, rows: int) -> WorkloadEvaluation:
    return next(w for w in evaluation.workloads if w.axes["batch_size"] == rows)


def _passed(evaluations: Sequence[Evaluation]) -> Claim:
    share = Share(sum(e.outcome.is_result for e in evaluations), len(evaluations))
    return Claim("verdicts that pass", f"{share.hits}/{share.total}", "all", share.value == 1.0)


def _same(
    evaluations: Sequence[Evaluation], records: Mapping[int, Sequence[WorkloadEvaluation]]
) -> list[Claim]:
    compared = [w for some in records.values() for w in some if _AGAINST in w.speedups]
    intervals = [w.speedups[_AGAINST] for w in compared]
    covering = Share(sum(i.low <= 1.0 <= i.high for i in intervals), len(intervals))
    decided = [e for e in evaluations if e.promoted is not None]
    promoted = Share(sum(e.promoted is True for e in decided), len(decided))
    alone = Share(
        sum(w.speedups[_AGAINST].low > 1.0 + (w.noise or 0.0) for w in compared), len(compared)
    )
    noises = [w.noise for w in compared if w.noise is not None]
    noise = f"{statistics.median(noises):.2%}, at most {max(noises):.2%}" if noises else "none"
    return [
        Claim(
            "against itself: intervals that cover 1",
            str(covering),
            f">= {COVERED:.0%}",
            covering.value >= COVERED,
        ),
        Claim(
            "against itself: promoted, all workloads together",
            str(promoted),
            f"<= {FALSE:.1%}",
            promoted.value <= FALSE,
        ),
        Claim(
            "against itself: would be promoted on one workload alone",
            str(alone),
            f"<= {FALSE:.1%}",
            alone.value <= FALSE,
        ),
        Claim("A/A noise of a workload, median", noise, "", None),
    ]


def _times(records: Sequence[WorkloadEvaluation]) -> list[float]:
    return [w.timing.device_us.value for w in records if w.timing and w.timing.device_us]


def _furthest(times: Sequence[float]) -> float:
    """Share of the median by which one of them is off at most."""
    middle = statistics.median(times)
    return max(abs(t / middle - 1) for t in times)


def _spread(records: Mapping[int, Sequence[WorkloadEvaluation]]) -> list[Claim]:
    found = {rows: _times(some) for rows, some in records.items()}
    classes = (
        (f">= {LONG_US:.0f} us", LONG_US, float("inf"), LONG_SPREAD),
        (f"{MEDIUM_US:.0f} to {LONG_US:.0f} us", MEDIUM_US, LONG_US, MEDIUM_SPREAD),
    )
    claims: list[Claim] = []
    for name, least, most, allowed in classes:
        spreads = [
            _furthest(times)
            for times in found.values()
            if times and least <= statistics.median(times) < most
        ]
        worst = max(spreads, default=None)
        claims.append(
            Claim(
                f"times across fresh processes, {name}: furthest from the median",
                f"{worst:.2%} on {len(spreads)} workloads" if worst is not None else "none",
                f"<= {allowed:.0%}",
                worst is not None and worst <= allowed,
            )
        )
    return claims


def _truth(records: Mapping[int, Sequence[WorkloadEvaluation]], truth: Sequence[float]) -> Claim:
    """Every single reported time has to hold, not their median."""
    wrong: list[str] = []
    total = 0
    for (rows, some), true in zip(records.items(), truth, strict=True):
        for time in _times(some):
            total += 1
            if abs(time - true) > max(TRUE_SHARE * true, TRUE_US):
                wrong.append(f"{time:.2f} for {true:.2f} us ({rows} rows)")
    measured = f"{total - len(wrong)}/{total} reported times hold"
    if wrong:
        measured += f"; not: {'; '.join(wrong[:3])}"
    needed = f"all within {TRUE_SHARE:.0%} or {TRUE_US} us"
    return Claim("truth, against a plain process", measured, needed, bool(total) and not wrong)


# -- power -----------------------------------------------------------------------------------------


def _power(stage: Stage, slowed: Slowed, count: int) -> Claim:
    names = [f"rmsnorm_faster_{i}" for i in range(count)]
    found = stage.judge([slowed.rows], names, slowed.kernel(stage))
    promoted = Share(sum(e.promoted is True for e in found), len(found))
    return Claim(
        f"a true gain of {slowed.gain:.2%} on {slowed.rows} rows: promoted",
        str(promoted),
        f">= {POWERFUL:.0%}",
        promoted.value >= POWERFUL,
    )


# -- what lies behind it ---------------------------------------------------------------------------


def _details(
    records: Mapping[int, Sequence[WorkloadEvaluation]], truth: Sequence[float], cpu: bool
) -> str:
    rows: list[list[str]] = []
    for (count, some), true in zip(records.items(), truth, strict=True):
        times = _times(some)
        if not times:
            continue
        intervals = [w.speedups[_AGAINST] for w in some if _AGAINST in w.speedups]
        widths = [(i.high - i.low) / i.value for i in intervals]
        rows.append(
            [
                str(count),
                f"{true:.2f}",
                f"{statistics.median(times):.2f}",
                f"{min(times):.2f} to {max(times):.2f}",
                f"{_furthest(times):.2%}",
                f"{statistics.median(widths):.2%}" if widths else "–",
            ]
        )
    plain = "plain process us" if cpu else "CUPTI us"
    header = ("rows", plain, "judge, median us", "range", "furthest", "interval's width")
    return table(header, rows)


if __name__ == "__main__":
    sys.exit(main())
