"""Budgets as hard stops of whole campaigns: no more than what was under way goes beyond one.

Model and devices are SIMULATIONS that name what a reply costs and what an evaluation takes without
spending or taking it; campaign, engine, store, journal, the pace and the pool of devices are real.
"""

from __future__ import annotations

import asyncio
import io
import random
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console

from kernel_generator import KernelGenerator
from kernel_generator.cli.campaign import Campaign, Job
from kernel_generator.domain.budget import Budget
from kernel_generator.domain.conversation import Finish, Reply, Usage
from kernel_generator.evaluation.devices import DevicePool
from kernel_generator.evaluation.judge import Opened
from kernel_generator.models import pace as pace_module
from kernel_generator.models.pace import Pace
from kernel_generator.models.protocol import Patience
from kernel_generator.reporting.progress import Progress
from kernel_generator.runs import database
from kernel_generator.runs.goal import Goal
from kernel_generator.runs.spending import Spending
from tests.runs.sets import RIGHT, a_traceset, an_evaluation

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from flashinfer_bench import TraceSet

    from kernel_generator.domain.conversation import Request
    from kernel_generator.domain.evaluation import Evaluation

NAMES = "abcde"
PATIENT = Patience()
ROUNDS = 2


class PaidModel:
    """Answers in its turn at a pace, at a price of its own choosing. Simulated."""

    name = "simulated"

    def __init__(self, budget: Budget, chosen: random.Random) -> None:
        self._budget, self._chosen, self._pace = budget, chosen, Pace()
        self._under_way: dict[int, Reply] = {}
        self.asked = 0
        self.usd, self.tokens = 0.0, 0
        self.most: Budget | None = None
        """What is spent once all has ended that was under way when the cap was reached; None where
        it was not."""

    async def ask(self, request: Request) -> Reply:
        """A version that nobody wrote before."""
        async with self._pace.turn(PATIENT, request.permit):
            self.asked += 1
            number = self.asked
            text = RIGHT.replace("return", f"# {number}\n    return")
            usage = Usage(self._chosen.randint(0, 900), 0, self._chosen.randint(0, 900))
            dollars = self._chosen.uniform(0.0, 0.7)
            reply = self._under_way[number] = Reply(
                text, Finish.COMPLETE, self.name, usage, dollars
            )
            for _ in range(self._chosen.randint(0, 5)):
                await asyncio.sleep(0)
            self._count(number, reply)
            return reply

    def _count(self, number: int, reply: Reply) -> None:
        cap = self._budget
        self.usd, self.tokens = self.usd + (reply.cost_usd or 0.0), self.tokens + _tokens(reply)
        del self._under_way[number]
        reached = (cap.usd is not None and self.usd >= cap.usd) or (
            cap.tokens is not None and self.tokens >= cap.tokens
        )
        if reached and self.most is None:
            others = self._under_way.values()
            self.most = Budget(
                self.usd + sum(one.cost_usd or 0.0 for one in others),
                self.tokens + sum(_tokens(one) for one in others),
            )

    async def close(self) -> None:
        """Nothing to close."""


def _tokens(reply: Reply) -> int:
    return 0 if reply.usage is None else reply.usage.prompt + reply.usage.completion


@dataclass(eq=False)
class SimulatedDevice:
    """A judge of one device, and its session: an evaluation says that it took `takes_s`."""

    takes_s: float = 0.0
    others_end: threading.Event | None = None
    """Where given, evaluations wait for it."""
    in_vain: bool = False
    evaluated: int = 0
    opened: Opened = field(default_factory=Opened)
    place: str = "simulated"
    slots: int = 1

    def check(self) -> None:
        """Nothing is isolated."""

    def has_room(self) -> bool:
        return True

    def open(self, task: Any) -> SimulatedDevice:
        return self

    def prepare(self) -> None:
        """Nothing to prepare."""

    def rest(self) -> None:
        """Nothing to give back."""

    def evaluate(self, solution: Any, profile: Any) -> Evaluation:
        self.evaluated += 1
        if self.others_end is not None:
            self.in_vain = not self.others_end.wait(60)
        return an_evaluation(promoted=False).model_copy(update={"seconds": self.takes_s})

    def close(self) -> None:
        """Nothing to close."""


