"""What waits in a store goes out as one batch, and what comes back goes to the run that asked.

The server is an imitation on this machine; the journals are made by hand, and nothing is judged.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from kernel_generator.domain.budget import Budget
from kernel_generator.domain.conversation import Finish
from kernel_generator.domain.errors import (
    BudgetSpent,
    ProviderRefused,
    ProviderUnavailable,
    ReplyPending,
    StoreError,
)
from kernel_generator.domain.events import Notice, Replied
from kernel_generator.domain.proposal import Proposal, Purpose
from kernel_generator.domain.target import TARGETS
from kernel_generator.models.batch_openai import OpenAIDesk
from kernel_generator.models.offline import BatchedModel
from kernel_generator.runs.author import Author
from kernel_generator.runs.batches import MAX_TRIES, submit_waiting, take_in
from kernel_generator.runs.engine import Run
from kernel_generator.runs.goal import Goal
from kernel_generator.runs.journal import Journal, known_run
from kernel_generator.runs.settings import RunSettings
from kernel_generator.runs.spending import Spending
from kernel_generator.runs.store import Store
from kernel_generator.runs.tasks import make_task
from kernel_generator.search.refine import Refine
from tests.loopback_batch import BatchServer, answered, rejected, too_late
from tests.models.asking import HURRY, a_request, at
from tests.runs.sets import RIGHT, a_traceset, an_evaluation
from tests.runs.test_journal import Recorded

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path
    from typing import Any

    from kernel_generator.domain.conversation import Reply
    from kernel_generator.domain.events import Event
    from kernel_generator.domain.task import Task
    from tests.loopback_host import Line

FIRST = Proposal(Purpose.DRAFT, 1)
SETTINGS = RunSettings(
    definition="scale_add",
    traceset=None,
    model="local-model",
    language="python",
    target="CPU",
    rounds=3,
    strategy="refine",
    isolation="strict",
    batch=True,
    program="1",
)


@dataclass
class Office:
    """A store, a provider, and what was told."""

    store: Store
    server: BatchServer
    spending: Spending = field(default_factory=Spending)
    events: list[Event] = field(default_factory=list)

    def begin(self, runs: int = 1) -> list[str]:
        """Runs whose first request waits."""
        journals = [Journal.begin(self.store, SETTINGS) for _ in range(runs)]
        for journal in journals:
            journal.asking(FIRST, a_request())
        return [journal.run_id for journal in journals]

    def submit(self, runs: list[str]) -> str | None:
        batch = asyncio.run(
            submit_waiting(self.store, self._desk, runs, self.spending, self.events.append)
        )
        return batch.batch_id if batch is not None else None

    def take_in(self, runs: list[str]) -> str:
        """What was told meanwhile."""
        del self.events[:]
        asyncio.run(take_in(self.store, self._desk, runs, self.spending, self.events.append))
        return self.told

    @property
    def told(self) -> str:
        return "\n".join(event.text for event in self.events if isinstance(event, Notice))

    def reply(self, run: str) -> Reply | None:
        found = known_run(self.store, run).history.replies
        return found[0] if found else None

    @property
    def _desk(self) -> OpenAIDesk:
        return OpenAIDesk(at(self.server.base_url), HURRY)


@pytest.fixture
def office(tmp_path: Path) -> Generator[Office]:
    store = Store(tmp_path / "runs.db")
    with BatchServer() as server:
        yield Office(store, server)
    store.close()


@pytest.fixture
def task(tmp_path: Path) -> Task:
    traceset = a_traceset(tmp_path / "set")
    return make_task(traceset, traceset.definitions["scale_add"], TARGETS["CPU"], "python")


def of(run: str, line: Line) -> bool:
    return line["custom_id"].startswith(run)


def test_many_runs_are_one_batch_and_each_gets_its_own_reply(office: Office) -> None:
    runs = office.begin(5)
    assert office.submit(runs) == "batch_1"
    assert "waiting for replies of 'local-model': 5 requests, in batch batch_1" in office.told
    assert {line["custom_id"] for line in office.server.requests()} == {f"{r}-r1-s1" for r in runs}
    office.server.end(lambda line: answered(line, f"for {line['custom_id']}"))
    assert "batch batch_1 is completed: 5 of 5 replies taken" in office.take_in(runs)
    for run in runs:
        reply = office.reply(run)
        assert reply is not None
        assert reply.text == f"for {run}-r1-s1"
        assert reply.seconds == 90.0
    assert sum(isinstance(event, Replied) for event in office.events) == 5
    assert office.spending.tokens == 5 * 120
    assert office.submit(runs) is None
    assert len(office.server.batches) == 1


def test_a_batch_that_is_not_ready_is_told_and_nothing_is_asked(office: Office) -> None:
    runs = office.begin(2)
    office.submit(runs)
    told = office.take_in(runs)
    assert told == "batch batch_1 is in_progress: 0 of 2 requests done"
    assert office.submit(runs) is None
    assert office.server.asked.count("POST /v1/batches") == 1
    assert office.spending.tokens == 0


def test_what_failed_alone_is_handed_in_again_alone(office: Office) -> None:
    good, bad = office.begin(2)
    office.submit([good, bad])
    office.server.end(
        lambda line: answered(line, "text") if of(good, line) else rejected(line, "odd", "x", 500)
    )
    told = office.take_in([good, bad])
    assert "1 of 2 replies taken" in told
    assert f"run {bad}, round 1: batch batch_1 gave no answer, try 1 of 3: " in told
    assert "odd" in told
    assert office.submit([good, bad]) == "batch_2"
    assert [of(bad, line) for line in office.server.requests()] == [True]


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_what_a_batch_did_not_come_to_is_handed_in_again(office: Office, status: str) -> None:
    first, second = office.begin(2)
    office.submit([first, second])
    office.server.end(
        lambda line: answered(line, "text") if of(first, line) else too_late(line), status=status
    )
    told = office.take_in([first, second])
    assert f"batch batch_1 is {status}: 1 of 2 replies taken" in told
    assert office.reply(first) is not None
    assert office.submit([first, second]) == "batch_2"


def test_a_batch_that_failed_as_a_whole_says_why(office: Office) -> None:
    [run] = office.begin()
    office.submit([run])
    office.server.fail("the enqueued token limit is reached")
    told = office.take_in([run])
    assert "batch batch_1 is failed: 0 of 1 replies taken; the enqueued token limit" in told
    assert office.submit([run]) == "batch_2"


def test_a_request_that_is_never_answered_fails_its_attempt_in_the_end(office: Office) -> None:
    [run] = office.begin()
    for number in range(1, MAX_TRIES + 1):
        assert office.reply(run) is None
        assert office.submit([run]) == f"batch_{number}"
        office.server.end(lambda line: rejected(line, "no such thing", "invalid_request_error"))
        office.take_in([run])
    reply = office.reply(run)
    assert reply is not None
    assert reply.finish is Finish.REFUSED
    assert reply.detail == "no answer in 3 batches, lastly: no such thing"
    assert reply.cost_usd == 0.0
    assert office.submit([run]) is None


def test_a_missing_result_counts_as_no_answer(office: Office) -> None:
    first, second = office.begin(2)
    office.submit([first, second])
    office.server.end(lambda line: answered(line, "text") if of(first, line) else None)
    assert "it is completed without a result" in office.take_in([first, second])
    assert office.reply(second) is None
    assert office.submit([first, second]) == "batch_2"


def test_results_that_were_deleted_count_as_no_answer(office: Office) -> None:
    [run] = office.begin()
    office.submit([run])
    office.server.end(lambda line: answered(line, "text"))
    del office.server.files[office.server.batches["batch_1"]["output_file_id"]]
    assert "it is completed without a result" in office.take_in([run])


def test_results_of_nothing_and_second_results_are_ignored_and_told(office: Office) -> None:
    [run] = office.begin()
    office.submit([run])
    [asked] = office.server.requests()
    strange = answered(asked | {"custom_id": "deadbeef-r1-s1"}, "strange")
    office.server.end(
        lambda line: answered(line, "the first"), strange, answered(asked, "the second"),
        too_late(asked),
    )  # fmt: skip
    told = office.take_in([run])
    assert "1 result answered nothing that was asked: ignored" in told
    assert "2 results came a second time: ignored" in told
    reply = office.reply(run)
    assert reply is not None
    assert reply.text == "the first"


@pytest.mark.parametrize("loses", [0, 500], ids=["the connection", "an error"])
def test_a_batch_whose_making_was_not_heard_of_is_found_and_not_paid_twice(
    office: Office, loses: int
) -> None:
    runs = office.begin(2)
    office.server.loses = loses
    with pytest.raises(ProviderUnavailable):
        office.submit(runs)
    assert office.submit(runs) is None, "it may have been made"
    assert "batch batch_1 is in_progress" in office.take_in(runs)
    office.server.end(lambda line: answered(line, "text"))
    assert "2 of 2 replies taken" in office.take_in(runs)
    assert len(office.server.batches) == 1


class Dies(Store):
    """A store whose program is killed before it notes something. Simulated."""

    def __init__(self, path: Path, before: str, after: int) -> None:
        super().__init__(path)
        self._before, self._left = before, after

    def append(
        self,
        run_id: str,
        kind: str,
        document: Mapping[str, Any],
        texts: Mapping[str, str] | None = None,
        subject: str | None = None,
    ) -> None:
        if kind == self._before:
            self._left -= 1
            if self._left < 0:
                raise StoreError("killed")
        super().append(run_id, kind, document, texts, subject)


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("before", ["submitting", "submitted", "replied"])
def test_a_kill_between_any_two_notes_neither_loses_nor_pays_twice(
    office: Office, before: str, after: int
) -> None:
    runs = office.begin(3)
    doomed = Dies(office.store.path, before, after)
    dying = Office(doomed, office.server)
    if before == "replied":
        office.submit(runs)
        office.server.end(lambda line: answered(line, "text"))
        with pytest.raises(StoreError):
            dying.take_in(runs)
    else:
        with pytest.raises(StoreError):
            dying.submit(runs)
    doomed.close()
    office.take_in(runs)
    office.submit(runs)
    if before != "replied":
        office.server.end(lambda line: answered(line, "text"))
        office.take_in(runs)
    assert len(office.server.batches) == 1
    assert [reply.text for run in runs if (reply := office.reply(run))] == ["text"] * 3
    assert office.spending.tokens == (3 - (after if before == "replied" else 0)) * 120


def test_one_run_of_a_batch_may_go_on_before_the_others(office: Office) -> None:
    first, second = office.begin(2)
    office.submit([first, second])
    office.server.end(lambda line: answered(line, "text"))
    assert "ignored" not in office.take_in([first])
    assert office.reply(second) is None
    office.take_in([first, second])
    assert office.reply(second) is not None
    assert office.spending.tokens == 2 * 120


def test_a_run_that_somebody_works_on_is_passed_over(office: Office) -> None:
    first, second = office.begin(2)
    with office.store.working_on(first):
        office.submit([first, second])
    assert [of(second, line) for line in office.server.requests()] == [True]


def test_a_spent_budget_hands_nothing_in(office: Office) -> None:
    [run] = office.begin()
    office.spending = Spending(Budget(tokens=0))
    with pytest.raises(BudgetSpent, match="0 of 0 tokens"):
        office.submit([run])
    assert office.server.asked == []


def test_a_wrong_key_leaves_everything_as_it_was(office: Office) -> None:
    [run] = office.begin()
    office.server.refusal = 401
    with pytest.raises(ProviderRefused, match="rejected the key"):
        office.submit([run])
    office.server.refusal = None
    assert office.submit([run]) == "batch_1"
    office.server.refusal = 401
    with pytest.raises(ProviderRefused, match="rejected the key"):
        office.take_in([run])
    office.server.refusal = None
    office.server.end(lambda line: answered(line, "text"))
    office.take_in([run])
    assert office.reply(run) is not None


def test_a_reply_that_was_paid_for_is_judged_though_the_budget_is_spent_by_it(
    office: Office, task: Task
) -> None:
    [run] = office.begin()
    office.spending = Spending(Budget(tokens=1))
    office.submit([run])
    office.server.end(lambda line: answered(line, RIGHT))
    office.take_in([run])
    judge, journal = Recorded(an_evaluation()), Journal(run, office.store)
    author, goal = Author(BatchedModel("local-model")), Goal(3, keep_improving=True)
    made = Run(task, author, judge, Refine(), goal, journal, spending=office.spending)
    with journal.held():
        best = asyncio.run(made.work())
    assert len(judge.judged) == 1
    assert best is not None
    assert office.submit([run]) is None, "nothing further is asked for"


def test_a_run_that_waits_does_not_get_the_judge_ready(office: Office, task: Task) -> None:
    [run] = office.begin()
    journal = Journal(run, office.store)
    made = Run(task, Author(BatchedModel("m")), Recorded(), Refine(), Goal(), journal)
    with journal.held(), pytest.raises(ReplyPending, match=f"run {run} waits for a reply$"):
        asyncio.run(made.work())
    assert known_run(office.store, run).state == "waits for a reply"


def test_a_run_of_an_older_store_asks_its_model_itself() -> None:
    older = {k: v for k, v in SETTINGS.model_dump().items() if k != "batch"}
    assert RunSettings.model_validate(older).batch is False
