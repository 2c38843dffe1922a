"""A judge that is asked by another process: it owns the sessions and knows them by name.

Every order is answered, whatever comes of it; a session that was closed stays closed, even where
the order to close it overtakes the one to open it. Safe to use from several threads.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kernel_generator.domain.errors import (
    DeviceLost,
    InvalidInput,
    KernelGeneratorError,
    SandboxError,
)
from kernel_generator.evaluation.local import LocalJudge
from kernel_generator.evaluation.orders import Broken, Close, Evaluate, Prepare, Refused, Room
from kernel_generator.sandbox.confinement import end_with

if TYPE_CHECKING:
    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.evaluation.judge import Limits, Opened
    from kernel_generator.evaluation.orders import Answer, Order
    from kernel_generator.evaluation.session import LocalSession

_CLOSED = "the judge's session was closed"


class ServedJudge:
    """A `LocalJudge` that answers orders."""

    def __init__(self, limits: Limits, isolation: str) -> None:
        """Raises `UnknownName`."""
        self._judge = LocalJudge(limits, isolation)
        self._lock = threading.Lock()
        self._sessions: dict[str, LocalSession] = {}
        self._ended: set[str] = set()

    def check(self) -> None:
        """See `Judge.check`."""
        self._judge.check()

    def answer(self, order: Order) -> Answer:
        """Do it, for as long as it takes."""
        try:
            match order:
                case Prepare():
                    return self._prepare(order)
                case Evaluate():
                    return self._evaluate(order)
                case Close():
                    return self._close(order.session)
                case Room():
                    return self._judge.has_room()
        except KernelGeneratorError as error:
            return Refused(error)
        except torch.AcceleratorError as error:
            # CUDA's errors stick to a process: nothing that it does on the device works any more.
            return Refused(DeviceLost(f"the GPU failed: {error}"))
        except Exception:  # noqa: BLE001 - whoever asked waits for an answer, and is told what broke
            return Broken(traceback.format_exc())

    def close(self) -> None:
        """End all sessions."""
        for name in list(self._sessions):
            self._close(name)

    def _prepare(self, order: Prepare) -> Opened:
        _check_shared(order)
        session = self._judge.open(order.task)
        with self._lock:
            ended = order.session in self._ended
            if not ended:
                self._sessions[order.session] = session
        if ended:
            session.close()
            raise SandboxError(_CLOSED)
        session.prepare()
        return session.opened

    def _evaluate(self, order: Evaluate) -> Evaluation:
        with self._lock:
            session = self._sessions.get(order.session)
        if session is None:
            raise SandboxError(_CLOSED)
        return session.evaluate(order.solution, order.profile)

    def _close(self, name: str) -> None:
        with self._lock:
            self._ended.add(name)
            session = self._sessions.pop(name, None)
        if session is not None:
            session.close()


def _check_shared(order: Prepare) -> None:
    """Raises `InvalidInput` where captured inputs that the task's owner has are not here: values
    that are made up in their place would be other inputs than everybody else's."""
    root = order.task.root or Path()
    # An absolute path stays as it is.
    missing = [path for path in order.captured if not (root / path).is_file()]
    if missing:
        raise InvalidInput(
            f"host {socket.gethostname()} does not have the captured inputs of "
            f"'{order.task.definition.name}' ({missing[0]} below {root.absolute()}): share the "
            "trace set's folder with it, under the same path"
        )


def main() -> None:
    """The program of a judge process: `descriptor parent` on its command line. What comes first
    over the connection is how to judge, then orders, each with a number that its answer bears."""
    descriptor, parent = map(int, sys.argv[1:])
    end_with(parent)
    os.set_inheritable(descriptor, False)
    connection = Connection(descriptor)
    judge = ServedJudge(*connection.recv())
    sending = threading.Lock()

    def work(ticket: int, order: Order) -> None:
        answer = judge.answer(order)
        with sending:
            connection.send((ticket, answer))

    try:
        while True:
            threading.Thread(target=work, args=connection.recv(), daemon=True).start()
    except (EOFError, OSError):
        judge.close()
    # Threads may still be writing to a connection that is gone.
    os._exit(0)
