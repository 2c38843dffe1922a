"""Runs killed at random instants and resumed: what is lost, asked twice or judged twice.

    python benchmarks/crash.py [--kills 200] [--real 4] [--seed 0]

Each run is a process that is sent SIGKILL one to three times on its way, and then goes on to its
end. The model is a script and, but for the `--real` kills, verdicts are recorded ones that take
some milliseconds: a SIMULATION of a provider and a judge, around the real store, journal and loop.
The `--real` kills fall into runs that judge on this machine's CPU.

Checked after every run: all events that were there at a kill are there in the end, byte for byte;
no stored reply was asked for again and no finished evaluation repeated; with recorded verdicts the
history equals that of a run that nobody stopped, with real ones the outcomes do. Exits with 1
where one of these does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The trace sets and records are the tests', which are not installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))

import torch
from machine import machine_line, table

from kernel_generator.domain.outcome import Outcome
from kernel_generator.domain.target import TARGETS
from kernel_generator.evaluation.judge import Opened
from kernel_generator.evaluation.local import LocalJudge
from kernel_generator.models.scripted import ScriptedModel
from kernel_generator.runs.author import Author
from kernel_generator.runs.engine import Run
from kernel_generator.runs.goal import Goal
from kernel_generator.runs.journal import Journal
from kernel_generator.runs.settings import RunSettings
from kernel_generator.runs.store import Store
from kernel_generator.runs.tasks import make_task
from kernel_generator.search.refine import Refine
from tests.runs.sets import RIGHT, a_traceset, an_evaluation

if TYPE_CHECKING:
    from flashinfer_bench import Solution

    from kernel_generator.domain.conversation import Request
    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.judge import Judge, Profile
    from kernel_generator.runs.store import StoredEvent

ROUNDS, REAL_ROUNDS = 6, 3
RUN = "crashing"
_OF_A_STEP_S = 0.004
"""What a simulated reply or verdict takes, twice that at most."""
_MOST_KILLS = 3
"""Of one run."""
_AGAIN = "resumed"
_STEPS = ["asked", "replied", "read", "judged", "attempted"]


@dataclass(frozen=True)
class Place:
    """Where one run happens."""

    folder: Path
    real: bool

    @property
    def store(self) -> Path:
        """The store's file."""
        return self.folder / "runs.db"

    def note(self, what: str) -> None:
        """Note a request or a verdict where no store is needed to read it."""
        with (self.folder / "log").open("a") as log:
            log.write(f"{what}\n")

    def noted(self) -> Counter[str]:
        """How often what happened."""
        path = self.folder / "log"
        return Counter(path.read_text().splitlines() if path.exists() else [])

    def events(self) -> list[StoredEvent]:
        """The run's, so far."""
        if not self.store.exists():
            return []
        store = Store(self.store)
        try:
            return store.events(RUN)
        finally:
            store.close()


