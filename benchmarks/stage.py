"""The stage of `repeatability.py`: one RMSNorm kernel with a dial, judged, and called plainly."""

from __future__ import annotations

import json
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from kernels import rmsnorm
from machine import run_program, told

from kernel_generator.domain.target import TARGETS
from kernel_generator.domain.task import Task
from kernel_generator.evaluation.judge import Profile
from kernel_generator.evaluation.local import LocalJudge
from kernel_generator.evaluation.timing import TimingPlan
from kernel_generator.evaluation.toolchain import build_environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashinfer_bench import Definition, Solution

    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.domain.target import Target

GAIN = 0.03
"""The gain that has to be seen."""
_GAIN_SLACK = 0.003
"""A dial that is further off is set once more."""
_PLAN = TimingPlan(against_itself=True)
_DIALS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06)
"""Shares of rows computed again, among which the one that takes `GAIN` longer is sought."""
_CALLS = 60
"""For a truth: CUPTI's clock ticks every 32 ns or so, and the median is taken."""
_PLAIN_LIMIT_S = 180.0


@dataclass(frozen=True)
class Sizes:
    """Rows of the workloads, and what is computed again of them."""

    rows: tuple[int, ...]
    extra: dict[int, int]
    power: tuple[int, ...]
    """Of these, that take at least 20 us."""


# By copy bandwidth, a row of 16 KiB takes 5.5 ns on an H100, and a call 2.5 us at least.
_ON_H100 = Sizes((64, 1200, 3400, 14418, 14400), {14400: 37000}, (3400, 14418))
ON_CPU = Sizes((16, 128, 512, 500), {500: 1500}, (512,))


def sizes_on(target: Target) -> Sizes:
    """Rows that take about as long there as those of an H100 do on one."""
    times = target.bandwidth_gb_s / TARGETS["H100"].bandwidth_gb_s

    def scaled(rows: int) -> int:
        return round(rows * times)

    return Sizes(
        tuple(map(scaled, _ON_H100.rows)),
        {scaled(rows): scaled(more) for rows, more in _ON_H100.extra.items()},
        tuple(map(scaled, _ON_H100.power)),
    )


@dataclass(frozen=True)
class Stage:
    """Where everything happens."""

    definition: Definition
    target: Target
    sizes: Sizes

    @property
    def on_gpu(self) -> bool:
        """False for `--cpu`."""
        return self.target.is_gpu

    def kernel(self, name: str, extra: Mapping[int, int] | None = None) -> Solution:
        """The kernel under a name; `extra`: by rows, how many are computed again."""
        merged = {**self.sizes.extra, **(extra or {})}
        return rmsnorm.with_dial(name, merged, on_gpu=self.on_gpu)

    def judge(
        self, rows: Sequence[int], names: Sequence[str], incumbent: Solution
    ) -> list[Evaluation]:
        """The kernel under each of these names against the incumbent, in one session."""
        profile = Profile(timing=_PLAN, incumbent=incumbent, held_out=False)
        language = incumbent.spec.language.value
        task = Task(self.definition, rmsnorm.workloads(rows), (), self.target, language)
        session = LocalJudge().open(task)
        try:
            session.prepare()
            found: list[Evaluation] = []
            for name in names:
                verdict = session.evaluate(self.kernel(name), profile)
                found.append(verdict)
                told(
                    f"{name} on {list(rows)} rows: {verdict.outcome} in {verdict.seconds:.1f} s, "
                    f"promoted: {verdict.promoted} {verdict.message[-300:]}"
                )
            return found
        finally:
            session.close()

    def durations(self, cases: Sequence[tuple[Solution, int]]) -> list[float]:
        """Median microseconds of each in a plain process. Raises `RuntimeError` with its reason
        where that process fails."""
        order = {
            "device": "cuda:0" if self.on_gpu else "cpu",
            "kernel": rmsnorm.TRITON_KERNEL,
            "calls": _CALLS,
            "definition": self.definition.model_dump(mode="json"),
            "cases": [{"solution": s.model_dump(mode="json"), "rows": rows} for s, rows in cases],
        }
        language = cases[0][0].spec.language.value
        with tempfile.TemporaryDirectory() as name:
            environment = {
                **build_environment(self.target, language),
                "FIB_CACHE_PATH": f"{name}/cache",
                "TRITON_CACHE_DIR": f"{name}/triton",
            }
            ran = run_program("durations", order, Path(name), _PLAIN_LIMIT_S, environment)
        if ran.problem:
            raise RuntimeError(f"no durations to compare with: {ran.problem}")
        return [statistics.median(json.loads(line)) for line in ran.answers]


@dataclass(frozen=True)
class Slowed:
    """An incumbent that computes some rows once more."""

    rows: int
    dial: int
    """Of these so many, once more."""
    gain: float
    """By how much it takes longer, as a share, in a plain process."""

    def kernel(self, stage: Stage) -> Solution:
        """The incumbent."""
        return stage.kernel(f"rmsnorm_slower_{self.dial}", {self.rows: self.dial})


def plainly(stage: Stage) -> tuple[list[float], list[Slowed]]:
    """How long every workload takes without the judge, and incumbents that take 3 % longer."""
    sizes = stage.sizes
    fast = stage.kernel("fast")
    scanned = [
        Slowed(rows, max(1, round(share * rows)), GAIN) for rows in sizes.power for share in _DIALS
    ]
    cases = [(fast, rows) for rows in (*sizes.rows, *sizes.power)]
    found = stage.durations([*cases, *((one.kernel(stage), one.rows) for one in scanned)])
    truth, scan = found[: len(sizes.rows)], found[len(cases) :]
    wanted: list[Slowed] = []
    for at, rows in enumerate(sizes.power):
        some = slice(at * len(_DIALS), (at + 1) * len(_DIALS))
        longer = np.array(scan[some]) / found[len(sizes.rows) + at] - 1.0
        slope, start = np.polyfit([one.dial for one in scanned[some]], longer, 1)
        dial = (GAIN - start) / slope if slope > 0 else GAIN * rows
        wanted.append(Slowed(rows, round(min(max(dial, 1), rows)), GAIN))
    slowed = _confirmed(stage, wanted)
    if any(one.gain > 0 and abs(one.gain - GAIN) > _GAIN_SLACK for one in slowed):
        nearer = [
            replace(one, dial=round(min(max(one.dial * GAIN / one.gain, 1), one.rows)))
            if one.gain > 0
            else one
            for one in slowed
        ]
        slowed = _confirmed(stage, nearer)
    return truth, slowed


def _confirmed(stage: Stage, wanted: Sequence[Slowed]) -> list[Slowed]:
    """The same with their gains measured."""
    fast = stage.kernel("fast")
    pairs = [(one, s) for s in wanted for one in (fast, s.kernel(stage))]
    found = stage.durations([(kernel, s.rows) for kernel, s in pairs])
    slowed: list[Slowed] = []
    for one, base, slower in zip(wanted, found[::2], found[1::2], strict=True):
        slowed.append(replace(one, gain=slower / base - 1.0))
        told(
            f"{one.dial} of {one.rows} rows again: {base:.2f} us become {slower:.2f} us, "
            f"{slowed[-1].gain:.2%}"
        )
    return slowed
