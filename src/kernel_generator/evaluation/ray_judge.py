"""Judges on the machines of a Ray cluster: one actor per GPU, or per machine for the CPU.

Ray finds the machines, carries orders and answers, and tells what is gone; what is judged where is
for others to say. An actor that was lost is not restarted by Ray: the next session asks for another
on its machine. Imports nothing heavy: an actor mends its environment before it does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from concurrent.futures import Future
from dataclasses import dataclass

# Any: Ray's module, actors and references, which have no types to speak of, and none at all where
# the extra is not installed.
from typing import TYPE_CHECKING, Any

from kernel_generator.domain.errors import DeviceLost, InvalidInput, IsolationUnavailable
from kernel_generator.domain.version import VERSION
from kernel_generator.evaluation.orders import Broken

if TYPE_CHECKING:
    from kernel_generator.domain.target import Target
    from kernel_generator.domain.task import Task, Toolchain
    from kernel_generator.evaluation.judge import Limits
    from kernel_generator.evaluation.orders import Answer, Order
    from kernel_generator.evaluation.remote import RemoteSession

_ORDERS_AT_ONCE = 32
"""Preparations and evaluations that are under way, and orders to close them meanwhile."""
_START_S = 120.0
"""An actor that has said nothing by then found no room on its machine."""

_REACH_S = 10.0


@dataclass(frozen=True)
class Host:
    """What an actor says of the machine it is on."""

    name: str
    gpu: str
    """Ray's number of the actor's GPU; empty on a CPU."""
    toolchain: Toolchain
    refusal: str
    """Why kernels cannot be judged there; empty where they can."""


class Evaluator:
    """The actor: a served judge on its machine."""

    def __init__(self, limits: Limits, isolation: str) -> None:
        # Ray says one thread per processor that was asked for; a judge has its whole machine.
        os.environ.pop("OMP_NUM_THREADS", None)
        from kernel_generator.evaluation.served import ServedJudge  # noqa: PLC0415 - loads torch

        self._judge = ServedJudge(limits, isolation)

    def version(self) -> str:
        """This program's, on the actor's machine. A word that every version understands."""
        return VERSION

    def look(self) -> Host:
        """What this machine has."""
        import ray  # noqa: PLC0415 - an extra

        from kernel_generator.evaluation.toolchain import find_toolchain  # noqa: PLC0415 - as above

        refusal, gpus = "", ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        try:
            self._judge.check()
        except IsolationUnavailable as error:
            refusal = str(error)
        return Host(socket.gethostname(), ",".join(gpus), find_toolchain(), refusal)

    def answer(self, order: Order) -> Answer:
        """See `ServedJudge.answer`."""
        return self._judge.answer(order)


class RayJudge:
    """See `PlacedJudge`."""

    def __init__(self, ray: Any, node: str, on_gpu: bool, limits: Limits, isolation: str) -> None:
        """Asks Ray for an actor on the node of that id, and does not wait for it."""
        self.place = f"node {node}"
        self.slots = 2 if on_gpu else 1
        self.toolchain: Toolchain | None = None
        """What the machine has; None until it was looked at."""
        self._ray = ray
        self.node = node
        self._how = (limits, isolation)
        self._lock = threading.Lock()
        self._line = self._start()

    def open(self, task: Task) -> RemoteSession:
        """See `Judge.open`."""
        from kernel_generator.evaluation.remote import RemoteSession  # noqa: PLC0415 - loads torch

        return RemoteSession(self._connect, self.place, task)

    def check(self) -> None:
        """See `Judge.check`. Nothing: what cannot isolate kernels is no judge (`ray_judges`)."""

    def has_room(self) -> bool:
        """See `PlacedJudge.has_room`."""
        from kernel_generator.evaluation.remote import has_room  # noqa: PLC0415 - loads torch

        return has_room(None if self._line.lost else self._line)

    def close(self) -> None:
        """End the actor; the next session asks for another."""
        self._line.cut()

    def ask(self) -> tuple[Any, Any]:
        """References to the actor's `version` and `Host`."""
        return self._line.actor.version.remote(), self._line.actor.look.remote()

    def looked(self, host: Host) -> None:
        """Take what the actor said for what this judge is."""
        self.toolchain = host.toolchain
        self.place = f"{host.name}: GPU {host.gpu}" if host.gpu else f"{host.name}: CPU"

    def _start(self) -> _Line:
        # An extra, and loaded by now.
        from ray.util.scheduling_strategies import (  # noqa: PLC0415
            NodeAffinitySchedulingStrategy,
        )

        on_gpu = self.slots > 1
        actor = self._ray.remote(Evaluator).options(
            num_cpus=0 if on_gpu else 1,
            num_gpus=1 if on_gpu else 0,
            max_concurrency=_ORDERS_AT_ONCE,
            scheduling_strategy=NodeAffinitySchedulingStrategy(self.node, soft=False),
        )
        return _Line(self._ray, actor.remote(*self._how))

    def _connect(self) -> _Line:
        with self._lock:
            if self._line.lost:
                self._line = self._start()
                started, _ = self._ray.wait([self._line.actor.version.remote()], timeout=_START_S)
                if not started:
                    self._line.cut()
                    raise DeviceLost(f"{self.place}: Ray has no room there any more")
            return self._line


