"""How much the loop itself costs, and how well it overlaps requests and evaluations.

    python benchmarks/orchestration.py [--only overhead|overlap|devices] [--seed 0]

Model and judge are SIMULATIONS that take a stated time and no work; campaign, engine, prompts,
store, journal, and the pool of devices are real. Times of the last two parts are scaled: a
simulated second takes `SCALE` seconds, and what is printed are simulated seconds.

overhead   2,000 candidates with an instant model and an instant judge: wall time, peak memory.
overlap    26 definitions x 5 rounds, 20 s a reply, one device that takes 0.5 s a candidate: against
           one definition at a time, and against the critical path (the longest of what one
           definition takes by itself and what the device takes in sum).
devices    replies of 20 to 300 s, eight devices that take 20 s a candidate: how busy they are from
           the first time that all of them are until the last reply is in.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

# The trace sets and records are the tests', which are not installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from machine import machine_line, table
from rich.console import Console

from kernel_generator.cli.campaign import Campaign, Job
from kernel_generator.domain.conversation import Finish, Reply, Usage
from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation.devices import DevicePool
from kernel_generator.evaluation.judge import Opened
from kernel_generator.generator import KernelGenerator
from kernel_generator.reporting.progress import Progress
from kernel_generator.runs.goal import Goal
from tests.runs.sets import RIGHT, a_traceset, an_evaluation

if TYPE_CHECKING:
    from flashinfer_bench import Solution

    from kernel_generator.domain.conversation import Request
    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.judge import Profile

SCALE = 0.1
"""Real seconds of a simulated one."""
PARTS = ("overhead", "overlap", "devices")


class Model:
    """Answers after a while. Simulated."""

    name = "simulated"

    def __init__(self, low_s: float, high_s: float, seed: int) -> None:
        self._low_s, self._high_s = low_s, high_s
        self._chosen = random.Random(seed)
        self._asked = 0
        self.last_reply = 0.0

    async def ask(self, request: Request) -> Reply:
        """A version that nobody wrote before."""
        self._asked += 1
        number = self._asked
        if self._high_s:
            await asyncio.sleep(self._chosen.uniform(self._low_s, self._high_s) * SCALE)
        self.last_reply = time.monotonic()
        text = RIGHT.replace("return", f"# {number}\n    return")
        return Reply(text, Finish.COMPLETE, self.name, Usage(prompt=2000, completion=500), 0.01)

    async def close(self) -> None:
        """Nothing to close."""


@dataclass
class Device:
    """A judge of one device, and its session. Simulated."""

    takes_s: float
    opened: Opened = field(default_factory=Opened)
    place: str = "simulated"
    slots: int = 1
    spans: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """When it was busy."""
    _alone: threading.Lock = field(default_factory=threading.Lock)

    def check(self) -> None:
        """Nothing is isolated."""

    def has_room(self) -> bool:
        """Always."""
        return True

    def open(self, task: Task) -> Device:
        """Itself."""
        del task
        return self

    def prepare(self) -> None:
        """Nothing to prepare."""

    def evaluate(self, solution: Solution, profile: Profile) -> Evaluation:
        """Passed, and no better than the first."""
        del solution
        if profile.incumbent is not None and profile.certified:
            raise AssertionError("what was not promoted is not certified")
        began = time.monotonic()
        with self._alone:
            if self.takes_s:
                time.sleep(self.takes_s * SCALE)
        self.spans.append((began, time.monotonic()))
        return an_evaluation(Outcome.PASSED, speedup=2.0, promoted=False)

    def close(self) -> None:
        """Nothing to close."""


def campaign(
    folder: Path, names: int, rounds: int, model: Model, devices: list[Device], at_once: int
) -> float:
    """Seconds that it took."""
    traceset = a_traceset(folder / "set", *(f"d{n}" for n in range(names)), sizes=(3,))
    progress = Progress(Console(file=io.StringIO()))
    generator = KernelGenerator(
        model=model,
        language="python",
        target_gpu="V100",
        store=folder / "runs.db",
        judge=DevicePool(devices),
        on_event=progress,
    )
    goal = Goal(rounds, keep_improving=True)
    jobs = [Job(generator, traceset, name, goal) for name in sorted(traceset.definitions)]
    began = time.monotonic()
    work = Campaign(jobs, progress, at_once)
    work.work()
    took = time.monotonic() - began
    if [row.outcome for row in work.rows] != ["PASSED"] * names:
        raise SystemExit("the campaign did not end as it should")
    return took


def overhead(folder: Path, seed: int) -> list[list[str]]:
    """2,000 candidates for nothing."""
    model, device = Model(0, 0, seed), Device(0)
    took = campaign(folder, 40, 50, model, [device], 40)
    if len(device.spans) != 2000:
        raise SystemExit(f"{len(device.spans)} evaluations")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [["2,000 candidates", f"{took:.1f} s", f"peak memory {peak:.0f} MB"]]


def overlap(folder: Path, seed: int) -> list[list[str]]:
    """Definitions beside each other against one after the other."""
    together = campaign(folder / "a", 26, 5, Model(20, 20, seed), [Device(0.5)], 32) / SCALE
    # One at a time: a fifth of the definitions tells.
    alone = campaign(folder / "b", 5, 5, Model(20, 20, seed), [Device(0.5)], 1) / SCALE * 26 / 5
    critical = max(5 * 20.5, 26 * 5 * 0.5)
    return [
        ["26 x 5, 20 s a reply", f"{together:.0f} s", f"critical path {critical:.0f} s"],
        ["", f"{together / critical:.2f} x the critical path", "asked: at most 1.3"],
        ["one at a time (from 5 definitions)", f"{alone:.0f} s", f"{alone / together:.1f} x"],
    ]


def busy(devices: list[Device], until: float) -> float:
    """Share of their time that they were busy, from when all were until then."""
    began = max(device.spans[0][0] for device in devices)
    spans = [(max(a, began), min(b, until)) for device in devices for a, b in device.spans]
    return sum(b - a for a, b in spans if b > a) / (len(devices) * (until - began))


def eight(folder: Path, seed: int) -> list[list[str]]:
    """Eight devices with more and with less to do than they can."""
    rows: list[list[str]] = []
    for names in (104, 26):
        model, devices = Model(20, 300, seed), [Device(20) for _ in range(8)]
        campaign(folder / f"{names}", names, 5, model, devices, 32 * 8)
        share = busy(devices, model.last_reply)
        # Each definition has one candidate at a time, of which 160 + 20 s are the mean.
        most = min(1.0, names * 20 / 180 / 8)
        told = f"at most {most:.0%} with one candidate a definition"
        rows.append([f"8 devices, {names} definitions", f"{share:.0%} busy", told])
    return rows


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.only is None:
        # A process each: peak memory is a process's.
        print(machine_line("cpu"), flush=True)
        codes = [
            subprocess.run(
                [sys.executable, __file__, "--only", part, "--seed", str(options.seed)], check=False
            ).returncode
            for part in PARTS
        ]
        return max(codes)
    with tempfile.TemporaryDirectory() as name:
        parts = {"overhead": overhead, "overlap": overlap, "devices": eight}
        print(
            f"\n{table(('simulated', 'took', ''), parts[options.only](Path(name), options.seed))}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