class Told(Progress):
    """What is told, and when all definitions but one have ended."""

    def __init__(self, console: Console, definitions: int, event: threading.Event | None) -> None:
        super().__init__(console)
        self._left, self._event = definitions, event

    def ended(self, definition: str) -> None:
        super().ended(definition)
        self._left -= 1
        if self._left == 1 and self._event is not None:
            self._event.set()


def work(
    folder: Path,
    traceset: TraceSet,
    names: str,
    model: PaidModel,
    devices: list[SimulatedDevice],
    spending: Spending,
    all_but_one_end: threading.Event | None = None,
) -> str:
    """What a campaign told that wanted `ROUNDS` versions of each definition."""
    told = io.StringIO()
    progress = Told(Console(file=told, width=400), len(names), all_but_one_end)
    generator = KernelGenerator(
        model=model,
        language="python",
        target_gpu="V100",
        store=folder / "runs.db",
        judge=DevicePool(devices),
        on_event=progress,
        budget=spending,
    )
    goal = Goal(ROUNDS, keep_improving=True)
    jobs = [Job(generator, traceset, name, goal) for name in names]
    Campaign(jobs, progress, len(names)).work()
    return told.getvalue()


def test_spending_never_exceeds_the_cap_by_more_than_what_was_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over 100 random campaigns; simulated."""
    # Nobody pulls a plug: the store need not wait for the disk.
    monkeypatch.setattr(database, "_PRAGMAS", ("journal_mode = WAL", "synchronous = OFF"))
    chosen, cut_short = random.Random(0), 0
    traceset = a_traceset(tmp_path / "set", *NAMES, sizes=(3,))
    for number in range(100):
        budget = chosen.choice(
            [Budget(usd=chosen.uniform(0.05, 1.5)), Budget(tokens=chosen.randint(1, 4000))]
        )
        names = NAMES[: chosen.randint(1, len(NAMES))]
        monkeypatch.setattr(pace_module, "START", chosen.randint(1, 8))
        model, spending, device = PaidModel(budget, chosen), Spending(budget), SimulatedDevice()
        told = work(tmp_path / str(number), traceset, names, model, [device], spending)
        assert (spending.usd, spending.tokens) == (model.usd, model.tokens)
        # Every reply that was paid for was judged.
        assert device.evaluated == model.asked
        if model.most is not None:
            assert model.usd <= (model.most.usd or 0.0) + 1e-9
            assert model.tokens <= (model.most.tokens or 0)
        if model.asked < ROUNDS * len(names):
            cut_short += 1
            assert model.most is not None
            assert "the budget is spent" in told
    assert cut_short > 50


def test_no_evaluation_begins_once_the_judges_time_is_spent(tmp_path: Path) -> None:
    """Simulated."""
    traceset = a_traceset(tmp_path / "set", *NAMES, sizes=(3,))
    budget = Budget(device_s=1.0)
    for number, (devices, takes_s, most) in enumerate([(1, 0.5, 2), (1, 3.0, 1), (3, 1.0, 3)]):
        spending, model = Spending(budget), PaidModel(budget, random.Random(number))
        judges = [SimulatedDevice(takes_s) for _ in range(devices)]
        told = work(tmp_path / str(number), traceset, NAMES, model, judges, spending)
        evaluated = sum(judge.evaluated for judge in judges)
        assert 1 <= evaluated <= most
        assert spending.device_s == evaluated * takes_s
        assert "s of the judge's time" in told


def test_whoever_waits_for_a_device_waits_no_longer_than_the_wall_time(tmp_path: Path) -> None:
    """Simulated: the device is busy with one definition until all others have ended."""
    traceset = a_traceset(tmp_path / "set", *NAMES, sizes=(3,))
    budget = Budget(wall_s=1.0)
    device = SimulatedDevice(others_end=(others_end := threading.Event()))
    model = PaidModel(budget, random.Random(0))
    told = work(tmp_path, traceset, NAMES, model, [device], Spending(budget), others_end)
    assert not device.in_vain
    assert device.evaluated <= 1
    assert "the budget is spent: 1 of 1 s" in told
