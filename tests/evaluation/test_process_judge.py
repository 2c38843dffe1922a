"""A judge in a process of its own: the same verdicts, and an end that leaves nothing behind."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from flashinfer_bench.data import SafetensorsInput, Workload
from safetensors.torch import save_file

from kernel_generator.domain import errors
from kernel_generator.domain.errors import (
    DeviceLost,
    InvalidInput,
    ReferenceFailed,
    SandboxError,
    UnknownName,
)
from kernel_generator.domain.evaluation import Device
from kernel_generator.domain.target import find_target
from kernel_generator.evaluation.device import Gpu
from kernel_generator.evaluation.local import LocalJudge
from kernel_generator.evaluation.orders import Broken, Close, Prepare, Refused
from kernel_generator.evaluation.places import judges_for, local_judges
from kernel_generator.evaluation.process_judge import ProcessJudge
from kernel_generator.evaluation.remote import captured_files
from kernel_generator.evaluation.served import ServedJudge
from kernel_generator.sandbox.bounds import descendants
from tests.cli.commands import is_alive
from tests.evaluation.judging import CORRECTNESS, DOUBLE, TINY, opened, solution, task
from tests.running import NEVER_ENDS, children, soon, wait_until_one_runs

if TYPE_CHECKING:
    from collections.abc import Generator

    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.evaluation.remote import RemoteSession
    from kernel_generator.evaluation.session import LocalSession

CANDIDATES = {
    "right": "def run(x):\n    return x * 2\n",
    "wrong": "def run(x):\n    return x * 2 + (x > 1)\n",
    "crashing": "import os\ndef run(x):\n    os._exit(3)\n",
}
RIGHT = solution(CANDIDATES["right"])


@pytest.fixture(scope="module")
def judge() -> Generator[ProcessJudge]:
    judge = ProcessJudge(TINY)
    yield judge
    judge.close()


@pytest.fixture(scope="module")
def session(judge: ProcessJudge) -> Generator[RemoteSession]:
    session = judge.open(task())
    session.prepare()
    yield session
    session.close()


@pytest.fixture(scope="module")
def here() -> Generator[LocalSession]:
    with opened(task()) as session:
        yield session


def findings(evaluation: Evaluation) -> list[object]:
    found = [(w.uuid, w.outcome, len(w.mismatches)) for w in evaluation.workloads]
    return [evaluation.outcome, evaluation.isolation, evaluation.device, *found]


@pytest.mark.slow
class TestAnotherProcess:
    @pytest.mark.parametrize("which", CANDIDATES)
    def test_comes_to_the_same_verdict(
        self, which: str, session: RemoteSession, here: LocalSession
    ) -> None:
        candidate = solution(CANDIDATES[which])
        there = session.evaluate(candidate, CORRECTNESS)
        assert findings(there) == findings(here.evaluate(candidate, CORRECTNESS))

    def test_finds_the_same_of_the_workloads(
        self, judge: ProcessJudge, session: RemoteSession, here: LocalSession
    ) -> None:
        assert session.opened == here.opened
        assert judge.has_room() == LocalJudge(TINY).has_room()

    def test_raises_what_the_judge_raises(self, judge: ProcessJudge) -> None:
        fails = DOUBLE.model_copy(update={"reference": "def run(x):\n    raise ValueError('mine')"})
        session = judge.open(task(fails))
        with pytest.raises(ReferenceFailed, match=r"of 'double' fails on cpu .*ValueError: mine"):
            session.prepare()
        session.close()

    def test_records_where_it_judged(self, session: RemoteSession) -> None:
        device = session.evaluate(RIGHT, CORRECTNESS).device
        assert device is not None
        assert (device.host, device.uuid) == (socket.gethostname(), "")

    def test_lets_go_of_whoever_waits_for_a_session_that_is_closed(
        self, judge: ProcessJudge
    ) -> None:
        session, raised = judge.open(task()), list[str]()
        session.prepare()

        def work() -> None:
            try:
                session.evaluate(solution(NEVER_ENDS), CORRECTNESS)
            except SandboxError as error:
                raised.append(str(error))

        thread = threading.Thread(target=work)
        thread.start()
        candidate = wait_until_one_runs()
        session.close()
        thread.join(timeout=30)
        assert raised == ["the judge's session was closed"]
        assert not is_alive(candidate)
        session.close()

    def test_that_dies_while_it_judges_is_lost_and_started_again(self) -> None:
        before = set(children())
        judge = ProcessJudge(TINY)
        session, raised = judge.open(task()), list[BaseException]()
        session.prepare()
        [process] = map(int, set(children()) - before)

        def work() -> None:
            try:
                session.evaluate(solution(NEVER_ENDS), CORRECTNESS)
            except DeviceLost as error:
                raised.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        candidate = wait_until_one_runs()
        os.kill(process, signal.SIGKILL)
        thread.join(timeout=30)
        assert "this CPU: the process that judges there ended by signal 9" in str(raised[0])
        assert soon(lambda: not is_alive(candidate))
        with pytest.raises(DeviceLost):
            session.evaluate(RIGHT, CORRECTNESS)
        session.close()
        again = judge.open(task())
        again.prepare()
        assert again.evaluate(RIGHT, CORRECTNESS).outcome.is_result
        again.close()
        judge.close()
        assert set(children()) <= before

    def test_leaves_nothing_behind_when_its_parent_is_killed(self, tmp_path: Path) -> None:
        # A script as people write them: without a guard, and started from elsewhere.
        script = tmp_path / "script.py"
        script.write_text(
            "from kernel_generator.evaluation.process_judge import ProcessJudge\n"
            "from tests.evaluation.judging import CORRECTNESS, TINY, solution, task\n"
            "from tests.running import NEVER_ENDS\n"
            "session = ProcessJudge(TINY).open(task())\n"
            "session.prepare()\n"
            "session.evaluate(solution(NEVER_ENDS), CORRECTNESS)\n"
        )
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join([root, *filter(None, sys.path)])
        program = subprocess.Popen(
            [sys.executable, str(script)], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}
        )
        wait_until_one_runs(program.pid)
        started = list(descendants(program.pid))
        program.kill()
        program.wait()
        assert len(started) > 2
        assert soon(lambda: not any(map(is_alive, started)))


class TestOrders:
    """What the other side makes of them."""

    def test_to_close_hold_for_what_comes_late(self) -> None:
        before = children()
        judge = ServedJudge(TINY, "strict")
        assert judge.answer(Close("early")) is None
        answer = judge.answer(Prepare("early", task()))
        assert isinstance(answer, Refused)
        assert "was closed" in str(answer.error)
        assert children() == before

    def test_that_break_the_judge_are_answered_with_where(self) -> None:
        answer = ServedJudge(TINY, "strict").answer(Prepare("a", None))  # pyright: ignore[reportArgumentType]
        assert isinstance(answer, Broken)
        assert "AttributeError" in answer.trace

    def test_for_captured_inputs_that_are_not_shared_are_refused(self, tmp_path: Path) -> None:
        answer = ServedJudge(TINY, "strict").answer(
            Prepare("a", task(root=tmp_path), ("blob/x.safetensors",))
        )
        assert isinstance(answer, Refused)
        assert isinstance(answer.error, InvalidInput)
        assert f"blob/x.safetensors below {tmp_path}): share the trace set" in str(answer.error)


def test_captured_inputs_that_nobody_has_are_asked_of_nobody(tmp_path: Path) -> None:
    save_file({"x": torch.ones(3, 64)}, tmp_path / "here.safetensors")
    searched = [
        Workload(
            axes={"n": 3}, inputs={"x": SafetensorsInput(path=path, tensor_key="x")}, uuid=path
        )
        for path in ("here.safetensors", "gone.safetensors")
    ]
    assert captured_files(task(searched=searched, root=tmp_path)) == ("here.safetensors",)


H100, A100 = Gpu("GPU-1", "NVIDIA H100 80GB HBM3"), Gpu("GPU-2", "NVIDIA A100-SXM4-80GB")
SECOND = Gpu("GPU-3", "NVIDIA H100 80GB HBM3")


@pytest.mark.parametrize(
    ("target", "gpus", "places"),
    [
        ("CPU", (H100, A100), ["this CPU"]),
        ("H100", (), ["this CPU"]),
        ("H100", (H100, A100, SECOND), ["GPU 0", "GPU 2"]),
        ("A100", (H100, A100), ["GPU 1"]),
    ],
)
def test_each_gpu_that_is_the_targets_has_a_judge(
    target: str, gpus: tuple[Gpu, ...], places: list[str]
) -> None:
    judges = local_judges(find_target(target), TINY, "strict", gpus)
    assert [judge.place for judge in judges] == places
    assert {judge.slots for judge in judges} == {1 if places == ["this CPU"] else 2}
    in_this_process = target == "CPU" or len(gpus) < 2
    assert all(isinstance(judge, LocalJudge) == in_this_process for judge in judges)


def test_a_place_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'slurm' is no place to judge: say 'ray'"):
        judges_for("slurm", find_target("CPU"), TINY, "strict")
    with pytest.raises(UnknownName, match="isolation level"):
        ProcessJudge(isolation="none")


def test_errors_reach_another_process_as_they_are() -> None:
    said = [
        UnknownName("target", "H10", ["H100", "H200"]),
        *(kind("said") for kind in vars(errors).values() if _takes_a_message(kind)),
    ]
    assert len(said) > 10
    for error in said:
        got = pickle.loads(pickle.dumps(error))
        assert (type(got), str(got), vars(got)) == (type(error), str(error), vars(error))


def _takes_a_message(kind: object) -> bool:
    special = (UnknownName, errors.NoPassingSolution, errors.IncompleteGeneration)
    return isinstance(kind, type) and issubclass(kind, Exception) and kind not in special


def test_a_device_recorded_before_there_were_several_can_still_be_read() -> None:
    device = Device.model_validate_json('{"kind": "cuda", "name": "NVIDIA H100", "host": "a"}')
    assert device.uuid == ""
