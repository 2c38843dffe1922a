"""How figures are written for people: one place, so that no two reports differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernel_generator.domain.conversation import Usage
    from kernel_generator.domain.evaluation import (
        Evaluation,
        Interval,
        Timing,
        WorkloadEvaluation,
    )


def times(interval: Interval | None) -> str:
    """'2.31x [2.20, 2.41]', or '-' where nothing was measured."""
    if interval is None:
        return "-"
    return f"{interval.value:.2f}x [{interval.low:.2f}, {interval.high:.2f}]"


def dollars(cost: float | None) -> str:
    """'$0.0123'; an unknown price is said to be unknown."""
    return "cost unknown" if cost is None else f"${cost:.4f}"


def tokens(usage: Usage | None) -> str:
    """'1,234 + 567 tokens' (prompt + completion)."""
    if usage is None:
        return "tokens unknown"
    return f"{usage.prompt:,} + {usage.completion:,} tokens"


def seconds(value: float) -> str:
    """'12.3 s' or '4 min 05 s'."""
    if value < 100:
        return f"{value:.1f} s"
    return f"{int(value) // 60} min {int(value) % 60:02d} s"


def microseconds(value: float) -> str:
    """'12.3 us' or '4.56 ms'."""
    return f"{value:.1f} us" if value < 1000 else f"{value / 1000:.2f} ms"


def comparison(evaluation: Evaluation) -> str:
    """The speedups in words: against the reference, then each other baseline."""
    if evaluation.speedup is None:
        return "not measured"
    others = {name: i for name, i in evaluation.baselines.items() if name != "reference"}
    told = ", ".join(
        f"{times(interval)} {name}{_verdict(interval)}"
        for name, interval in {"the reference": evaluation.speedup, **others}.items()
    )
    bound = sum(is_host_bound(w) for w in evaluation.workloads)
    if bound:
        told += f"; host-bound on {bound} of {evaluation.judged} workloads"
    return told


def device_time(timing: Timing | None) -> str:
    """'12.3 us', marked where it includes waiting for the host, or '-' where not measured."""
    if timing is None or timing.device_us is None:
        return "-"
    return microseconds(timing.device_us.value) + (" (host-bound)" if timing.host_bound else "")


def is_host_bound(workload: WorkloadEvaluation) -> bool:
    """True where a figure of the workload, the candidate's or a baseline's, is launches more than
    kernel: the device's queue could not be kept full."""
    timings = [workload.timing, *workload.baselines.values()]
    return any(timing is not None and timing.host_bound for timing in timings)


def timers(evaluation: Evaluation) -> str:
    """The clocks that the times were taken with; '' where nothing was measured."""
    timings = [t for w in evaluation.workloads for t in (w.timing, *w.baselines.values())]
    names = dict.fromkeys(t.timer for t in timings if t is not None and t.timer)
    return "timed by " + "; ".join(names) if names else ""


def notes(evaluation: Evaluation) -> list[str]:
    """What somebody who relies on the figures has to know beside them, a sentence each."""
    found = (_synthetic(evaluation), _company(evaluation), *_unusable(evaluation))
    return [note for note in found if note]


def _company(evaluation: Evaluation) -> str:
    """Says where others used the GPU while it was timed; '' where nobody did, or nobody knows."""
    clocks = [w.clocks for w in evaluation.workloads if w.clocks is not None]
    most = max((c.foreign_processes or 0 for c in clocks), default=0)
    if not most:
        return ""
    return (
        f"up to {most} process{'es' if most > 1 else ''} of others used the GPU while kernels were "
        "timed: the figures may be off"
    )


def _synthetic(evaluation: Evaluation) -> str:
    """Says which inputs were made up where their captured files are missing; '' where none were."""
    found = [w.synthetic for w in evaluation.workloads if w.synthetic]
    if not found:
        return ""
    names = ", ".join(f"'{name}'" for name in dict.fromkeys(n for some in found for n in some))
    return (
        f"synthetic values for {names} on {len(found)} of {len(evaluation.workloads)} workloads: "
        "the captured files are missing, and no trace is written of these workloads"
    )


def _unusable(evaluation: Evaluation) -> list[str]:
    """A sentence for each baseline that was asked for and has no figure."""
    return [
        f"no figure against {name}: {reason}"
        for name, reason in evaluation.unusable_baselines.items()
    ]


def _verdict(interval: Interval) -> str:
    """Says what is not faster; a result may be, and then is called so."""
    if interval.high < 1:
        return " (slower)"
    return " (no difference beyond noise)" if interval.low <= 1 else ""
