"""Judges on a Ray cluster: three nodes on this machine, with a processor each."""

from __future__ import annotations

import queue
import socket
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from kernel_generator.domain.errors import DeviceLost, InvalidInput
from kernel_generator.domain.target import find_target
from kernel_generator.evaluation.places import judges_for
from kernel_generator.evaluation.ray_judge import RayJudge
from tests.evaluation.judging import CORRECTNESS, DOUBLE, TINY, opened, solution, task
from tests.running import NEVER_ENDS, wait_until_one_runs

if TYPE_CHECKING:
    from collections.abc import Generator

    from flashinfer_bench.data import Definition

    from kernel_generator.domain.outcome import Outcome
    from kernel_generator.evaluation.judge import PlacedJudge

pytestmark = pytest.mark.slow
pytest.importorskip("ray")

CPU = find_target("CPU")
_NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
_PORTS = (
    "metrics_agent_port",
    "metrics_export_port",
    "dashboard_agent_listen_port",
    "runtime_env_agent_port",
)
"""Left to itself, a node gives up where its agents do not choose them within seconds."""
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
Work = tuple[str, str]
"""A definition's name and a candidate."""
EVERYTHING: list[Work] = [
    (name, source)
    for by, name in zip((2, 3, 4), DEFINITIONS, strict=True)
    for source in (f"def run(x):\n    return x * {by}\n", "def run(x):\n    return x * 2 * x\n")
]


def node() -> dict[str, Any]:
    """How one is started: on ports that are free."""
    with ExitStack() as taken:
        sockets = [taken.enter_context(socket.create_server(("", 0))) for _ in _PORTS]
        ports = [taken.getsockname()[1] for taken in sockets]
    return _NODE | dict(zip(_PORTS, ports, strict=True))


@pytest.fixture(scope="module")
def cluster() -> Generator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args=node() | {"_system_config": _QUICK})
        for _ in range(2):
            cluster.add_node(**node())
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def judges(cluster: Any) -> list[PlacedJudge]:
    return judges_for("ray", CPU, TINY, "strict")


@pytest.fixture(scope="module")
def without_ray() -> dict[Work, Outcome]:
    found = dict[Work, Any]()
    for name, definition in DEFINITIONS.items():
        with opened(task(definition)) as session:
            for work in EVERYTHING:
                if work[0] == name:
                    candidate = solution(work[1], definition=name)
                    found[work] = session.evaluate(candidate, CORRECTNESS).outcome
    return found


def judged(judges: list[PlacedJudge], what: list[Work]) -> dict[Work, Outcome]:
    """What all come to, each judged wherever a judge is free, elsewhere where that one is lost."""
    waiting, found = queue.SimpleQueue[Work | None](), dict[Work, Any]()
    for work in what:
        waiting.put(work)

    def serve(judge: PlacedJudge) -> None:
        while work := waiting.get():
            session = judge.open(task(DEFINITIONS[work[0]]))
            try:
                session.prepare()
                candidate = solution(work[1], definition=work[0])
                found[work] = session.evaluate(candidate, CORRECTNESS).outcome
            except DeviceLost:
                waiting.put(work)
                return
            finally:
                session.close()
            if len(found) == len(what):
                for _ in judges:
                    waiting.put(None)

    threads = [threading.Thread(target=serve, args=(judge,)) for judge in judges]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_each_node_has_a_judge_that_says_where_it_is(judges: list[PlacedJudge]) -> None:
    assert len(judges) == 3
    assert all(judge.place.endswith(": CPU") and judge.slots == 1 for judge in judges)


def test_verdicts_are_the_same_as_without_ray(
    judges: list[PlacedJudge], without_ray: dict[Work, Outcome]
) -> None:
    assert judged(judges, EVERYTHING) == without_ray


def test_a_judge_has_all_threads_of_its_machine(judges: list[PlacedJudge]) -> None:
    tells = solution("import torch\ndef run(x):\n    raise ValueError(torch.get_num_threads())\n")
    session = judges[0].open(task())
    session.prepare()
    there = session.evaluate(tells, CORRECTNESS)
    session.close()
    with opened(task()) as local:
        here = local.evaluate(tells, CORRECTNESS)
    assert there.message.splitlines()[-1] == here.message.splitlines()[-1]
    assert there.isolation == here.isolation


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
    late = ("times-2", LATE)
    # The one that will be lost is the only one at first.
    found = judged([of_node[doomed.node_id]], [late])
    thread.join()
    assert (found, killed) == ({}, [doomed.node_id])
    left = [late, *EVERYTHING[:2]]
    ended = judged(list(of_node.values()), left)
    assert [ended[work].value for work in left] == [
        "WRONG_VALUES",
        "CORRECT_NOT_MEASURED",
        "WRONG_VALUES",
    ]
    with pytest.raises(DeviceLost, match="node"):
        of_node[doomed.node_id].open(task()).prepare()