class _Line:
    """The way to one actor. See `Line`."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self.actor = actor
        self.lost = False
        """True once it answers nothing any more."""
        self._ray = ray

    def submit(self, order: Order) -> Future[Answer]:
        """See `Line.submit`."""
        answered = Future["Answer"]()

        def arrived(told: Future[Answer]) -> None:
            try:
                answered.set_result(told.result())
            except self._ray.exceptions.RayTaskError as error:
                # The actor is there: what it was sent, or sent back, could not be read.
                answered.set_result(Broken(str(error)))
            except (self._ray.exceptions.RayError, ConnectionError) as error:
                self.lost = True
                answered.set_exception(DeviceLost(_sentence(error)))

        try:
            self.actor.answer.remote(order).future().add_done_callback(arrived)
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            self.lost = True
            answered.set_exception(DeviceLost(_sentence(error)))
        return answered

    def cut(self) -> None:
        """See `Line.cut`."""
        self.lost = True
        with contextlib.suppress(self._ray.exceptions.RayError, ConnectionError):
            self._ray.kill(self.actor)


def ray_judges(
    address: str | None, target: Target, limits: Limits, isolation: str
) -> list[RayJudge]:
    """A judge for each GPU of the cluster that is the target's, or for each machine where that is
    the CPU. `address`: 'ray://HEAD:PORT'; None: the cluster that this machine is in, else a new one
    that ends with this process.

    Raises `InvalidInput` where Ray is not installed, no cluster is reached, a machine has another
    version of this program, or none has what the target says; `IsolationUnavailable` where one
    cannot isolate kernels.
    """
    ray = _joined(address)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    judges = list[RayJudge]()
    for node in nodes:
        count = int(node["Resources"].get("GPU" if target.is_gpu else "CPU", 0))
        # The cores of a machine are one device.
        for _ in range(count if target.is_gpu else min(count, 1)):
            judges.append(RayJudge(ray, node["NodeID"], target.is_gpu, limits, isolation))
    asked = [judge.ask() for judge in judges]
    if asked:
        ray.wait([host for _, host in asked], num_returns=len(asked), timeout=_START_S)
    fitting, others = list[RayJudge](), set[str]()
    try:
        for judge, (version, host) in zip(judges, asked, strict=True):
            found = _host(ray, version, host)
            if found is not None and target.matches(found.toolchain.gpu or "") == target.is_gpu:
                judge.looked(found)
                fitting.append(judge)
            else:
                others.add("one that is busy" if found is None else f"{found.toolchain.gpu}")
                judge.close()
        if not fitting:
            what = f"a free {target.name}" if target.is_gpu else "a free processor"
            seen = f" (but {', '.join(sorted(others))})" if others else ""
            raise InvalidInput(
                f"no machine of the Ray cluster has {what}{seen}: {len(nodes)} were looked at"
            )
    except InvalidInput:
        for judge in judges:
            judge.close()
        raise
    return fitting


def _joined(address: str | None) -> Any:
    """Ray, connected. A connection that the user's program has made is used. Raises
    `InvalidInput`."""
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise InvalidInput(
            "to judge on a Ray cluster, Ray has to be installed: "
            "pip install 'kernel-generator[ray]'"
        ) from error
    if ray.is_initialized():
        return ray
    before = signal.getsignal(signal.SIGTERM)
    # A new cluster needs no dashboard, and an old one has what it has.
    new: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        _reach(address or os.environ.get("RAY_ADDRESS", ""))
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **new)
    except Exception as error:  # Ray raises a dozen kinds here, gRPC's among them
        where = address or os.environ.get("RAY_ADDRESS") or "on this machine"
        raise InvalidInput(
            f"no Ray cluster is reached ({where}): {_sentence(error)}. Check that it is running "
            "('ray status'), with the same versions of Ray and Python, and set RAY_AUTH_MODE=token "
            "where it asks for a token"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            # Ray puts a handler of its own in the place of whoever had one.
            signal.signal(signal.SIGTERM, before)
    return ray


def _reach(address: str) -> None:
    """Raises `OSError` where nobody listens at an address: Ray tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _REACH_S).close()


def _host(ray: Any, version: Any, host: Any) -> Host | None:
    """What an actor said; None where it has not started. Raises `InvalidInput` where no kernel can
    be judged there, for a reason that somebody has to mend."""
    if not ray.wait([host], timeout=0)[0]:
        return None
    try:
        there: str = ray.get(version)
        if there != VERSION:
            raise InvalidInput(
                f"a machine of the Ray cluster has kernel-generator {there}, this one {VERSION}: "
                "install the same version on all"
            )
        found: Host = ray.get(host)
    except ray.exceptions.RayError as error:
        raise InvalidInput(
            "kernel-generator does not start on a machine of the Ray cluster; install the same "
            f"version on all: {_sentence(error)}"
        ) from error
    if found.refusal:
        raise IsolationUnavailable(f"{found.name}: {found.refusal}")
    return found


def _sentence(error: BaseException) -> str:
    """Ray's messages are pages, and tell the cause in the last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
