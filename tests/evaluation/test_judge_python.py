"""The judge, end to end, on Python kernels for the CPU: each outcome that they can have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation.judge import Profile
from tests.evaluation.judging import BRIEF, CORRECTNESS, TINY, opened, solution, task, workload

if TYPE_CHECKING:
    from collections.abc import Generator

    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.evaluation.session import LocalSession


@pytest.fixture(scope="module")
def session() -> Generator[LocalSession]:
    with opened(task(searched=[workload("small", n=5), workload("large", n=37)])) as found:
        yield found


def judged(session: LocalSession, source: str, profile: Profile = CORRECTNESS) -> Evaluation:
    return session.evaluate(solution(source), profile)


@pytest.fixture(scope="module")
def evaluation(session: LocalSession) -> Evaluation:
    return judged(session, "def run(x):\n    print('hello')\n    return x + x\n", BRIEF)


class TestARightKernel:
    def test_passes(self, evaluation: Evaluation) -> None:
        assert evaluation.outcome is Outcome.PASSED
        assert evaluation.complete

    def test_has_a_speedup_with_its_interval_against_the_reference(
        self, evaluation: Evaluation
    ) -> None:
        assert evaluation.speedup is not None
        assert evaluation.speedup == evaluation.baselines["reference"]
        assert 0 < evaluation.speedup.low <= evaluation.speedup.value <= evaluation.speedup.high

    def test_is_timed_on_every_workload_by_a_clock_that_is_named(
        self, evaluation: Evaluation
    ) -> None:
        assert [w.uuid for w in evaluation.workloads] == ["small", "large"]
        for found in evaluation.workloads:
            assert found.timing is not None
            assert found.timing.timer == "the judge's clock around blocks of calls"
            assert found.timing.device_us and found.timing.call_us and found.timing.first_call_us
            assert set(found.speedups) == set(found.baselines) == {"reference"}

    def test_carries_the_errors_that_flashinfer_bench_reports(self, evaluation: Evaluation) -> None:
        assert [w.max_absolute_error for w in evaluation.workloads] == [0.0, 0.0]
        assert [w.max_relative_error for w in evaluation.workloads] == [0.0, 0.0]

    def test_says_where_and_how_isolated_it_ran(self, evaluation: Evaluation) -> None:
        assert evaluation.isolation is not None and evaluation.isolation.level == "strict"
        assert evaluation.isolation.lacked == ("a kernel of its own",)
        assert evaluation.device is not None and evaluation.device.kind == "cpu"

    def test_has_its_prints_in_the_log(self, evaluation: Evaluation) -> None:
        assert evaluation.log.startswith("hello\n")

    def test_round_trips_through_json(self, evaluation: Evaluation) -> None:
        text = evaluation.model_dump_json()
        assert type(evaluation).model_validate_json(text) == evaluation


def test_a_profile_without_trials_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one trial"):
        Profile(trials=0)


WRONG = {
    "wrong values": ("return x * 3", Outcome.WRONG_VALUES, "wrong values in 'y'"),
    "wrong shape": ("return x[:1] * 2", Outcome.WRONG_SHAPE, "has shape [1, 64], expected [5, 64]"),
    "wrong dtype": ("return (x * 2).double()", Outcome.WRONG_DTYPE, "torch.float64"),
    "input modified": ("return x.mul_(2).clone()", Outcome.INPUT_MODIFIED, "input 'x'"),
    "not reproducible": (
        "import torch; return x * 2 + torch.rand_like(x) * 1e-6",
        Outcome.NOT_REPRODUCIBLE,
        "with the same inputs",
    ),
    "exception": ("raise KeyError('mine')", Outcome.RUNTIME_ERROR, "KeyError: 'mine'"),
    "a terabyte": ("import torch; torch.empty(10**14)", Outcome.RESOURCE_LIMIT, "allocate memory"),
    "os._exit": ("import os; os._exit(3)", Outcome.CRASHED, "exited with status 3"),
    "segmentation fault": ("import ctypes; ctypes.string_at(0)", Outcome.CRASHED, "SIGSEGV"),
    "garbage on the channel": (
        "import socket, sys; socket.socket(fileno=int(sys.argv[1])).send(b'x' * 100)",
        Outcome.TAMPERED,
        "no frame",
    ),
}


@pytest.mark.parametrize(("body", "outcome", "says"), WRONG.values(), ids=WRONG)
def test_a_call_that_goes_wrong(
    session: LocalSession, body: str, outcome: Outcome, says: str
) -> None:
    found = judged(session, f"def run(x):\n    {body}\n")
    assert found.outcome is outcome
    assert says in found.message
    assert [w.outcome for w in found.workloads] == [outcome]
    assert not found.complete


@pytest.mark.parametrize(
    ("source", "outcome", "says"),
    [
        ("def run(x:\n", Outcome.COMPILE_ERROR, "never closed"),
        ("import os\nos._exit(0)\n", Outcome.CRASHED, "being built or imported"),
    ],
    ids=["syntax", "os._exit"],
)
def test_a_source_that_does_not_build(
    session: LocalSession, source: str, outcome: Outcome, says: str
) -> None:
    found = judged(session, source)
    assert found.outcome is outcome
    assert says in found.message
    assert found.workloads == ()


def test_a_crash_leaves_the_python_frames_that_led_to_it_in_the_log(session: LocalSession) -> None:
    found = judged(session, "import os\ndef run(x):\n    mine()\ndef mine():\n    os.abort()\n")
    assert "in mine" in found.log


def test_wrong_values_are_told_with_places_and_figures(session: LocalSession) -> None:
    found = judged(session, "def run(x):\n    y = x * 2\n    y[3, 7] += 100\n    return y\n")
    (mismatch,) = found.workloads[0].mismatches
    assert (mismatch.output, mismatch.wrong, mismatch.total) == ("y", 1, 5 * 64)
    assert mismatch.first_index == mismatch.worst_index == (3, 7)
    assert mismatch.worst_got == pytest.approx(mismatch.worst_expected + 100)


def test_it_stops_at_the_first_workload_that_fails(session: LocalSession) -> None:
    found = judged(session, "def run(x):\n    return x * 2 if len(x) == 5 else x\n")
    assert [w.outcome for w in found.workloads] == [
        Outcome.CORRECT_NOT_MEASURED,
        Outcome.WRONG_VALUES,
    ]


def test_a_declared_order_of_atomics_may_vary_within_tolerance(session: LocalSession) -> None:
    source = (
        "# kernel-generator: non-deterministic\nimport torch\n"
        "def run(x):\n    return x * 2 + torch.rand_like(x) * 1e-6\n"
    )
    found = judged(session, source)
    assert found.outcome is Outcome.CORRECT_NOT_MEASURED
    assert found.labels == ("declared non-deterministic",)


def test_an_output_that_is_written_the_first_time_only_is_seen(session: LocalSession) -> None:
    # The poison in unwritten outputs changes from call to call.
    source = "n = []\ndef run(x, y):\n    n.append(1)\n    if len(n) < 2: y.copy_(x * 2)\n"
    found = session.evaluate(solution(source, passing=True), CORRECTNESS)
    assert found.outcome is Outcome.NOT_REPRODUCIBLE


class TestWhatOnlyLooksFast:
    """Kernels that are right when they are checked, and do less when they are timed."""

    def test_remembered_outputs_are_wrong_for_other_inputs(self, session: LocalSession) -> None:
        source = (
            "kept, n = {}, []\n"
            "def run(x):\n"
            "    n.append(1)\n"
            "    if len(n) < 8: kept[x.data_ptr()] = x * 2\n"
            "    return kept.get(x.data_ptr(), x)\n"
        )
        found = judged(session, source, BRIEF)
        assert found.outcome is Outcome.WRONG_VALUES
        assert "of a timed call" in found.message

    def test_work_left_for_later_is_not_there_in_time(self, session: LocalSession) -> None:
        source = (
            "import threading\nn = []\n"
            "def run(x, y):\n"
            "    n.append(1)\n"
            "    if len(n) < 6: y.copy_(x * 2)\n"
            "    else: threading.Timer(0.2, lambda: y.copy_(x * 2)).start()\n"
        )
        found = session.evaluate(solution(source, passing=True), BRIEF)
        assert found.outcome is Outcome.WRONG_VALUES

    def test_inputs_edited_once_the_checks_are_over_are_seen(self, session: LocalSession) -> None:
        source = (
            "n = []\n"
            "def run(x):\n"
            "    n.append(1)\n"
            "    y = x * 2\n"
            "    if len(n) > 6: x.zero_()\n"
            "    return y\n"
        )
        assert judged(session, source, BRIEF).outcome is Outcome.INPUT_MODIFIED

    def test_an_answer_sent_ahead_of_the_call_does_not_count(self, session: LocalSession) -> None:
        # Two at once, of which the judge reads one, and only once the output is there: the other
        # is all that tells.
        source = (
            "import socket, sys\nfrom kernel_generator.sandbox import wire\n"
            "channel, n = socket.socket(fileno=int(sys.argv[1])), []\n"
            "out, back = socket.socketpair()\n"
            "wire.send(out, 101, wire.DONE.pack(1, 0.0, 0.0))\n"
            "answer = back.recv(1000)\n"
            "def run(x, y):\n"
            "    n.append(1)\n"
            "    y.copy_(x * 2)\n"
            "    if len(n) == 4: channel.sendall(answer * 2)\n"
        )
        found = session.evaluate(solution(source, passing=True), BRIEF)
        assert found.outcome is Outcome.TAMPERED
        assert "answered more often" in found.message

    def test_an_output_that_follows_its_answer_is_seen(self, session: LocalSession) -> None:
        source = (
            "import socket, sys, time\nfrom kernel_generator.sandbox import wire\n"
            "channel, n = socket.socket(fileno=int(sys.argv[1])), []\n"
            "def run(x):\n"
            "    n.append(1)\n"
            "    if len(n) > 3:\n"
            "        wire.send(channel, 101, wire.DONE.pack(1, 0.0, 0.0))\n"
            "        time.sleep(0.2)\n"
            "    return x * 2\n"
        )
        assert not judged(session, source, BRIEF).outcome.is_result


def test_a_candidate_that_empties_the_shared_memory_does_not_take_the_judge_along(
    session: LocalSession,
) -> None:
    source = (
        "import os\n"
        "def run(x):\n"
        "    for fd in map(int, os.listdir('/proc/self/fd')):\n"
        "        try: os.ftruncate(fd, 0)\n"
        "        except OSError: pass\n"
        "    return x * 2\n"
    )
    assert judged(session, source).outcome is Outcome.CORRECT_NOT_MEASURED


@pytest.mark.slow
def test_a_candidate_that_kills_the_reference_spoils_nothing_for_the_next(
    session: LocalSession,
) -> None:
    source = (
        "import os\n"
        "def run(x):\n"
        "    for name in filter(str.isdigit, os.listdir('/proc')):\n"
        "        if name == str(os.getpid()): continue\n"
        "        try: stat = open(f'/proc/{name}/stat').read()\n"
        "        except OSError: continue\n"
        "        parent = int(stat.rpartition(')')[2].split()[1])\n"
        "        if parent == os.getppid(): os.kill(int(name), 9)\n"
        "    return x * 2\n"
    )
    judged(session, source, BRIEF)
    assert judged(session, "def run(x):\n    return x * 2\n", BRIEF).outcome is Outcome.PASSED


@pytest.mark.slow
def test_what_never_ends_is_ended_and_the_judge_goes_on() -> None:
    limits = type(TINY)(build_s=20.0, first_call_s=1.0, call_s=1.0)
    with opened(task(), limits) as session:
        importing = judged(session, "while True: pass\n")
        running = judged(session, "def run(x):\n    while True: pass\n")
        after = judged(session, "def run(x):\n    return x * 2\n")
    assert (importing.outcome, running.outcome) == (Outcome.TIMEOUT, Outcome.TIMEOUT)
    assert importing.message == "building took longer than 20 s"
    assert running.message == "a call took longer than 1 s"
    assert after.outcome.is_result


def test_what_would_never_end_at_exit_is_not_run(session: LocalSession) -> None:
    source = (
        "import atexit\n"
        "@atexit.register\ndef forever():\n    while True: pass\n"
        "def run(x):\n    return x * 2\n"
    )
    assert judged(session, source).outcome is Outcome.CORRECT_NOT_MEASURED


@pytest.mark.slow
def test_a_stack_overflow_in_native_code_is_a_crash(session: LocalSession) -> None:
    source = (
        "import sys\n"
        "def run(x):\n"
        "    sys.setrecursionlimit(10**9)\n"
        "    nested = []\n"
        "    for _ in range(2 * 10**5): nested = [nested]\n"
        "    repr(nested)\n"
    )
    found = judged(session, source)
    assert (found.outcome, found.message) == (
        Outcome.CRASHED,
        "the process was killed by SIGSEGV",
    )


@pytest.mark.slow
def test_a_flood_of_prints_is_clipped(session: LocalSession) -> None:
    source = "def run(x):\n    print('first')\n    print('x' * 200_000_000)\n    return x * 2\n"
    found = judged(session, source)
    assert found.outcome is Outcome.CORRECT_NOT_MEASURED
    assert found.log.startswith("first\n")
    assert "bytes left out" in found.log
    assert len(found.log) < 40_000


@pytest.mark.slow
def test_ten_megabytes_of_source_are_judged(session: LocalSession) -> None:
    source = "def run(x):\n    return x * 2\n" + "# " + "x" * 10_000_000 + "\n"
    assert judged(session, source).outcome is Outcome.CORRECT_NOT_MEASURED
