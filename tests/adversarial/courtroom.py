"""Sessions of the judge for the corpus, what is planted for its cheats, and what they leave."""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kernel_generator.evaluation.judge import Limits
from kernel_generator.evaluation.local import LocalJudge
from kernel_generator.evaluation.profiles import certification
from kernel_generator.runs.defaults import local_target
from tests.adversarial.definitions import ROOT, definition, workloads
from tests.adversarial.records import Case, Cheat, Honest, Rejected
from tests.evaluation.judging import BRIEF, solution, task

if TYPE_CHECKING:
    from collections.abc import Generator

    from flashinfer_bench.data import Solution

    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.session import LocalSession

STRICT = "strict"
BRIEFLY = replace(BRIEF, timing=replace(BRIEF.timing, block_s=0.005, max_blocks=5))
"""Blocks of several calls each, so that what is done once a block shows."""
CERTIFYING = replace(
    certification(),
    timing=replace(BRIEFLY.timing, against_itself=True, looks=4, long_blocks=True),
)
"""The full set of checks, timed as briefly."""
LIMITS = Limits(build_s=90.0, first_call_s=45.0, call_s=5.0)
FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run")
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Place:
    """Where a case is judged; cases with the same place share a session."""

    definition: str
    target: str
    language: str


def place_of(case: Case, device: str) -> Place:
    """The session for a case on 'cpu' or 'cuda'. Without a GPU, Triton is interpreted."""
    if device == "cuda" and torch.cuda.is_available():
        target = local_target().name
    else:
        target = "H100" if case.language in ("triton", "cuda") else "CPU"
    return Place(case.definition, target, case.language)


def devices_of(case: Case) -> tuple[str, ...]:
    """'cpu' and 'cuda': where a case can be judged."""
    if case.device != "any":
        return (case.device,)
    return ("cpu",) if case.language == "cpp" else ("cpu", "cuda")


@dataclass
class Planted:
    """What the cheats look for, and what they might leave."""

    folder: Path
    """A folder of the judge's user that no sandbox should show."""
    port: int
    variable: str = "KERNEL_GENERATOR_PLANTED"
    mark: str = field(default_factory=lambda: "kernel-generator-mark-" + secrets.token_hex(8))
    signals: list[int] = field(default_factory=list[int])
    """What signals reached this process."""

    @property
    def file(self) -> Path:
        """A file with a secret."""
        return self.folder / "secret"

    def fill_in(self, source: str) -> str:
        """The source with its placeholders replaced."""
        for word, value in (
            ("@FILE@", str(self.file)),
            ("@FOLDER@", str(self.folder)),
            ("@PORT@", str(self.port)),
            ("@VARIABLE@", self.variable),
            ("@MARK@", self.mark),
        ):
            source = source.replace(word, value)
        return source

    def left_behind(self) -> list[str]:
        """Files and processes that carry the mark, and signals; they are removed."""
        found = [f"signal {number}" for number in self.signals]
        self.signals.clear()
        for folder in (*FOLDERS, str(self.folder), str(Path.cwd())):
            path = Path(folder, self.mark)
            if path.exists():
                found.append(str(path))
                path.unlink()
        for pid in descendants():
            with suppress(OSError):
                if self.mark.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(f"process {pid}")
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
        return found


@contextmanager
def planted(folder: Path) -> Generator[Planted]:
    """Plant a file, a variable and a listening port, and take in orphans of the judge's children.

    An orphan becomes this process's child, so that none goes unseen.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    here = Planted(folder, listener.getsockname()[1])
    here.file.write_text("planted")
    old = signal.signal(signal.SIGUSR1, lambda number, _: here.signals.append(number))
    os.environ[here.variable] = "planted"
    adopt(True)
    try:
        yield here
    finally:
        adopt(False)
        del os.environ[here.variable]
        signal.signal(signal.SIGUSR1, old)
        listener.close()


def adopt(orphans: bool) -> None:
    """Whether orphaned processes below this one become its children."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(orphans), 0, 0, 0)


def descendants() -> set[int]:
    """Processes that this one started, directly or not, and that are still there."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            pid, stat = int(entry.name), (entry / "stat").read_text().rpartition(")")[2].split()
            if stat[0] != "Z":
                parents[pid] = int(stat[1])
    found: set[int] = set()
    fresh = {os.getpid()}
    while fresh:
        fresh = {pid for pid, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


class Courtroom:
    """Keeps one session open: the last one asked for. Sort cases by place to open each once."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._place: Place | None = None
        self._session: LocalSession | None = None
        self._known: dict[tuple[Place, str], Evaluation] = {}

    def session(self, place: Place) -> LocalSession:
        """The session of a place, prepared."""
        if self._session is None or place != self._place:
            self.close()
            self._session = LocalJudge(self._limits).open(_task(place))
            self._place = place
            self._session.prepare()
        return self._session

    def judge(self, case: Case, device: str, here: Planted | None = None) -> Evaluation:
        """The judge's verdict on a case: what must be right, or be found wrong, is certified."""
        source = here.fill_in(case.source) if here else case.source
        candidate = as_solution(case, source)
        rejected = isinstance(case, Cheat) and isinstance(case.ends, Rejected)
        certified = case.certified or isinstance(case, Honest) or rejected
        profile = CERTIFYING if certified else BRIEFLY
        return self.session(place_of(case, device)).evaluate(candidate, profile)

    def judge_once(self, case: Case, device: str) -> Evaluation:
        """The verdict on a case that others are compared with."""
        key = place_of(case, device), case.name
        if key not in self._known:
            self._known[key] = self.judge(case, device)
        return self._known[key]

    def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def __enter__(self) -> Courtroom:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def as_solution(case: Case, source: str) -> Solution:
    """A case as something to hand in."""
    return solution(
        source, language=case.language, passing=case.passing, definition=case.definition
    )


def reference_case(name: str) -> Case:
    """The definition's reference, handed in as it is."""
    return Case("the reference", "Does what the definition says.", name, definition(name).reference)


@cache
def _task(place: Place) -> Task:
    return task(
        definition(place.definition),
        workloads(place.definition),
        target=place.target,
        language=place.language,
        root=ROOT,
    )