class Recorded:
    """A judge and its session: verdicts that depend on the round alone. Simulated."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.opened = Opened()

    def open(self, task: Task) -> Recorded:
        """Itself."""
        del task
        return self

    def prepare(self) -> None:
        """Nothing to prepare."""

    def evaluate(self, solution: Solution, profile: Profile) -> Evaluation:
        """Wrong in the first round, then ever faster."""
        number = next(n for n in range(1, ROUNDS + 1) if f"_r{n}_" in solution.name)
        self._place.note(f"judged {number} {'certified' if profile.certified else 'searched'}")
        time.sleep(random.uniform(1, 2) * _OF_A_STEP_S)
        found = an_evaluation(
            Outcome.WRONG_VALUES if number == 1 else Outcome.PASSED,
            speedup=float(number),
            promoted=True,
        )
        return found.model_copy(update={"timestamp": "2026-01-01T00:00:00+00:00"})

    def close(self) -> None:
        """Nothing to close."""


@dataclass
class Tally:
    """What all runs came to."""

    kills: int = 0
    runs: int = 0
    in_flight: int = 0
    """Kills that a request was under way at."""
    asked_again: int = 0
    judged_again: int = 0
    failures: list[str] = field(default_factory=list[str])


def work(place: Place) -> None:
    """One run, begun or resumed, to its end."""
    task = make_task(a_traceset(place.folder / "set"), _definition(place), TARGETS["CPU"], "python")
    store = Store(place.store)
    if not store.runs():
        store.begin(RUN, json.loads(_settings().model_dump_json()))

    def answer(request: Request) -> str:
        place.note(f"asked {request.proposal.round}")
        time.sleep(random.uniform(1, 2) * _OF_A_STEP_S)
        # Another source each time: the same one would be judged once.
        return RIGHT.replace("return", f"# {request.proposal.round}\n    return")

    journal = Journal(RUN, store)
    judge: Judge = LocalJudge() if place.real else Recorded(place)
    goal = Goal(REAL_ROUNDS if place.real else ROUNDS, keep_improving=True)
    with journal.held():
        run = Run(task, Author(ScriptedModel(answer)), judge, Refine(), goal, journal)
        asyncio.run(run.work())


def _definition(place: Place) -> Any:
    return a_traceset(place.folder / "set").definitions["scale_add"]


def _settings() -> RunSettings:
    return RunSettings(
        definition="scale_add",
        traceset=None,
        model="scripted",
        language="python",
        target="CPU",
        rounds=ROUNDS,
        strategy="refine",
        isolation="strict",
        program="",
    )


def _start(place: Place) -> int:
    """A process that works on the run; its id."""
    pid = os.fork()
    # Here and there, whoever comes first.
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    if pid:
        return pid
    code = 1
    try:
        random.seed()
        work(place)
        code = 0
    finally:
        os._exit(code)


def _ended(pid: int, within_s: float | None = None) -> int | None:
    """The exit code of a process; None where it has not ended within that time."""
    deadline = None if within_s is None else time.monotonic() + within_s
    while deadline is None or time.monotonic() < deadline:
        found, status = os.waitpid(pid, 0 if deadline is None else os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0005)
    return None


def _uninterrupted(folder: Path, real: bool) -> tuple[list[tuple[str, Any]], float]:
    """The history of a run that nobody stopped, and the seconds it took."""
    place = Place(folder / "whole", real)
    place.folder.mkdir()
    began = time.monotonic()
    if _ended(_start(place)):
        raise SystemExit("the run that nobody stopped failed")
    for number in range(1, (REAL_ROUNDS if real else ROUNDS) + 1):
        kinds = [e.kind for e in place.events() if _round(e) == number]
        if kinds != _STEPS:
            raise SystemExit(f"attempt {number} was noted as {', '.join(kinds)}")
    return _compared(place.events(), real), time.monotonic() - began


def _round(event: StoredEvent) -> int:
    """The attempt that it is of; 0 where it is of none."""
    return event.document["proposal"]["round"] if "proposal" in event.document else 0


def _compared(events: list[StoredEvent], real: bool) -> list[tuple[str, Any]]:
    """What has to be the same: each event once, without times; of real verdicts the outcome."""
    found: dict[str, tuple[str, Any]] = {}
    for event in events:
        if event.kind == _AGAIN:
            continue
        document = dict(event.document)
        if real:
            document = {k: document[k] for k in ("proposal", "outcome") if k in document}
        key = json.dumps([event.kind, document.get("proposal")])
        found[key] = event.kind, document
    return list(found.values())


def _crash(
    place: Place, span_s: float, whole: list[tuple[str, Any]], chosen: random.Random, tally: Tally
) -> None:
    """One run, killed some times, and what became of it."""
    place.folder.mkdir()
    kept: list[StoredEvent] = []
    may_ask_again: Counter[int] = Counter()
    may_judge_again: Counter[int] = Counter()
    for _ in range(chosen.randint(1, _MOST_KILLS)):
        pid = _start(place)
        if _ended(pid, chosen.uniform(0, span_s)) is not None:
            break
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        tally.kills += 1
        now = place.events()
        if now[: len(kept)] != kept:
            tally.failures.append("an event is gone or was altered")
        kept = now
        answered = {_round(e) for e in kept if e.kind == "replied"}
        under_way = {_round(e) for e in kept if e.kind == "asked"} - answered
        tally.in_flight += bool(under_way)
        may_ask_again.update(under_way)
        done = {_round(e) for e in kept if e.kind == "judged"}
        may_judge_again.update({_round(e) for e in kept if e.kind == "read"} - done)
    if _ended(_start(place)):
        tally.failures.append("the resumed run failed")
        return
    tally.runs += 1
    events = place.events()
    if events[: len(kept)] != kept:
        tally.failures.append("an event is gone or was altered after resuming")
    if _compared(events, place.real) != whole:
        tally.failures.append("the history is not that of a run that nobody stopped")
    noted = place.noted()
    for number in range(1, ROUNDS + 1):
        times = noted[f"asked {number}"]
        tally.asked_again += max(0, times - 1)
        if times > 1 + may_ask_again[number]:
            tally.failures.append(f"request {number} was sent {times} times")
        for profile in ("searched", "certified"):
            times = noted[f"judged {number} {profile}"]
            tally.judged_again += max(0, times - 1)
            if times > 1 + may_judge_again[number]:
                tally.failures.append(f"candidate {number} was {profile} {times} times")
    steps = Counter((_round(e), e.kind) for e in events if e.kind in _STEPS[1:])
    if max(steps.values()) > 1:
        tally.failures.append("a step was noted twice")


def _all(folder: Path, kills: int, real: bool, chosen: random.Random) -> Tally:
    tally = Tally()
    folder.mkdir()
    whole, took_s = _uninterrupted(folder, real)
    while tally.kills < kills:
        _crash(Place(folder / f"run-{tally.runs}", real), took_s, whole, chosen, tally)
    return tally


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--real", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = random.Random(options.seed)
    rows: list[list[str]] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        for title, kills, real in (
            ("recorded verdicts (simulated)", options.kills, False),
            ("verdicts of this CPU", options.real, True),
        ):
            if not kills:
                continue
            tally = _all(Path(name, f"{real}"), kills, real, chosen)
            failures += tally.failures
            rows.append(
                [
                    title,
                    str(tally.kills),
                    str(tally.runs),
                    str(tally.in_flight),
                    str(tally.asked_again),
                    # The real judge notes nothing.
                    "not counted" if real else str(tally.judged_again),
                    str(len(tally.failures)),
                ]
            )
    header = ("judge", "kills", "runs", "in flight", "asked again", "judged again", "failures")
    print(f"{machine_line('cpu')}\n\n{table(header, rows)}")
    for failure, count in Counter(failures).items():
        print(f"\n{count} x {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
