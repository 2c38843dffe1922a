"""What the judge found: an outcome, one record per workload, and the evidence behind them.

The same record feeds the next prompt, the report, `--json` and the exported traces.
"""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from kernel_generator.domain.outcome import Outcome


class Record(BaseModel):
    """Base of frozen records that are written to disk or wire."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Interval(Record):
    """A figure with its bootstrap 95 % interval."""

    value: float
    low: float
    high: float


class Timing(Record):
    """How long one implementation takes on one workload. Microseconds."""

    device_us: Interval | None = None
    """GPU time of a call with the queue kept full; on a CPU target, wall time of a call."""
    call_us: Interval | None = None
    """What a caller waits for one call on an idle device; None where not measured."""
    first_call_us: float | None = None
    """The first call of the process, compilation and self-tuning included."""
    timer: str = ""
    """Names the clock and who reads it."""
    host_bound: bool = False
    """True where the device queue could not be kept full, so `device_us` includes waiting."""


class Mismatch(Record):
    """How one output differs from the reference on one workload."""

    output: str
    wrong: int
    """Elements beyond tolerance."""
    total: int
    first_index: tuple[int, ...]
    first_got: float
    first_expected: float
    worst_index: tuple[int, ...]
    worst_got: float
    worst_expected: float
    relative_l2: float
    """||got - expected|| / ||expected||; NaN where either holds NaN or infinity."""
    note: str = ""
    """A pattern worth telling, 'all zeros' or 'never written' for example."""


class Floors(Record):
    """Times that a kernel is held against on one workload, microseconds."""

    shown_us: float | None = None
    """What this workload's indices really touch over the measured copy rate, or its operations over
    the measured rate: how far there is to go. A kernel may undercut it a little."""
    refusing_us: float | None = None
    """Compulsory reads over the theoretical peak, or operations over the peak rate: nothing is
    faster, and a time below it is not believed. None for a family without an index-aware count."""


class Clocks(Record):
    """The GPU as NVML saw it around a measurement."""

    sm_mhz: tuple[int, int] | None = None
    """Lowest and highest clock read."""
    memory_mhz: tuple[int, int] | None = None
    temperature_c: int | None = None
    """The highest read."""
    power_w: float | None = None
    """The highest read; the driver averages over up to a second."""
    throttled: tuple[str, ...] = ()
    """Reasons for which clocks were held down, in NVML's words; 'idle' is none."""
    foreign_processes: int | None = None
    """Processes with a compute context on the GPU that are not the judge's, the most at a time;
    None where that cannot be told, inside many containers for example."""


class Check(Record):
    """One check that a certified evaluation makes beside correctness and time."""

    name: str
    """'compute-sanitizer memcheck', 'CUDA graph capture', ..."""
    passed: bool | None
    """None where it could not be made here; `message` says why."""
    message: str = ""


class WorkloadEvaluation(Record):
    """What the judge found on one workload."""

    uuid: str
    axes: dict[str, int]
    outcome: Outcome
    message: str = ""
    """The error, clipped to what helps an author; empty where all is well."""
    mismatches: tuple[Mismatch, ...] = ()
    max_absolute_error: float | None = None
    """FlashInfer-Bench's figure: max |got - expected|, in float32."""
    max_relative_error: float | None = None
    """FlashInfer-Bench's figure: max |got - expected| / (|expected| + 1e-8), in float32."""
    timing: Timing | None = None
    baselines: dict[str, Timing] = Field(default_factory=dict[str, Timing])
    """By name: 'reference', 'torch.compile', ..."""
    speedups: dict[str, Interval] = Field(default_factory=dict[str, Interval])
    """By baseline: median of per-block ratios baseline time / candidate time."""
    floors: Floors = Floors()
    clocks: Clocks | None = None
    """None on a CPU, and where NVML does not answer."""
    noise: float | None = None
    """A/A: how far from 1 the interval of the candidate against itself reaches; None where it was
    not measured."""
    synthetic: tuple[str, ...] = ()
    """Inputs whose captured values are missing and were generated instead. What was measured on
    them is not exported as a trace."""
    unvaried: tuple[str, ...] = ()
    """What could not be varied between trials, and why."""


class Isolation(Record):
    """What kept the candidate from the judge."""

    level: str
    lacked: tuple[str, ...] = ()


class Device(Record):
    """Where the figures were taken."""

    kind: str
    """'cpu' or 'cuda'."""
    name: str
    host: str = ""
    """The judging machine's name; empty where it was not recorded."""
    uuid: str = ""
    """A GPU's, as the driver writes it ('GPU-...'); empty for a CPU, or where it was not
    recorded."""
    libraries: dict[str, str] = Field(default_factory=dict[str, str])


class Evaluation(Record):
    """The judge's verdict on one candidate."""

    outcome: Outcome
    message: str = ""
    log: str = ""
    """Clipped stdout and stderr of the child; shown, never parsed."""
    workloads: tuple[WorkloadEvaluation, ...] = ()
    speedup: Interval | None = None
    """Geometric mean over workloads against the reference; None where nothing was measured."""
    baselines: dict[str, Interval] = Field(default_factory=dict[str, Interval])
    """Geometric-mean speedup against each named baseline."""
    unusable_baselines: dict[str, str] = Field(default_factory=dict[str, str])
    """Baselines that were asked for and have no figure above, by name, and why: they do not build
    here, or failed on a workload."""
    noise: float | None = None
    """The largest A/A noise of the workloads; None where it was not measured."""
    promoted: bool | None = None
    """True where it beats the incumbent beyond interval and noise; None where there was none, or
    nothing was measured."""
    certified: bool = False
    """True where this is the measurement in a fresh process with the full set of checks."""
    checks: tuple[Check, ...] = ()
    """Further checks of a certified evaluation, those that could not be made included."""
    labels: tuple[str, ...] = ()
    """What a static reading of the source noticed; labels reject nothing."""
    isolation: Isolation | None = None
    device: Device | None = None
    build_environment: dict[str, str] = Field(default_factory=dict[str, str])
    """Environment variables the build needs beyond the toolchain's defaults."""
    complete: bool = False
    """True for a result of which no workload was left out, held-out ones included: each was
    correct, or cannot be run here (its outcome is `NOT_RUN`, and `message` counts them)."""
    seed: int | None = None
    """What all inputs of the judge's session were drawn from, told once it is used."""
    not_in_double: str = ""
    """Why outputs were compared with the reference as it is and not in double precision; empty
    where they were."""
    reused: str = ""
    """Whose verdict this is, in words, where the same source was judged before; its figures and its
    time are from then. Empty where it was judged."""
    seconds: float = 0.0
    """What the judge took for it, waiting for its device left out."""
    timestamp: str = Field(default_factory=lambda: datetime.now(UTC).isoformat())

    @property
    def judged(self) -> int:
        """How many workloads were run, whatever came of it."""
        return sum(w.outcome is not Outcome.NOT_RUN for w in self.workloads)
