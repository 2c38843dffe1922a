"""Paired timing: what is timed, with how much effort, and the figures that come of it.

Implementations run in interleaved, randomly ordered blocks, and ratios decide. Every call of a
block has inputs of its own that were not there before. On a CPU the judge's clock spans the block.
On a GPU the calls are queued first, then their inputs are written, then the judge lets them go: the
child reports event times, which are credited where that clock bears them out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from kernel_generator.sandbox.orders import Failed
from kernel_generator.sandbox.standstill import Restless
from kernel_generator.sandbox.wire import Fault

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kernel_generator.sandbox.arena import Arena
    from kernel_generator.sandbox.device_arena import DeviceArena
    from kernel_generator.sandbox.orders import Answer, Done
    from kernel_generator.sandbox.worker import Worker

CANDIDATE = "candidate"
"""Name of the party that is judged."""
INCUMBENT = "incumbent"
"""Name of the baseline that a candidate has to beat to be promoted."""
ITSELF = "itself"
"""Name of the series of a candidate's blocks that only its own noise is taken from."""
PATIENCE = 4
"""`TimingPlan.min_blocks` may take so many budgets, and whatever they take where a promotion would
come of them."""
ENOUGH = 0.02
"""Width of an interval over its value at which more blocks are not worth their time."""


@dataclass(frozen=True)
class TimingPlan:
    """How much effort a figure is worth."""

    block_s: float = 0.01
    """A block repeats calls for about this long, as far as there are sets of inputs."""
    min_blocks: int = 7
    max_blocks: int = 30
    budget_s: float = 0.4
    """Wall time for all blocks of one workload. `min_blocks` may overrun it `PATIENCE` times, and a
    gain over the incumbent that is not sure yet for longer."""
    enough: float = ENOUGH
    """Blocks end where the interval of every ratio is narrower than this share of it. Of the ratio
    to the incumbent, which decides, it is never more than 2 %."""
    call_limit_s: float = 60.0
    looks: int = 1
    """So often at least a block is looked into for calls that are computed ahead."""
    long_blocks: bool = False
    """Claims are checked against much longer blocks in any case."""
    against_itself: bool = False
    """Also time the candidate against itself: the A/A noise of the measurement."""


@dataclass
class Party:
    """One implementation being timed, bound and warm."""

    name: str
    worker: Worker
    arena: Arena | DeviceArena
    stores: bool
    """True where it returns its values, and storing them is the protocol's cost."""
    trusted: bool = True
    """False for a candidate, and for what was one once: it stands still while others are timed, and
    what storing its values takes is its own, for nobody can see whether it was done."""
    once_s: float = 0.0
    """About what one call takes by the judge's clock; 0 before it was warmed up."""
    count: int = 1
    """Calls in a block."""
    most: int = 1
    """So many calls may be in a block of it."""
    gated: bool = False
    host_bound: bool = False
    per_call_s: list[float] = field(default_factory=list[float])
    claims: list[Done] = field(default_factory=list["Done"])

    @property
    def refunded(self) -> bool:
        """True where what storing values takes is taken off its figures."""
        return self.stores and self.trusted


@dataclass(frozen=True)
class Series:
    """Seconds per call of one party, one figure a block, in block order."""

    name: str
    per_call_s: NDArray[np.float64]
    timer: str
    host_bound: bool = False
    apart_s: float = 0.0
    """Half a 95 % interval of what another process of the same kernel may differ by."""

    def later(self, more_s: float) -> Series:
        """With so many seconds a call more, which the judge's clock found beyond the claims."""
        if not more_s:
            return self
        told = f"{self.timer}; {more_s * 1e6:.1f} us a call added, as that clock found"
        return replace(self, per_call_s=self.per_call_s + more_s, timer=told)

    @property
    def unseen(self) -> float:
        """The same as a share (see `intervals.Ratio`)."""
        return self.apart_s / float(np.median(self.per_call_s))


class TimingFailed(Exception):
    """A party failed while being timed."""

    def __init__(self, party: str, answer: Answer) -> None:
        super().__init__(party)
        self.party = party
        self.answer = answer


class ClaimContradicted(Exception):
    """A child claimed a device time that the judge's clock rules out."""

    def __init__(self, party: str, claimed_s: float, seen_s: float) -> None:
        super().__init__(
            f"{party} claims {claimed_s * 1e6:.2f} us a call on the device, where the judge's "
            f"clock leaves {seen_s * 1e6:.2f} us"
        )
        self.party = party


def stand_still(party: Party) -> None:
    """Let a party's child stand still until its next train. Raises `TimingFailed`."""
    try:
        party.worker.stand_still()
    except Restless as restless:
        raise TimingFailed(party.name, Failed(Fault.PROTOCOL, str(restless))) from restless


class Rounds(Protocol):
    """What happens around the blocks, while no clock runs but for `settle`."""

    def prepare(self, count: int, few: bool = False) -> None:
        """Make new inputs for the first `count` sets of the ring. `few`: no more than a few of the
        calls will be looked at."""
        ...

    def fill(self, party: Party, count: int) -> None:
        """Give a party those of the first `count` sets."""
        ...

    def settle(self, party: Party) -> None:
        """Take a first look at what is there the moment the party says that it is done."""
        ...

    def settled(self, party: Party, called: bool) -> None:
        """See that nothing was written after that look. `called`: the train was not one of nothing.
        What it raises ends the timing."""
        ...

    def inspect(self) -> None:
        """Take what the round left to be looked at, now or when it is concluded. What it raises
        ends the timing."""
        ...

    def conclude(self) -> None:
        """Look at what was taken and not looked at yet. What it raises ends the timing."""
        ...

    def prepare_surprise(self, count: int) -> None:
        """As `prepare`, and choose a later call of a block of so many, and other inputs for it."""
        ...

    def surprise(self, party: Party) -> None:
        """While the block runs: give that call those inputs."""
        ...

    def foreseen(self, party: Party) -> bool | None:
        """After such a block: whether that call answered the inputs that were there before. None
        where the call before it had written already when they were replaced."""
        ...
