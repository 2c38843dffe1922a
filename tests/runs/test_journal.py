"""A run's journal: what was noted is what is found when the run goes on."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from kernel_generator.domain.attempt import Attempt, Candidate
from kernel_generator.domain.conversation import Finish, Reply, Usage
from kernel_generator.domain.errors import InvalidInput, StoreError
from kernel_generator.domain.outcome import Outcome
from kernel_generator.domain.proposal import Proposal, Purpose
from kernel_generator.domain.target import TARGETS
from kernel_generator.evaluation.judge import Opened
from kernel_generator.models.scripted import ScriptedModel
from kernel_generator.runs.author import Author
from kernel_generator.runs.contents import contents
from kernel_generator.runs.engine import Run
from kernel_generator.runs.goal import Goal
from kernel_generator.runs.journal import Journal, known_run, known_runs, note_saved
from kernel_generator.runs.settings import RunSettings, fingerprints, parts
from kernel_generator.runs.store import Store
from kernel_generator.runs.tasks import make_task
from kernel_generator.runs.tracesets import load_traceset
from kernel_generator.search.refine import Refine
from tests.runs.kept import keep_run, task_of
from tests.runs.sets import (
    OP_TYPE,
    RIGHT,
    WRONG,
    a_solution,
    a_traceset,
    an_evaluation,
    workload_line,
    write_definition,
)

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from flashinfer_bench import Solution

    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.judge import Profile
    from kernel_generator.models.scripted import Line


class Recorded:
    """A judge and its session whose verdicts are known beforehand. Simulated."""

    def __init__(self, *verdicts: Evaluation) -> None:
        self.opened = Opened()
        self.judged: list[str] = []
        self._verdicts = list(verdicts)

    def open(self, task: Task) -> Recorded:
        del task
        return self

    def prepare(self) -> None:
        pass

    def evaluate(self, solution: Solution, profile: Profile) -> Evaluation:
        del profile
        self.judged.append(solution.name)
        return self._verdicts.pop(0)

    def close(self) -> None:
        pass


@pytest.fixture
def task(tmp_path: Path) -> Task:
    traceset = a_traceset(tmp_path / "set")
    return make_task(traceset, traceset.definitions["scale_add"], TARGETS["CPU"], "python")


@pytest.fixture
def store(tmp_path: Path) -> Generator[Store]:
    found = Store(tmp_path / "runs.db")
    yield found
    found.close()


def settings(task: Task) -> RunSettings:
    return RunSettings(
        definition=task.definition.name,
        traceset=None,
        model="scripted",
        language="python",
        target="CPU",
        rounds=3,
        strategy="refine",
        isolation="strict",
        program="1",
        fingerprints=fingerprints(task),
    )


def works(task: Task, journal: Journal, judge: Recorded, *replies: Line) -> tuple[Run, int]:
    """A run that was worked on until it ended or failed, and how often it asked."""
    model = ScriptedModel(list(replies))
    run = Run(task, Author(model), judge, Refine(), Goal(3, keep_improving=True), journal)
    with journal.held():
        asyncio.run(run.work())
    return run, len(model.asked)


def noted(store: Store, run_id: str) -> list[str]:
    return [event.kind for event in store.events(run_id)]


def test_attempts_are_found_as_they_were(task: Task, store: Store) -> None:
    journal = Journal.begin(store, settings(task))
    reply = Reply("text", Finish.COMPLETE, "a-model", Usage(5, 1, 7, 2), None, 1.5, "detail")
    proposal = Proposal(Purpose.REPAIR, 2, parent=0)
    first = Attempt(Proposal(Purpose.DRAFT, 1), reply, Outcome.EMPTY_REPLY, "nothing in it")
    verdict = an_evaluation(speedup=float("nan"))
    solution = a_solution("a\u202ename\0")
    second = Attempt(proposal, reply, verdict.outcome, "", Candidate(solution, proposal), verdict)
    for attempt in (first, second):
        journal.replied(attempt.proposal, reply)
        if attempt.evaluation is not None:
            journal.proposed(attempt.proposal, solution)
            journal.judged(attempt.proposal, attempt.evaluation)
        journal.attempted(attempt)
    found = known_run(store, journal.run_id)
    assert repr(found.history.attempts) == repr([first, second])
    assert found.history.usage == Usage(10, 2, 14, 4)
    assert found.history.cost_usd is None
    assert found.settings == settings(task)
    assert not found.is_over


def test_a_run_without_a_store_notes_nothing_and_runs(task: Task) -> None:
    run, asked = works(task, Journal(), Recorded(*[an_evaluation()] * 6), RIGHT, RIGHT, RIGHT)
    assert run.best is not None
    assert asked == 3


def test_each_step_is_noted_before_the_next_one_acts(task: Task, store: Store) -> None:
    journal = Journal.begin(store, settings(task))

    class Looks(Recorded):
        def evaluate(self, solution: Solution, profile: Profile) -> Evaluation:
            seen.append(noted(store, journal.run_id))
            return super().evaluate(solution, profile)

    seen: list[list[str]] = []
    works(task, journal, Looks(*[an_evaluation(promoted=True)] * 6), RIGHT, RIGHT, RIGHT)
    assert seen[0] == ["asked", "replied", "read"]
    of_one = ["asked", "replied", "read", "judged", "attempted"]
    assert noted(store, journal.run_id) == [*of_one * 3, "finished"]


def test_a_reply_that_was_stored_is_not_asked_for_again(task: Task, store: Store) -> None:
    journal = Journal.begin(store, settings(task))

    class Breaks(Recorded):
        def evaluate(self, solution: Solution, profile: Profile) -> Evaluation:
            raise StoreError("as if the machine had stopped")

    with pytest.raises(StoreError):
        works(task, journal, Breaks(), RIGHT)
    again = Recorded(*[an_evaluation(promoted=True)] * 6)
    run, asked = works(task, Journal(journal.run_id, store), again, WRONG, WRONG)
    assert asked == 2
    assert [a.proposal.round for a in run.attempts] == [1, 2, 3]
    assert "x * 2 + 1" in run.attempts[0].candidate.solution.sources[0].content  # type: ignore[union-attr]


def test_a_verdict_that_was_stored_is_not_made_again(task: Task, store: Store) -> None:
    journal = Journal.begin(store, settings(task))
    proposal = Proposal(Purpose.DRAFT, 1)
    journal.replied(proposal, Reply(RIGHT, Finish.COMPLETE, "m"))
    journal.proposed(proposal, a_solution("the_stored_one"))
    journal.judged(proposal, an_evaluation(speedup=7.0))
    judge = Recorded(*[an_evaluation(promoted=False)] * 6)
    run, asked = works(task, Journal(journal.run_id, store), judge, RIGHT, RIGHT)
    assert asked == 2
    assert "the_stored_one" not in judge.judged
    assert run.best is run.attempts[0]
    assert run.best is not None
    assert run.best.speedup == 7.0


def test_a_run_that_has_ended_asks_and_judges_nothing(task: Task, store: Store) -> None:
    journal = Journal.begin(store, settings(task))
    works(task, journal, Recorded(*[an_evaluation(promoted=True)] * 6), RIGHT, RIGHT, RIGHT)
    before = noted(store, journal.run_id)
    run, asked = works(task, Journal(journal.run_id, store), Recorded())
    assert asked == 0
    assert len(run.attempts) == 3
    assert noted(store, journal.run_id) == before


def test_what_was_edited_is_named(task: Task, tmp_path: Path) -> None:
    traceset = a_traceset(tmp_path / "set", sizes=(3, 7))
    now = make_task(traceset, traceset.definitions["scale_add"], TARGETS["CPU"], "python")
    assert settings(task).changes(task) == []
    assert settings(task).changes(now) == ["workload n7 is new", "workload n64 is gone"]


X = {"x": {"shape": ["n"], "dtype": "float32"}}


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        ({"reference": "def run(x):\n    return x * 7 - 1\n"}, ["the reference has changed"]),
        ({"axes": {"n": {"type": "const", "value": 64}}}, ["axis n has changed"]),
        ({"inputs": {"x": {"shape": ["n"], "dtype": "bfloat16"}}}, ["input x has changed"]),
        ({"outputs": {"y": {"shape": ["n"], "dtype": "bfloat16"}}}, ["output y has changed"]),
        ({"constraints": ["n > 1"]}, ["the list of constraints has changed"]),
        (
            {"inputs": X | {"z": X["x"]}, "reference": "def run(x, z):\n    return x\n"},
            ["input z has changed", "the order of the inputs has changed"],
        ),
    ],
)
def test_what_a_definition_no_longer_says_is_named_and_voids_verdicts(
    task: Task, tmp_path: Path, edit: dict[str, Any], told: list[str]
) -> None:
    write_definition(tmp_path / "set", **edit)
    now = task_of(load_traceset(tmp_path / "set")[0])
    begun = settings(task).model_copy(update={"parts": parts(task)})
    assert set(told) <= set(begun.voiding(now))
    assert settings(task).voiding(now) == ["the definition has changed"]
    with pytest.raises(InvalidInput, match=rf"{told[0]}.*optimize \S+ -d scale_add"):
        begun.check_same("0badcafe", now)


def test_a_description_voids_no_verdict(task: Task, tmp_path: Path) -> None:
    write_definition(tmp_path / "set", description="said better")
    now = task_of(load_traceset(tmp_path / "set")[0])
    begun = settings(task).model_copy(update={"parts": parts(task)})
    assert begun.changes(now) == ["the description has changed"]
    assert begun.voiding(now) == []


@pytest.mark.parametrize("larger", [False, True], ids=["read whole", "read at its ends"])
def test_captured_inputs_that_changed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, larger: bool
) -> None:
    if larger:
        monkeypatch.setattr("kernel_generator.runs.contents._READ_WHOLE", 8)
    blob = tmp_path / "set" / "blob" / "x.safetensors"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"the captured values")
    a_traceset(tmp_path / "set")
    captured = {"type": "safetensors", "path": "blob/x.safetensors", "tensor_key": "x"}
    lines = [workload_line("scale_add", 3, captured), workload_line("scale_add", 64)]
    workloads = tmp_path / "set" / "workloads" / OP_TYPE / "scale_add.jsonl"
    workloads.write_text("".join(f"{line}\n" for line in lines))
    task = task_of(load_traceset(tmp_path / "set")[0])
    begun = settings(task).model_copy(update={"contents": contents(task)})
    begun = RunSettings.model_validate_json(begun.model_dump_json())
    assert bool(begun.contents["blob/x.safetensors"].whole) is not larger

    os.utime(blob, (0, 0))
    assert begun.changes(task) == []
    blob.write_bytes(b"some other values!!")
    assert begun.changes(task) == ["what is in 'blob/x.safetensors' has changed"]
    assert settings(task).changes(task) == [], "what an older version knew nothing of"
    blob.unlink()
    assert begun.changes(task) == ["what is in 'blob/x.safetensors' has changed"]


def test_runs_are_listed_without_their_requests_replies_and_sources(
    store: Store, tmp_path: Path
) -> None:
    traceset = a_traceset(tmp_path / "other")
    wrong, right = an_evaluation(Outcome.WRONG_VALUES), an_evaluation(speedup=3.0)
    ended = keep_run(store, traceset, wrong, right)
    note_saved(store, ended, tmp_path / "saved.json", f"scale_add_r2_{ended}")
    begun = keep_run(store, traceset, wrong, reason=None)
    whole = [known_run(store, run) for run in (ended, begun)]
    kept = {whole[0].history.best.candidate.solution.name}  # type: ignore[union-attr]
    with sqlite3.connect(store.path) as connection:
        for key, text in connection.execute("SELECT sha256, text FROM texts").fetchall():
            if "workloads" not in text and not any(name in text for name in kept):
                connection.execute("DELETE FROM texts WHERE sha256 = ?", (key,))
    listed, problems = known_runs(store)
    assert problems == []
    for found, known in zip(listed, whole, strict=True):
        assert (found.run_id, found.settings) == (known.run_id, known.settings)
        assert (found.state, found.is_over) == (known.state, known.is_over)
        assert found.history.cost_usd == known.history.cost_usd
        assert found.history.usage == known.history.usage
        for one, other in [(found.history.best, known.history.best)]:
            assert (one is None) is (other is None)
            if one is not None and other is not None:
                assert one.candidate == other.candidate
                assert other.evaluation is not None
                assert one.evaluation == other.evaluation.model_copy(update={"workloads": ()})
        outcomes = [attempt.outcome for attempt in found.history.attempts]
        assert outcomes == [attempt.outcome for attempt in known.history.attempts]
    with pytest.raises(StoreError, match="missing"):
        known_run(store, begun)
