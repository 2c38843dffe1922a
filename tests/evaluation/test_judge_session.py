"""What a session does beside judging one kernel: references, workloads, baselines, Ctrl-C."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from flashinfer_bench.data import SafetensorsInput, Workload
from safetensors.torch import save_file

from kernel_generator.domain.errors import NoWorkloads, ReferenceFailed
from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation.baselines import Baseline, default_baselines
from kernel_generator.evaluation.bench import Bench
from kernel_generator.evaluation.case import Judged, Subject
from kernel_generator.evaluation.judge import Limits, Profile
from kernel_generator.evaluation.local import LocalJudge
from kernel_generator.evaluation.timing import TimingPlan
from tests.cli.commands import is_alive
from tests.evaluation.judging import (
    BRIEF,
    CORRECTNESS,
    DOUBLE,
    TINY,
    opened,
    solution,
    task,
    workload,
)
from tests.running import NEVER_ENDS, children, ctrl_c_once_one_runs

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from flashinfer_bench.data import Definition

    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.evaluation.session import LocalSession
    from kernel_generator.sandbox.worker import Worker

RIGHT = solution("def run(x):\n    return x * 2\n")


def with_reference(source: str) -> Definition:
    return DOUBLE.model_copy(update={"reference": source})


class TestAReferenceThatDoesNotRunHere:
    @pytest.mark.parametrize(
        ("reference", "says"),
        [
            ("def run(x):\n    raise ValueError('mine')\n", r"fails on cpu with n=5: ValueError"),
            ("import no_such_module\ndef run(x):\n    return x\n", "does not load here: .*no_such"),
            ("def run(x):\n    return x.cuda() * 2\n", "needs a CUDA GPU"),
        ],
        ids=["raises", "imports", "needs a GPU"],
    )
    def test_is_named_and_leaves_nothing_behind(self, reference: str, says: str) -> None:
        before = children()
        with (
            pytest.raises(ReferenceFailed, match=says) as failed,
            opened(task(with_reference(reference))),
        ):
            pass
        assert "reference of 'double'" in str(failed.value)
        assert children() == before


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    root = tmp_path_factory.mktemp("traceset")
    save_file({"x": torch.ones(3, 64)}, root / "here.safetensors")

    def captured(uuid: str, path: str) -> Workload:
        described = SafetensorsInput(path=path, tensor_key="x")
        return Workload(axes={"n": 3}, inputs={"x": described}, uuid=uuid)

    save_file({"x": torch.ones(4, 64)}, root / "other.safetensors")
    searched = [captured("here", "here.safetensors"), captured("odd", "other.safetensors")]
    with opened(task(searched=searched, root=root)) as session:
        assert [u.workload.uuid for u in session.opened.unusable] == ["odd"]
        assert list(session.opened.floors) == ["here"]
        return session.evaluate(RIGHT, BRIEF)


@pytest.mark.slow
class TestWorkloadsThatCannotBeRun:
    def test_are_skipped_among_good_ones(self, evaluation: Evaluation) -> None:
        assert evaluation.outcome is Outcome.PASSED
        assert [w.outcome for w in evaluation.workloads] == [Outcome.PASSED, Outcome.NOT_RUN]

    def test_are_told(self, evaluation: Evaluation) -> None:
        assert "1 of 2 workloads cannot be run here" in evaluation.message
        assert "other.safetensors is torch.float32 [4, 64]" in evaluation.message

    def test_do_not_count_in_the_mean(self, evaluation: Evaluation) -> None:
        assert evaluation.speedup is not None
        measured = evaluation.workloads[0].speedups["reference"]
        assert evaluation.speedup.value == pytest.approx(measured.value)


def test_a_definition_without_a_usable_workload_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.ones(4, 64)}, tmp_path / "other.safetensors")
    described = SafetensorsInput(path="other.safetensors", tensor_key="x")
    only = Workload(axes={"n": 3}, inputs={"x": described}, uuid="odd")
    with (
        pytest.raises(NoWorkloads, match=r"'double' can be run here: .* is torch.float32 \[4, "),
        opened(task(searched=[only], root=tmp_path)),
    ):
        pass


def test_inputs_whose_captured_file_is_missing_are_made_up_and_named(tmp_path: Path) -> None:
    described = SafetensorsInput(path="gone.safetensors", tensor_key="x")
    only = Workload(axes={"n": 3}, inputs={"x": described}, uuid="gone")
    with opened(task(searched=[only], root=tmp_path)) as session:
        found = session.evaluate(RIGHT, BRIEF)
    assert found.outcome is Outcome.PASSED
    assert [w.synthetic for w in found.workloads] == [("x",)]


def test_a_workload_larger_than_memory_is_told_as_such() -> None:
    with opened(task(searched=[workload("fits", n=5), workload("huge", n=10**10)])) as session:
        (unusable,) = session.opened.unusable
        assert unusable.workload.uuid == "huge"
        assert "GiB" in unusable.reason


def test_an_axis_may_be_as_short_as_it_likes() -> None:
    with opened(task(searched=[workload("none", n=0), workload("one", n=1)])) as session:
        assert session.evaluate(RIGHT, BRIEF).outcome is Outcome.PASSED


@pytest.fixture(scope="module")
def found() -> dict[str, Evaluation]:
    fails_on_seven = solution("def run(x):\n    return x * 2 if len(x) != 7 else x\n")
    searched, held_out = [workload("s", n=5)], [workload("a", n=6), workload("b", n=7)]
    unreachable = Profile(trials=1, timing=BRIEF.timing, held_out=False)
    with opened(task(searched=searched, held_out=held_out)) as session:
        return {
            "wrong on one": session.evaluate(fails_on_seven, CORRECTNESS),
            "right": session.evaluate(RIGHT, CORRECTNESS),
            "not earned": session.evaluate(RIGHT, unreachable),
        }


@pytest.mark.slow
class TestHeldOutWorkloads:
    def test_that_fail_decide(self, found: dict[str, Evaluation]) -> None:
        evaluation = found["wrong on one"]
        assert evaluation.outcome is Outcome.WRONG_VALUES
        assert [w.uuid for w in evaluation.workloads] == ["s", "a", "b"]
        assert evaluation.workloads[-1].axes == {"n": 7}
        assert evaluation.workloads[-1].mismatches

    def test_that_pass_complete_the_evaluation(self, found: dict[str, Evaluation]) -> None:
        assert found["right"].complete
        assert len(found["right"].workloads) == 3

    def test_are_left_alone_where_nothing_depends_on_them(
        self, found: dict[str, Evaluation]
    ) -> None:
        assert not found["not earned"].complete
        assert [w.uuid for w in found["not earned"].workloads] == ["s"]


@pytest.mark.slow
def test_a_workload_too_slow_for_the_reference_is_skipped_and_the_rest_is_judged() -> None:
    reference = "import time\ndef run(x):\n    if len(x) == 6: time.sleep(60)\n    return x * 2\n"
    what = task(
        with_reference(reference),
        searched=[workload("s", n=5)],
        held_out=[workload("slow", n=6), workload("after", n=7)],
    )
    with opened(what, Limits(build_s=60.0, first_call_s=1.0, call_s=1.0)) as session:
        found = session.evaluate(RIGHT, BRIEF)
    assert {w.uuid: w.outcome for w in found.workloads} == {
        "s": Outcome.PASSED,
        "slow": Outcome.NOT_RUN,
        "after": Outcome.PASSED,
    }
    assert "the reference fails: a call took longer than 1 s" in found.message


@pytest.mark.parametrize("to_blame", [True, False])
def test_who_starves_a_workload_shows_without_the_candidate(
    to_blame: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, candidates = Bench.judge, list["Worker"]()

    def starving(bench: Bench, subject: Subject, which: Workload, *others: Any) -> Judged:
        judged = judge(bench, subject, which, *others)
        if which.uuid != "b" or (len(candidates) == 1 and to_blame):
            return judged
        candidates.append(subject.worker)
        nothing = {"outcome": Outcome.NOT_RUN, "message": "there is no room"}
        return Judged(judged.record.model_copy(update=nothing), skipped=True, starved=True)

    monkeypatch.setattr(Bench, "judge", starving)
    with opened(task(DOUBLE, [workload("a", n=5), workload("b", n=6)])) as session:
        found = session.evaluate(RIGHT, CORRECTNESS)
    last = found.workloads[-1]
    if to_blame:
        assert found.outcome is last.outcome is Outcome.RESOURCE_LIMIT
        assert last.message == "nothing else can be run beside it: there is no room"
    else:
        assert found.outcome is Outcome.CORRECT_NOT_MEASURED
        assert [w.outcome for w in found.workloads] == [found.outcome, Outcome.NOT_RUN]
        # The first was ended to find out, the reference took its place, and the last goes on.
        assert len(candidates) == 3


@pytest.mark.parametrize(
    "when",
    [
        "torch.get_default_dtype() is torch.float64",
        "torch.get_default_dtype() is torch.float32 and torch._C._len_torch_dispatch_stack()",
    ],
    ids=["in double precision", "while operations are counted"],
)
def test_a_reference_that_dies_of_more_than_an_ordinary_call_is_replaced(when: str) -> None:
    reference = f"import os, torch\ndef run(x):\n    if {when}: os._exit(1)\n    return x * 2\n"
    what = task(with_reference(reference), [workload("s", n=5), workload("t", n=6)])
    with opened(what) as session:
        assert session.opened.unusable == ()
        found = session.evaluate(RIGHT, BRIEF)
    assert [w.outcome for w in found.workloads] == [Outcome.PASSED, Outcome.PASSED]


def test_a_searched_workload_that_kills_the_reference_is_told_as_unusable() -> None:
    reference = "import os\ndef run(x):\n    if len(x) == 6: os._exit(1)\n    return x * 2\n"
    what = task(with_reference(reference), [workload("s", n=5), workload("kills", n=6)])
    with opened(what) as session:
        (unusable,) = session.opened.unusable
        assert unusable.workload.uuid == "kills"
        assert "n=6: the process exited with status 1" in unusable.reason
        assert session.evaluate(RIGHT, BRIEF).outcome is Outcome.PASSED


@pytest.mark.slow
def test_torch_compile_of_the_reference_is_timed_beside_it() -> None:
    profile = Profile(timing=BRIEF.timing, baselines=tuple(default_baselines(task())))
    with opened(task(), Limits()) as session:
        found = session.evaluate(RIGHT, profile)
    assert found.outcome is Outcome.PASSED
    assert found.unusable_baselines == {}
    assert set(found.baselines) == {"reference", "torch.compile"}
    assert set(found.workloads[0].baselines) == {"reference", "torch.compile"}


@pytest.mark.slow
def test_a_baseline_that_dies_is_left_out_and_is_nobodys_fault() -> None:
    # Compiled, the reference is a module beside the entry point.
    reference = (
        "import os\ndef run(x):\n"
        "    if __name__.endswith('.reference'): os._exit(1)\n"
        "    return x * 2\n"
    )
    what = task(with_reference(reference))
    profile = Profile(timing=BRIEF.timing, baselines=tuple(default_baselines(what)))
    with opened(what, Limits()) as session:
        found = session.evaluate(RIGHT, profile)
    assert found.outcome is Outcome.PASSED
    assert set(found.baselines) == {"reference"}
    assert found.unusable_baselines == {
        "torch.compile": "with n=5: the process exited with status 1"
    }


@pytest.mark.slow
def test_what_a_candidate_did_before_a_baseline_died_is_judged() -> None:
    # Blocks of one call each. Four to check and to warm up, three to do so with the baseline.
    counting = "import os, time\nn = []\ndef run(x):\n    n.append(1)\n    time.sleep(0.002)\n"
    wrong_twice = solution(f"{counting}    return x if len(n) in (8, 9) else x * 2\n")
    dies = solution(f"{counting}    return os._exit(1) if len(n) == 9 else x * 2\n")
    plan = TimingPlan(block_s=0.001, min_blocks=8, max_blocks=8, budget_s=60.0)
    profile = Profile(trials=1, timing=plan, baselines=(Baseline("dies", dies),))
    with opened(task()) as session:
        found = session.evaluate(wrong_twice, profile)
    assert found.outcome is Outcome.WRONG_VALUES
    assert "of a timed call" in found.message


@pytest.mark.slow
def test_solutions_of_the_trace_set_are_timed_under_their_names_and_broken_ones_are_told() -> None:
    named = (
        Baseline("a library's", solution("def run(x):\n    return x + x\n")),
        Baseline("broken", solution("raise ValueError('not on this machine')\n")),
    )
    with opened(task()) as session:
        found = session.evaluate(RIGHT, Profile(timing=BRIEF.timing, baselines=named))
    assert found.outcome is Outcome.PASSED
    assert set(found.baselines) == {"reference", "a library's"}
    assert set(found.unusable_baselines) == {"broken"}
    assert "not on this machine" in found.unusable_baselines["broken"]


@pytest.fixture(scope="module")
def session() -> Generator[LocalSession]:
    with opened(task()) as found:
        yield found


@pytest.fixture(scope="module")
def opened_by_a_thread_that_ended() -> Generator[LocalSession]:
    sessions: list[LocalSession] = []

    def open_it() -> None:
        sessions.append(LocalJudge(TINY).open(task()))
        sessions[0].prepare()

    thread = threading.Thread(target=open_it)
    thread.start()
    thread.join()
    yield sessions[0]
    sessions[0].close()


class TestSessions:
    def test_outlive_the_thread_that_opened_them(
        self, opened_by_a_thread_that_ended: LocalSession
    ) -> None:
        found = opened_by_a_thread_that_ended.evaluate(RIGHT, BRIEF)
        assert found.outcome is Outcome.PASSED

    def test_record_what_their_inputs_were_drawn_from(self, session: LocalSession) -> None:
        first, second = (session.evaluate(RIGHT, CORRECTNESS) for _ in range(2))
        assert first.seed is not None
        assert first.seed == second.seed
        assert first.not_in_double == ""

    @pytest.mark.slow
    def test_give_each_judge_other_values(
        self, session: LocalSession, opened_by_a_thread_that_ended: LocalSession
    ) -> None:
        # The kernel tells its input's first value by an exception.
        spy = solution("def run(x):\n    raise ValueError(float(x[0, 0]))\n")
        told = [
            judge.evaluate(spy, CORRECTNESS).message.splitlines()[-1]
            for judge in (session, session, opened_by_a_thread_that_ended)
        ]
        assert told[0] == told[1] != told[2]

    @pytest.mark.slow
    def test_may_rest_between_evaluations(self, session: LocalSession) -> None:
        beaten = [solution(f"def run(x):\n    return x * {by}\n") for by in ("2.0", "2 + 0 * x")]
        for incumbent in beaten:
            found = session.evaluate(RIGHT, replace(BRIEF, incumbent=incumbent))
            assert found.outcome is Outcome.PASSED
            assert "incumbent" in found.workloads[0].baselines
            # The first of them is replaced by the second, and what it was timed with is given back.
            session.rest()
        session.rest()

    @pytest.mark.slow
    def test_judge_one_candidate_after_the_other_when_asked_at_once(
        self, session: LocalSession
    ) -> None:
        outcomes: list[Outcome] = []

        def judge() -> None:
            outcomes.append(session.evaluate(RIGHT, BRIEF).outcome)

        threads = [threading.Thread(target=judge) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes == [Outcome.PASSED, Outcome.PASSED]

    def test_that_are_interrupted_stop_the_candidate_and_go_on(self, session: LocalSession) -> None:
        with pytest.raises(KeyboardInterrupt), ctrl_c_once_one_runs() as running:
            session.evaluate(solution(NEVER_ENDS), CORRECTNESS)
        [candidate] = running
        assert not is_alive(candidate)
        assert session.evaluate(RIGHT, CORRECTNESS).outcome.is_result
