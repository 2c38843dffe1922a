"""Many definitions at once: beside each other, fairly, and none stopped by another."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import signal
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from kernel_generator import KernelGenerator
from kernel_generator.cli.campaign import Campaign, Job
from kernel_generator.cli.exits import Exit
from kernel_generator.domain.budget import Budget
from kernel_generator.domain.conversation import Finish, Reply, Usage
from kernel_generator.domain.errors import ProviderRefused, ProviderUnavailable
from kernel_generator.evaluation.judge import Opened
from kernel_generator.reporting.progress import Progress
from kernel_generator.runs.goal import Goal
from kernel_generator.runs.journal import known_runs
from kernel_generator.runs.spending import Spending
from kernel_generator.runs.store import Store
from tests.cli.commands import UNTIMED, Shell, at
from tests.loopback import LoopbackServer, says
from tests.runs.sets import RIGHT, a_traceset, an_evaluation, write_definition

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from kernel_generator.domain.conversation import Request
    from kernel_generator.domain.evaluation import Evaluation


class PassesAll:
    """A judge that lets everything pass. Scripted."""

    opened = Opened()

    def check(self) -> None:
        """Nothing is isolated."""

    def open(self, task: Any) -> PassesAll:
        return self

    def prepare(self) -> None:
        """Nothing to prepare."""

    def evaluate(self, solution: Any, profile: Any) -> Evaluation:
        return an_evaluation(promoted=False)

    def close(self) -> None:
        """Nothing to close."""


class Answers:
    """A model that does what a function does, then answers. Scripted."""

    name = "scripted"

    def __init__(self, does: Callable[[str], Awaitable[None]]) -> None:
        self._does = does
        self.asked: list[str] = []

    async def ask(self, request: Request) -> Reply:
        definition = request.brief.definition.name
        self.asked.append(definition)
        await self._does(definition)
        text = RIGHT.replace("return", f"# {len(self.asked)}\n    return")
        return Reply(text, Finish.COMPLETE, self.name, Usage(prompt=10, completion=10), 0.1)

    async def close(self) -> None:
        """Nothing to close."""


class Work:
    """A campaign over some definitions, and what it printed."""

    def __init__(
        self,
        tmp_path: Path,
        names: str,
        model: Answers,
        *,
        at_once: int = 32,
        rounds: int = 2,
        budget: Budget | None = None,
    ) -> None:
        self.store = tmp_path / "runs.db"
        self._out = io.StringIO()
        traceset = a_traceset(tmp_path / "set", *names)
        progress = Progress(Console(file=self._out, width=400))
        generator = KernelGenerator(
            model=model,
            language="python",
            target_gpu="V100",
            store=self.store,
            judge=PassesAll(),
            on_event=progress,
            budget=Spending(budget),
        )
        goal = Goal(rounds, keep_improving=True)
        jobs = [Job(generator, traceset, name, goal) for name in names]
        self.campaign = Campaign(jobs, progress, at_once, " --store here.db")

    def run(self) -> Exit:
        return self.campaign.work()

    @property
    def outcomes(self) -> dict[str, str]:
        return {row.definition: row.outcome for row in self.campaign.rows}

    @property
    def told(self) -> str:
        return self._out.getvalue()


async def nothing(_: str) -> None:
    """Answers at once."""


def test_definitions_are_asked_for_beside_each_other(tmp_path: Path) -> None:
    together = asyncio.Barrier(3)

    async def wait_for_the_others(_: str) -> None:
        async with asyncio.timeout(60):
            await together.wait()

    work = Work(tmp_path, "abc", Answers(wait_for_the_others))
    assert work.run() is Exit.SOLVED
    assert work.outcomes == dict.fromkeys("abc", "PASSED")
    assert "  b: round 2 improve: PASSED" in work.told


def test_no_more_than_asked_for_are_under_way(tmp_path: Path) -> None:
    under_way, most = set[str](), 0

    async def count(definition: str) -> None:
        nonlocal most
        under_way.add(definition)
        most = max(most, len(under_way))
        for _ in range(20):
            await asyncio.sleep(0)
        under_way.discard(definition)

    work = Work(tmp_path, "abcdef", Answers(count), at_once=2)
    assert work.run() is Exit.SOLVED
    assert most <= 2
    assert len(work.campaign.rows) == 6


def test_a_shared_budget_is_spent_on_all_alike(tmp_path: Path) -> None:
    model = Answers(nothing)
    work = Work(tmp_path, "abcd", model, rounds=50, budget=Budget(usd=4.0))
    assert work.run() is Exit.SOLVED
    times = [model.asked.count(name) for name in "abcd"]
    assert sum(times) <= 40 + 4
    assert max(times) - min(times) <= 2


def test_one_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    async def may_fail(definition: str) -> None:
        if definition == "b":
            raise ProviderUnavailable("gone for b")

    work = Work(tmp_path, "abc", Answers(may_fail))
    assert work.run() is Exit.UNSOLVED
    assert work.outcomes == {"a": "PASSED", "b": "FAILED", "c": "PASSED"}


def test_a_fault_of_this_program_is_told_and_leaves_the_others_alone(tmp_path: Path) -> None:
    async def may_fail(definition: str) -> None:
        if definition == "b":
            raise ZeroDivisionError("a bug")

    work = Work(tmp_path, "abc", Answers(may_fail))
    assert work.run() is Exit.FAULT
    assert work.outcomes == {"a": "PASSED", "b": "FAILED", "c": "PASSED"}
    assert "a fault of this program, ZeroDivisionError: a bug" in work.told


def test_no_further_one_is_begun_once_the_provider_refuses(tmp_path: Path) -> None:
    async def refuse(_: str) -> None:
        raise ProviderRefused("no such key")

    work = Work(tmp_path, "abcdef", Answers(refuse), at_once=2)
    assert work.run() is Exit.PROVIDER
    assert set(work.outcomes) == {"a", "b"}
    assert "not begun: 4 definitions; optimize -d c -d d -d e -d f" in work.told


def test_no_further_one_is_begun_once_the_store_takes_nothing_more_and_no_reply_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    async def spoil(_: str) -> None:
        with contextlib.closing(sqlite3.connect(work.store)) as connection:
            connection.execute("DROP TABLE texts")

    work = Work(tmp_path, "abc", model := Answers(spoil), at_once=1)
    assert work.run() is Exit.UNSOLVED
    assert model.asked == ["a"]
    assert "not begun: 2 definitions; optimize -d b -d c" in work.told
    [kept] = tmp_path.glob("rescued_reply_*_r1.json")
    run = kept.name.split("_")[2]
    assert f"the reply of round 1 of run {run} was paid for, and is kept in {kept}" in work.told
    assert "return x * 2 + 1" in json.loads(kept.read_text())["text"]


def test_ctrl_c_keeps_what_passed_and_says_how_to_go_on(tmp_path: Path) -> None:
    held = asyncio.Event()

    async def answer_once(definition: str) -> None:
        if model.asked.count(definition) == 2:
            if sum(model.asked.count(name) == 2 for name in "ab") == 2:
                signal.raise_signal(signal.SIGINT)
            await held.wait()

    model = Answers(answer_once)
    work = Work(tmp_path, "abc", model, at_once=2)
    assert work.run() is Exit.INTERRUPTED
    assert work.outcomes == {"a": "PASSED", "b": "PASSED"}
    assert "to go on: kernel-generator resume --all --store here.db" in work.told
    assert "not begun: 1 definition; optimize -d c" in work.told
    found, problems = known_runs(Store(work.store))
    assert not problems
    assert [run.history.reason for run in found] == [None, None]
    assert len(list((tmp_path / "set" / "solutions").rglob("*.json"))) == 2


@pytest.mark.slow
def test_several_trace_sets_share_one_command(shell: Shell, tmp_path: Path) -> None:
    write_definition(tmp_path / "other", "second", sizes=(3,))
    with LoopbackServer([says(RIGHT), says(RIGHT)]) as server:
        ran = shell.run("optimize", "set", "other", *at(server), *UNTIMED)
    assert ran.code == 0, ran.err
    assert "processed 2 of 2, successful 2" in ran.out
    for name in ("set", "other"):
        assert len(list((tmp_path / name / "solutions").rglob("*.json"))) == 1


def test_a_definition_that_no_set_has_is_told_and_nothing_is_asked(
    shell: Shell, tmp_path: Path
) -> None:
    write_definition(tmp_path / "other", "second", sizes=(3,))
    with LoopbackServer() as server:
        ran = shell.run("optimize", "set", "other", *at(server), *UNTIMED, "-d", "third")
    assert ran.code == 2
    assert "unknown definition 'third'" in ran.err
