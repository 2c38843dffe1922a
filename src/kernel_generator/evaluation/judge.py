"""The judge's interface: open and prepare a session for a task, then evaluate solutions with it.

A session holds what is computed once per task: inputs, reference outputs, baselines. Evaluations
are values; only the definition's own faults raise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from kernel_generator.domain.budget import Permit, Unlimited

if TYPE_CHECKING:
    from flashinfer_bench import Solution, Workload

    from kernel_generator.domain.evaluation import Device, Evaluation
    from kernel_generator.domain.task import Floor, Task
    from kernel_generator.evaluation.baselines import Baseline
    from kernel_generator.evaluation.timing import TimingPlan


@dataclass(frozen=True)
class Limits:
    """How long each step of a candidate may take, in seconds."""

    build_s: float = 300.0
    """Starting the child, importing, compiling."""
    first_call_s: float = 120.0
    """The first call on a workload, just-in-time compilation and self-tuning included."""
    getting_ready_s: float = 10.0
    """How much longer than its later calls a first one may take, of what is written in Triton,
    CUDA or C++ and runs on the target itself: whoever serves a kernel waits for it in the first
    request, so tuning belongs before. A Python solution may call `torch.compile`, which takes as
    long as it takes."""
    call_s: float = 30.0
    """Any later call."""


@dataclass(frozen=True)
class Profile:
    """How thorough an evaluation is."""

    trials: int = 2
    """Distinct random inputs per workload, at least 1."""
    timing: TimingPlan | None = None
    """None: correctness only."""
    baselines: tuple[Baseline, ...] = ()
    """What else is timed, interleaved with the candidate and the reference, which always is:
    naming it here changes nothing. No two of one name."""
    incumbent: Solution | None = None
    """What it has to beat to be promoted: the best candidate so far."""
    certified: bool = False
    """The full set of checks; what it finds is what is saved and reported."""
    held_out: bool = True
    """Also try the workloads that were not searched on."""

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ValueError("at least one trial is needed to find a kernel correct")
        if len({b.name for b in self.baselines}) != len(self.baselines):
            raise ValueError("each baseline needs a name of its own")


@dataclass(frozen=True)
class Unusable:
    """A workload that cannot be run here, and why."""

    workload: Workload
    reason: str


@dataclass(frozen=True)
class Opened:
    """What a session found out when it was prepared."""

    floors: dict[str, Floor] = field(default_factory=dict[str, "Floor"])
    """By uuid of the searched workloads."""
    unusable: tuple[Unusable, ...] = ()
    device: str = "cpu"
    """'cpu' or 'cuda:0'."""
    described: Device | None = None
    """As evaluations record it."""
    isolation: str = ""
    """The level that candidates are run at."""


class Meter(Permit, Protocol):
    """Lets evaluations begin, and counts what they took."""

    def judged(self, evaluation: Evaluation) -> None:
        """One has ended; told before the next one may begin in its place."""
        ...


class Unmetered(Unlimited):
    """A `Meter` where nobody counts."""

    def judged(self, evaluation: Evaluation) -> None:
        """Nobody counts."""


UNMETERED = Unmetered()


class Session(Protocol):
    """Evaluates solutions of one task."""

    opened: Opened
    """What `prepare` found out; empty before."""

    def prepare(self) -> None:
        """Run the references that everything is judged against: once, before any evaluation.

        Blocks for long; `close` from another thread ends it. Raises `ReferenceFailed` where the
        definition's own reference does not run here, `NoWorkloads` where none of its workloads can
        be run, `SandboxError` where the session is closed meanwhile.
        """
        ...

    def evaluate(self, solution: Solution, profile: Profile) -> Evaluation:
        """Judge one solution on the searched workloads, then on the held-out ones where it earns
        them, stopping at the first decisive failure. One at a time: a second caller waits.

        Raises `SandboxError` where the session is closed meanwhile, or no process can be started.
        """
        ...

    def close(self) -> None:
        """Release devices and processes; safe to call from another thread and twice."""
        ...


class Judge(Protocol):
    """Opens sessions."""

    def open(self, task: Task) -> Session:
        """A session that is still to be prepared, and to be closed whatever becomes of that.

        Raises `SandboxError` where no process can be started.
        """
        ...

    def check(self) -> None:
        """Raises `IsolationUnavailable` where kernels cannot be run at the level asked for."""
        ...


class PlacedSession(Session, Protocol):
    """A session on one device."""

    def rest(self) -> None:
        """Give back the memory of what can be made again quickly. A session that is being asked
        keeps it."""
        ...


class PlacedJudge(Judge, Protocol):
    """A judge of one device."""

    def open(self, task: Task) -> PlacedSession:
        """See `Judge.open`."""
        ...

    @property
    def place(self) -> str:
        """The device, for people: 'GPU 1', 'this CPU'."""
        ...

    @property
    def slots(self) -> int:
        """How many evaluations may be under way at once, so that one can be built while another is
        timed. 1 on a CPU, where building would take the cores from what is being timed."""
        ...

    def has_room(self) -> bool:
        """True where memory suffices for another session beside those that are open."""
        ...
