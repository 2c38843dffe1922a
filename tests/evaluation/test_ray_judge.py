"""Judges on a Ray cluster: three nodes on this machine, with a processor each."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import torch
from rich.console import Console

from kernel_generator import KernelGenerator
from kernel_generator.cli.campaign import Campaign, Job
from kernel_generator.cli.exits import Exit
from kernel_generator.domain.errors import DeviceLost, InvalidInput
from kernel_generator.domain.events import Attempted, RunStarted
from kernel_generator.domain.outcome import Outcome
from kernel_generator.domain.target import find_target
from kernel_generator.evaluation.devices import DevicePool
from kernel_generator.evaluation.local import LocalJudge
from kernel_generator.evaluation.places import judges_for
from kernel_generator.evaluation.ray_judge import RayJudge
from kernel_generator.models.scripted import ScriptedModel
from kernel_generator.reporting.progress import Progress
from kernel_generator.runs.goal import Goal
from tests.evaluation.judging import CORRECTNESS, DOUBLE, TINY, solution, task
from tests.running import NEVER_ENDS, wait_until_one_runs
from tests.runs.sets import RIGHT, a_traceset, python_reply

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from flashinfer_bench.data import Definition

    from kernel_generator.domain.events import Event
    from kernel_generator.evaluation.judge import Judge, PlacedJudge, Session

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

CPU = find_target("CPU")
_NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
_QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 3,
}
"""How soon Ray notices that a node is gone."""
_MARKS = NEVER_ENDS.partition("    while")[0]
LATE = f"import time\n{_MARKS}    time.sleep(5)\n    return -x\n"
"""Says that it runs, and is wrong some seconds later."""


def multiplies(by: int) -> Definition:
    return DOUBLE.model_copy(
        update={"name": f"times-{by}", "reference": f"def run(x):\n    return x * {by}\n"}
    )


DEFINITIONS = {d.name: d for d in map(multiplies, (2, 3, 4))}
Found = dict[tuple[str, str], str]
"""Outcomes, or what a candidate raised, by definition and candidate."""
CANDIDATES = {
    "right": {name: definition.reference for name, definition in DEFINITIONS.items()},
    "wrong": dict.fromkeys(DEFINITIONS, "def run(x):\n    return x * 5\n"),
    "late": dict.fromkeys(DEFINITIONS, LATE),
    "telling": dict.fromkeys(
        DEFINITIONS, "import torch\ndef run(x):\n    raise ValueError(torch.get_num_threads())\n"
    ),
}


@pytest.fixture(scope="module")
def cluster() -> Generator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args=_NODE | {"_system_config": _QUICK})
        for _ in range(2):
            cluster.add_node(**_NODE)
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def judges(cluster: Any) -> list[PlacedJudge]:
    return judges_for("ray", CPU, TINY, "strict")


def one(session: Session, name: str, which: str) -> str:
    candidate = solution(CANDIDATES[which][name], definition=name)
    found = session.evaluate(candidate, CORRECTNESS)
    assert found.isolation is not None
    assert found.isolation.level == "strict"
    raised = found.outcome is Outcome.RUNTIME_ERROR
    return found.message.splitlines()[-1] if raised else found.outcome.value


def judged(judge: Judge, candidates: list[str]) -> Found:
    """What those candidates come to, of all definitions at once."""

    def work(name: str) -> Found:
        session = judge.open(task(DEFINITIONS[name]))
        try:
            session.prepare()
            return {(name, which): one(session, name, which) for which in candidates}
        finally:
            session.close()

    with ThreadPoolExecutor(len(DEFINITIONS)) as threads:
        return {of: it for part in threads.map(work, DEFINITIONS) for of, it in part.items()}


def campaign(folder: Path, judge: Judge, first: str) -> dict[str, tuple[str, ...]]:
    """Outcomes of all attempts by definition, of a campaign over three whose scripted model answers
    with that, and then rightly."""
    replies = {1: python_reply(first), 2: RIGHT}
    progress = Progress(Console(file=io.StringIO()))
    attempts: dict[str, list[str]] = {}
    of_run: dict[str, str] = {}

    def note(event: Event) -> None:
        if isinstance(event, RunStarted):
            of_run[event.run_id] = event.definition
        if isinstance(event, Attempted):
            outcome = event.attempt.outcome.value
            attempts.setdefault(of_run[event.run_id], []).append(outcome)

    traceset = a_traceset(folder / "set", "a", "b", "c", sizes=(3,))
    generator = KernelGenerator(
        model=ScriptedModel(lambda request: replies[request.proposal.round]),
        language="python",
        # What is not here is checked and not timed.
        target_gpu="V100",
        store=folder / "runs.db",
        judge=judge,
        on_event=note,
    )
    jobs = [Job(generator, traceset, name, Goal(3)) for name in traceset.definitions]
    assert Campaign(jobs, progress, at_once=3).work() is Exit.SOLVED
    return {name: tuple(outcomes) for name, outcomes in attempts.items()}


def test_each_node_has_a_judge_that_says_where_it_is(judges: list[PlacedJudge]) -> None:
    assert len(judges) == 3
    assert all(judge.place.endswith(": CPU") and judge.slots == 1 for judge in judges)


def test_verdicts_are_the_same_as_without_ray(judges: list[PlacedJudge]) -> None:
    without = judged(DevicePool([LocalJudge(TINY, for_gpu=False)]), ["right", "wrong", "telling"])
    # The last tells how many threads it has: Ray gives an actor one, a judge has its machine's.
    assert judged(DevicePool(judges), ["right", "wrong", "telling"]) == without
    threads = f"ValueError: {torch.get_num_threads()}"
    assert set(without.values()) == {"CORRECT_NOT_MEASURED", "WRONG_VALUES", threads}


def test_a_campaign_comes_to_the_same_as_without_ray(
    judges: list[PlacedJudge], tmp_path: Path
) -> None:
    wrong = "def run(x):\n    return x * 5\n"
    without = campaign(tmp_path / "without", DevicePool([LocalJudge(TINY, for_gpu=False)]), wrong)
    assert campaign(tmp_path / "with", DevicePool(judges), wrong) == without
    assert without == dict.fromkeys("abc", ("WRONG_VALUES", "CORRECT_NOT_MEASURED"))


@pytest.mark.usefixtures("cluster")
def test_hardware_that_no_node_has_is_told() -> None:
    with pytest.raises(InvalidInput, match=r"no machine of the Ray cluster has a free H100"):
        judges_for("ray", find_target("H100"), TINY, "strict")


def test_what_a_node_that_is_killed_had_under_way_is_judged_elsewhere(
    cluster: Any, judges: list[PlacedJudge]
) -> None:
    of_node = {judge.node: judge for judge in judges if isinstance(judge, RayJudge)}
    doomed = cluster.list_all_nodes()[-1]
    killed = list[str]()

    def kill() -> None:
        wait_until_one_runs(doomed.all_processes["raylet"][0].process.pid)
        cluster.remove_node(doomed, allow_graceful=False)
        killed.append(doomed.node_id)

    thread = threading.Thread(target=kill)
    thread.start()
    # Three at once on three nodes: the late candidate of one is on the node that goes.
    found = judged(DevicePool(judges), ["late", "right"])
    thread.join()
    assert killed == [doomed.node_id]
    assert found == {
        (name, which): outcome
        for name in DEFINITIONS
        for which, outcome in (("late", "WRONG_VALUES"), ("right", "CORRECT_NOT_MEASURED"))
    }
    with pytest.raises(DeviceLost):
        of_node[doomed.node_id].open(task()).prepare()


def test_a_campaign_goes_on_where_a_node_is_killed_half_way(cluster: Any, tmp_path: Path) -> None:
    doomed = cluster.list_all_nodes()[-1]
    left = DevicePool(judges_for("ray", CPU, TINY, "strict"))
    killed = threading.Event()

    def kill() -> None:
        wait_until_one_runs(doomed.all_processes["raylet"][0].process.pid)
        cluster.remove_node(doomed, allow_graceful=False)
        killed.set()

    thread = threading.Thread(target=kill)
    thread.start()
    found = campaign(tmp_path, left, LATE)
    thread.join()
    assert killed.is_set()
    assert found == dict.fromkeys("abc", ("WRONG_VALUES", "CORRECT_NOT_MEASURED"))
