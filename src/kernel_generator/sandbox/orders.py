"""What a child is asked and what became of it: records on both sides of a `Worker`'s calls."""

from __future__ import annotations

import contextlib
import json
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernel_generator.sandbox.wire import Train

if TYPE_CHECKING:
    from kernel_generator.sandbox.wire import Fault


@dataclass(frozen=True)
class Order:
    """What a child is to load, and where it is to run."""

    definition_json: str
    solution_json: str
    device: str
    """'cpu' or 'cuda:N'."""
    interpret: bool = False
    """Run Triton in its interpreter."""
    stands_in: bool = False
    """The CPU stands in for a GPU: what only a GPU can do is no fault of the candidate."""
    threads: int = 0
    """CPU threads for torch; 0 leaves its default."""
    cpus: tuple[int, ...] = ()
    """What its threads may run on; empty: anything."""
    furnish: str | None = None
    """Folder that the child copies into its HOME first: compiler caches, made by trusted code."""

    def to_json(self) -> bytes:
        """The order as the child reads it."""
        return json.dumps(
            {
                "definition": json.loads(self.definition_json),
                "solution": json.loads(self.solution_json),
                "device": self.device,
                "interpret": self.interpret,
                "stands_in": self.stands_in,
                "threads": self.threads,
                "cpus": self.cpus,
                "furnish": self.furnish,
            }
        ).encode()


@dataclass(frozen=True)
class WarmOrder:
    """What a child does before it has a candidate."""

    device: str | None
    """'cuda:N', or None: only what does not touch a device."""
    triton: bool
    """Also what Triton's first launch needs."""
    furnish: str | None = None
    """As `Order.furnish`."""


@dataclass(frozen=True)
class TrainOrder:
    """Calls in a row."""

    count: int
    """At most as many as the arena has sets."""
    mode: Train = Train.CALLS
    stores: bool = True
    """Of an empty train: whether values are stored, as those that a call returns are."""


@dataclass(frozen=True)
class Done:
    """The child says that it did as told."""

    wall_s: float
    """The judge's clock, from sending the order to receiving the answer."""
    device_ns: float = 0.0
    """The child's claim for a gated train."""
    figure: float = 0.0
    gated: bool = False
    """True where all calls were queued before any could begin, and `wall_s` runs from then on."""


@dataclass(frozen=True)
class Failed:
    """The child reports a failure of the candidate."""

    fault: Fault
    text: str
    """Inert."""


@dataclass(frozen=True)
class Died:
    """The child process ended."""

    returncode: int | None

    @property
    def text(self) -> str:
        """How it ended, in words."""
        if self.returncode is None:
            return "the process closed its channel"
        if self.returncode < 0:
            with contextlib.suppress(ValueError):
                return f"the process was killed by {signal.Signals(-self.returncode).name}"
        return f"the process exited with status {self.returncode}"


@dataclass(frozen=True)
class Exceeded:
    """The child held more of a resource than it may, and was killed."""

    what: str
    """'more than 8.0 GiB of memory', for example."""


@dataclass(frozen=True)
class TimedOut:
    """No answer within the limit; the child was killed."""

    limit_s: float


Answer = Done | Failed | Died | Exceeded | TimedOut
