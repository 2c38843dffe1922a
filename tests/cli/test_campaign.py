"""Many definitions at once: beside each other, fairly, and none stopped by another."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from kernel_generator import KernelGenerator
from kernel_generator.cli.campaign import Campaign, Job
from kernel_generator.cli.console import Lasting
from kernel_generator.cli.exits import Exit
from kernel_generator.domain.budget import Budget
from kernel_generator.domain.conversation import Finish, Reply, Usage
from kernel_generator.domain.errors import ProviderRefused, ProviderUnavailable, RequestRefused
from kernel_generator.domain.events import Saved
from kernel_generator.evaluation.judge import Opened
from kernel_generator.reporting.progress import Progress
from kernel_generator.runs.goal import Goal
from kernel_generator.runs.journal import known_runs
from kernel_generator.runs.observers import each
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
    from kernel_generator.domain.events import Event, Observer


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

    def __init__(self, does: Callable[[str], Awaitable[None]], name: str = "scripted") -> None:
        self._does, self.name = does, name
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
        observer: Observer | None = None,
        console: Console | None = None,
    ) -> None:
        self.store = tmp_path / "runs.db"
        self._out = io.StringIO()
        traceset = a_traceset(tmp_path / "set", *names)
        self.progress = Progress(console or Console(file=self._out, width=400))
        generator = KernelGenerator(
            model=model,
            language="python",
            target_gpu="V100",
            store=self.store,
            judge=PassesAll(),
            on_event=each(self.progress, observer) if observer else self.progress,
            budget=Spending(budget),
        )
        goal = Goal(rounds, keep_improving=True)
        self.jobs = [Job(generator, traceset, name, goal) for name in names]
        self.campaign = Campaign(self.jobs, self.progress, at_once, " --store here.db")

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
    assert "not begun: 4 definitions; for them, this command with -d c -d d -d e -d f" in work.told


def test_a_request_that_is_refused_is_its_definitions_affair(tmp_path: Path) -> None:
    async def refuse(definition: str) -> None:
        if definition == "a":
            raise RequestRefused("too long")

    work = Work(tmp_path, "abcdef", Answers(refuse), at_once=2)
    assert work.run() is Exit.UNSOLVED
    assert work.outcomes == {"a": "FAILED"} | dict.fromkeys("bcdef", "PASSED")
    assert "not begun" not in work.told


def test_a_model_that_is_refused_leaves_the_others_alone_and_names_what_it_passed_over(
    tmp_path: Path,
) -> None:
    async def refuse(_: str) -> None:
        raise ProviderRefused("no such model")

    gone = Work(tmp_path / "gone", "abc", Answers(refuse, "gone"))
    here = Work(tmp_path / "here", "de", Answers(nothing))
    jobs = [replace(job, run_id=None) for job in (*gone.jobs, *here.jobs)]
    campaign = Campaign(jobs, here.progress, 1)
    assert campaign.work() is Exit.PROVIDER
    outcomes = {row.definition: row.outcome for row in campaign.rows}
    assert outcomes == {"a": "FAILED", "d": "PASSED", "e": "PASSED"}
    assert "not begun: 2 definitions; for them, this command with -d b -d c" in here.told


def test_runs_that_were_passed_over_are_named(tmp_path: Path) -> None:
    async def refuse(_: str) -> None:
        raise ProviderRefused("no such model")

    work = Work(tmp_path, "abc", Answers(refuse), at_once=3)
    work.run()
    ids = {run.settings.definition: run.run_id for run in known_runs(Store(work.store))[0]}
    jobs = [replace(job, run_id=ids[job.definition]) for job in work.jobs]
    assert Campaign(jobs, work.progress, 1, " --store here.db").work() is Exit.PROVIDER
    left = f"({ids['b']}, {ids['c']})"
    go_on = "for them: kernel-generator resume --all --store here.db"
    assert f"not touched: 2 runs {left}; {go_on}" in work.told


def test_an_observer_that_raises_changes_nothing(tmp_path: Path) -> None:
    def fails(event: Event) -> None:
        if isinstance(event, Saved):
            raise ZeroDivisionError("of the observer's own")

    work = Work(tmp_path, "abc", Answers(nothing), observer=fails)
    assert work.run() is Exit.SOLVED
    assert work.outcomes == dict.fromkeys("abc", "PASSED")


def test_what_goes_wrong_in_saving_stays_with_its_definition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def may_fail(self: KernelGenerator, solution: Any, traceset: Any) -> Any:
        if solution.definition == "b":
            raise ZeroDivisionError("a bug")
        return save(self, solution, traceset)

    save = KernelGenerator.save
    monkeypatch.setattr(KernelGenerator, "save", may_fail)
    work = Work(tmp_path, "abc", Answers(nothing))
    assert work.run() is Exit.FAULT
    assert [row.solved for row in work.campaign.rows] == [True, False, True]
    assert "a fault of this program, ZeroDivisionError: a bug" in work.told


def test_a_console_whose_reader_has_gone_changes_nothing(tmp_path: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w", closefd=False) as gone:
        work = Work(tmp_path, "abc", Answers(nothing), console=Lasting(file=gone))
        assert work.run() is Exit.SOLVED
        assert work.outcomes == dict.fromkeys("abc", "PASSED")
        # What was left unwritten would be written once more when it is closed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), writes)
    os.close(writes)


def test_after_ctrl_c_one_run_is_named(tmp_path: Path) -> None:
    async def interrupt(_: str) -> None:
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()

    work = Work(tmp_path, "a", Answers(interrupt))
    assert work.run() is Exit.INTERRUPTED
    [run] = known_runs(Store(work.store))[0]
    assert f"to go on: kernel-generator resume {run.run_id} --store here.db" in work.told


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
    assert "not begun: 2 definitions; for them, this command with -d b -d c" in work.told
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
    assert "not begun: 1 definition; for them, this command with -d c" in work.told
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
