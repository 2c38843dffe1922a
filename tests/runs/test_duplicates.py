"""The same source is judged once: in a run, and across the runs of a store on one device."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from kernel_generator import KernelGenerator
from kernel_generator.domain.errors import NoPassingSolution
from kernel_generator.domain.evaluation import Device
from kernel_generator.domain.events import Attempted, Evaluating
from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation.judge import Opened
from kernel_generator.models.scripted import ScriptedModel
from kernel_generator.runs.duplicates import content_key
from kernel_generator.runs.journal import known_run
from kernel_generator.runs.store import Store
from kernel_generator.runs.tracesets import load_traceset
from tests.runs.sets import (
    OP_TYPE,
    RIGHT,
    WRONG,
    a_solution,
    a_traceset,
    an_evaluation,
    workload_line,
)

if TYPE_CHECKING:
    from pathlib import Path

    from kernel_generator.domain.attempt import Attempt
    from kernel_generator.domain.evaluation import Evaluation

HERE = Device(kind="cpu", name="a CPU")


@dataclass
class ScriptedJudge:
    """Gives out verdicts in turn, as a judge of one device does."""

    verdicts: list[Evaluation]
    device: Device = HERE
    judged: list[str] = field(default_factory=list)

    @property
    def opened(self) -> Opened:
        return Opened(described=self.device, isolation="strict")

    def check(self) -> None:
        """Nothing is isolated."""

    def open(self, task: Any) -> ScriptedJudge:
        return self

    def prepare(self) -> None:
        """Nothing to prepare."""

    def evaluate(self, solution: Any, profile: Any) -> Evaluation:
        self.judged.append(solution.name)
        found = self.verdicts.pop(0)
        return found.model_copy(update={"certified": profile.certified, "device": self.device})

    def close(self) -> None:
        """Nothing to close."""


def attempts_of(
    tmp_path: Path, judge: ScriptedJudge, *replies: str, **settings: Any
) -> list[Attempt]:
    """The attempts of one run."""
    events: list[Any] = []
    settings = {"store": tmp_path / "runs.db"} | settings
    generator = KernelGenerator(
        model=ScriptedModel(list(replies)),
        language="python",
        target_gpu="V100",
        judge=judge,
        on_event=events.append,
        **settings,
    )
    traceset = a_traceset(tmp_path / "set")
    with contextlib.suppress(NoPassingSolution):
        generator.optimized_generate(
            traceset=traceset,
            definition=traceset.definitions["scale_add"],
            rounds=len(replies),
            keep_improving=True,
        )
    assert sum(isinstance(e, Evaluating) for e in events) <= len(judge.judged)
    return [e.attempt for e in events if isinstance(e, Attempted)]


WRONG_VALUES = an_evaluation(Outcome.WRONG_VALUES)
PASSED = an_evaluation(Outcome.PASSED)


def test_a_source_is_known_by_what_is_built_and_not_by_its_name() -> None:
    assert content_key(a_solution("a")) == content_key(a_solution("b", author="another"))
    assert content_key(a_solution("a")) != content_key(a_solution("a", source="def run(x): ..."))


def test_a_wrong_version_said_again_is_not_judged_again(tmp_path: Path) -> None:
    judge = ScriptedJudge([WRONG_VALUES])
    first, second = attempts_of(tmp_path, judge, WRONG, WRONG)
    assert len(judge.judged) == 1
    assert (first.duplicate_of, second.duplicate_of) == (None, 0)
    assert second.outcome is Outcome.WRONG_VALUES
    assert second.evaluation is not None
    assert "the same source as in round 1" in second.evaluation.reused
    assert second.evaluation.seconds == 0


def test_the_best_version_said_again_is_not_better_than_itself(tmp_path: Path) -> None:
    judge = ScriptedJudge([PASSED])
    first, second = attempts_of(tmp_path, judge, RIGHT, RIGHT)
    assert len(judge.judged) == 1
    assert first.evaluation is not None
    assert second.evaluation is not None
    assert second.evaluation.promoted is False
    assert second.duplicate_of == 0


def test_what_time_or_memory_decided_is_judged_again(tmp_path: Path) -> None:
    judge = ScriptedJudge([an_evaluation(Outcome.TIMEOUT), WRONG_VALUES])
    attempts = attempts_of(tmp_path, judge, WRONG, WRONG)
    assert [a.outcome for a in attempts] == [Outcome.TIMEOUT, Outcome.WRONG_VALUES]
    assert attempts[1].duplicate_of is None


def test_the_model_is_told_that_it_repeats_itself(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(request: Any) -> str:
        asked.append(request.messages[-1].text)
        return WRONG

    judge = ScriptedJudge([WRONG_VALUES])
    generator = KernelGenerator(
        model=ScriptedModel(answer), language="python", target_gpu="V100", judge=judge
    )
    traceset = a_traceset(tmp_path / "set")
    with pytest.raises(NoPassingSolution):
        generator.optimized_generate(
            traceset=traceset, definition=traceset.definitions["scale_add"], rounds=3
        )
    assert "Not judged again: the same source as in round 1" in asked[2]
    assert "(the same source as #1)" in asked[2]


def test_another_run_on_the_same_device_takes_the_verdict_over(tmp_path: Path) -> None:
    attempts_of(tmp_path, ScriptedJudge([WRONG_VALUES, PASSED]), WRONG, RIGHT)
    judge = ScriptedJudge([])
    first, second = attempts_of(tmp_path, judge, WRONG, RIGHT)
    assert judge.judged == []
    assert first.evaluation is not None
    assert second.evaluation is not None
    assert "was judged in run" in first.evaluation.reused
    assert second.outcome is Outcome.PASSED
    assert second.evaluation.certified
    assert second.evaluation.promoted is None
    # Not of an earlier attempt of its own run.
    assert first.duplicate_of is None


def test_with_a_best_version_a_pass_of_another_run_is_timed_beside_it(tmp_path: Path) -> None:
    attempts_of(tmp_path, ScriptedJudge([PASSED]), RIGHT)
    judge = ScriptedJudge([PASSED, an_evaluation(promoted=False)])
    other = RIGHT.replace("return", "# other\n    return")
    attempts_of(tmp_path, judge, other, RIGHT)
    assert len(judge.judged) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"device": Device(kind="cpu", name="another CPU")},
        {"device": HERE.model_copy(update={"libraries": {"torch": "3"}})},
    ],
    ids=["another device", "another library"],
)
def test_elsewhere_it_is_judged_anew(tmp_path: Path, changed: dict[str, Any]) -> None:
    attempts_of(tmp_path, ScriptedJudge([WRONG_VALUES]), WRONG)
    judge = ScriptedJudge([WRONG_VALUES], **changed)
    attempts_of(tmp_path, judge, WRONG)
    assert len(judge.judged) == 1


def test_an_edited_trace_set_is_judged_anew(tmp_path: Path) -> None:
    attempts_of(tmp_path, ScriptedJudge([WRONG_VALUES]), WRONG)
    moved = tmp_path / "moved"
    moved.mkdir()
    a_traceset(moved / "set", sizes=(3, 64, 65))
    judge = ScriptedJudge([WRONG_VALUES])
    generator = KernelGenerator(
        model=ScriptedModel([WRONG]),
        language="python",
        target_gpu="V100",
        judge=judge,
        store=tmp_path / "runs.db",
    )
    traceset = a_traceset(moved / "set", sizes=(3, 64, 65))
    with pytest.raises(NoPassingSolution):
        generator.optimized_generate(
            traceset=traceset, definition=traceset.definitions["scale_add"], rounds=1
        )
    assert len(judge.judged) == 1


def test_other_captured_inputs_are_judged_anew(tmp_path: Path) -> None:
    captured = {"type": "safetensors", "path": "./x.safetensors", "tensor_key": "x"}
    judges = [ScriptedJudge([WRONG_VALUES]) for _ in range(3)]
    for judge, value in zip(judges, (1.0, 1.0, 2.0), strict=True):
        a_traceset(tmp_path / "set", sizes=(3,))
        save_file({"x": torch.full((3,), value)}, tmp_path / "set" / "x.safetensors")
        lines = tmp_path / "set" / "workloads" / OP_TYPE / "scale_add.jsonl"
        lines.write_text(workload_line("scale_add", 3, captured) + "\n")
        traceset, _ = load_traceset(tmp_path / "set")
        generator = KernelGenerator(
            model=ScriptedModel([WRONG]),
            language="python",
            target_gpu="V100",
            judge=judge,
            store=tmp_path / "runs.db",
        )
        with pytest.raises(NoPassingSolution):
            generator.optimized_generate(
                traceset=traceset, definition=traceset.definitions["scale_add"], rounds=1
            )
    assert [len(judge.judged) for judge in judges] == [1, 0, 1]


def test_verdicts_of_another_store_are_not_believed(tmp_path: Path) -> None:
    there, here = tmp_path / "there.db", tmp_path / "here.db"
    attempts_of(tmp_path, ScriptedJudge([PASSED]), RIGHT, store=there)
    [run] = Store(there).runs()
    Store(here).take_in(Store(there).bundled(run.run_id))
    judge = ScriptedJudge([PASSED])
    attempts_of(tmp_path, judge, RIGHT, store=here)
    assert len(judge.judged) == 1


def test_a_repetition_is_known_as_one_after_a_resume(tmp_path: Path) -> None:
    attempts_of(tmp_path, ScriptedJudge([WRONG_VALUES]), WRONG, WRONG)
    store = Store(tmp_path / "runs.db")
    [run] = store.runs()
    attempts = known_run(store, run.run_id).history.attempts
    assert [a.duplicate_of for a in attempts] == [None, 0]
