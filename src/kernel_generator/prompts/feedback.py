"""What is told of one attempt: always a candidate with its own evaluation, by class of outcome.

Every list is capped by a named constant; what is left out is counted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kernel_generator.domain.outcome import Outcome
from kernel_generator.prompts import facts, logs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kernel_generator.domain.attempt import Attempt
    from kernel_generator.domain.evaluation import Evaluation, Mismatch, WorkloadEvaluation
    from kernel_generator.domain.task import Brief

MAX_FEEDBACK_CHARS = 12_000
MAX_DETAILED_WORKLOADS = 2
"""Failing workloads told in detail; the others are listed."""
MAX_LISTED_WORKLOADS = 12
MAX_MISMATCHES = 4
"""Outputs told per workload."""
MAX_MESSAGE_CHARS = 2_000
TELLING_FIRST_CALL_US = 1e6
"""A first call longer than this is worth telling."""
REFERENCE = "reference"
"""The baseline that speedups are told against first."""

_UNREADABLE_ADVICE = {
    Outcome.MALFORMED_REPLY: "Answer in the reply format described below.",
    Outcome.EMPTY_REPLY: "Answer with the complete source files.",
    Outcome.TRUNCATED_REPLY: (
        "Nothing of it was used. Think and write less: only the files, without commentary, and a "
        "shorter program if need be."
    ),
    Outcome.REFUSED_REPLY: (
        "The task is ordinary performance engineering of a numerical kernel. Answer with the "
        "source files."
    ),
}

_VALUES = (
    Outcome.WRONG_VALUES,
    Outcome.NOT_REPRODUCIBLE,
    Outcome.INPUT_MODIFIED,
    Outcome.OUT_OF_BOUNDS,
    Outcome.WRONG_SHAPE,
    Outcome.WRONG_DTYPE,
)


def feedback(attempt: Attempt, brief: Brief) -> str:
    """What to tell the author of `attempt`, in Markdown without headings."""
    if attempt.candidate is None or attempt.evaluation is None:
        text = _unreadable(attempt)
    else:
        files = tuple(s.path for s in attempt.candidate.solution.sources)
        text = _evaluated(attempt.evaluation, brief, files)
    text = text.strip()
    if len(text) > MAX_FEEDBACK_CHARS:
        text = text[:MAX_FEEDBACK_CHARS] + "\n[... the rest is left out]"
    return text


def _unreadable(attempt: Attempt) -> str:
    lines = [f"{attempt.outcome.value}: {attempt.outcome.meaning}."]
    if attempt.message:
        lines.append(attempt.message[:MAX_MESSAGE_CHARS])
    advice = _UNREADABLE_ADVICE.get(attempt.outcome)
    if advice is not None:
        lines.append(advice)
    return "\n".join(lines)


def _evaluated(evaluation: Evaluation, brief: Brief, files: Sequence[str]) -> str:
    sections = [f"{evaluation.outcome.value}: {evaluation.outcome.meaning}."]
    if evaluation.reused:
        sections.append(f"Not judged again: {evaluation.reused}. Answer with something else.")
    if evaluation.outcome.is_candidates_fault:
        sections += _failed(evaluation, brief, files)
    elif evaluation.outcome is Outcome.PASSED:
        sections += _measured(evaluation, brief)
    elif evaluation.message:
        sections.append(logs.last_lines(evaluation.message, files))
    if evaluation.labels:
        sections.append(
            "Noticed in the source (no verdict by itself): " + ", ".join(evaluation.labels) + "."
        )
    return "\n".join(s for s in sections if s)


def _failed(evaluation: Evaluation, brief: Brief, files: Sequence[str]) -> list[str]:
    failing = [w for w in evaluation.workloads if w.outcome.is_candidates_fault]
    sections: list[str] = []
    told = ""
    if evaluation.outcome is Outcome.COMPILE_ERROR:
        told = _compile_error(evaluation, files)
        sections.append(_quoted(told))
        unbuilt = [w for w in failing if w.outcome is Outcome.COMPILE_ERROR]
        failing = [w for w in failing if w.outcome is not Outcome.COMPILE_ERROR]
        if unbuilt and len(unbuilt) < len(evaluation.workloads):
            sections.append("It does not compile for: " + _listed(unbuilt) + ".")
    elif not failing or evaluation.outcome not in _VALUES:
        told = _explained(evaluation.message, evaluation.outcome, files)
        sections.append(_quoted(told))
    for workload in failing[:MAX_DETAILED_WORKLOADS]:
        sections += _failing_workload(workload, brief, files, told)
    if len(failing) > MAX_DETAILED_WORKLOADS:
        sections.append("Also failing: " + _listed(failing[MAX_DETAILED_WORKLOADS:]) + ".")
    passing = [w for w in evaluation.workloads if w.outcome.is_result]
    if passing:
        sections.append("Correct on: " + _listed(passing) + ".")
    sections.append(_printed(evaluation, files))
    return sections


def _compile_error(evaluation: Evaluation, files: Sequence[str]) -> str:
    texts = [evaluation.message, *(w.message for w in evaluation.workloads), evaluation.log]
    text = next((t for t in texts if t.strip()), "")
    if len(evaluation.log) > len(text) and "error" in evaluation.log and "error" not in text:
        text = evaluation.log
    if logs.is_python_failure(text) and ": error:" not in text and "): error" not in text:
        return logs.own_traceback(text, files)
    return logs.compiler_errors(text, files)


def _explained(message: str, outcome: Outcome, files: Sequence[str]) -> str:
    if outcome in (Outcome.RUNTIME_ERROR, Outcome.CRASHED) or logs.is_python_failure(message):
        return logs.own_traceback(message, files)
    return logs.last_lines(message[:MAX_MESSAGE_CHARS], files)


def _failing_workload(
    workload: WorkloadEvaluation, brief: Brief, files: Sequence[str], told: str
) -> list[str]:
    searched = {w.uuid for w in brief.workloads}
    where = facts.sizes(workload.axes)
    if brief.workloads and workload.uuid not in searched:
        where += " (a held-out size)"
    lines = [f"On {where}: {workload.outcome.value}, {workload.outcome.meaning}."]
    if workload.message:
        message = _explained(workload.message, workload.outcome, files)
        if message != told:
            lines.append(_quoted(message))
    lines += [f"- {_mismatch(m)}" for m in workload.mismatches[:MAX_MISMATCHES]]
    if len(workload.mismatches) > MAX_MISMATCHES:
        lines.append(f"- {len(workload.mismatches) - MAX_MISMATCHES} more outputs differ")
    return lines


def _mismatch(mismatch: Mismatch) -> str:
    share = 100.0 * mismatch.wrong / mismatch.total if mismatch.total else 0.0
    text = (
        f"output `{mismatch.output}`: {mismatch.wrong:,} of {mismatch.total:,} elements are wrong "
        f"({share:.3g} %)"
    )
    if not math.isnan(mismatch.relative_l2):
        text += f", relative L2 error {mismatch.relative_l2:.3g}"
    name = mismatch.output
    text += (
        f"; first {name}{_index(mismatch.first_index)} is {_number(mismatch.first_got)}, expected "
        f"{_number(mismatch.first_expected)}"
    )
    if mismatch.worst_index != mismatch.first_index:
        text += (
            f"; worst {name}{_index(mismatch.worst_index)} is {_number(mismatch.worst_got)}, "
            f"expected {_number(mismatch.worst_expected)}"
        )
    return f"{text}. {mismatch.note[:MAX_MESSAGE_CHARS]}".strip()


def _measured(evaluation: Evaluation, brief: Brief) -> list[str]:
    lines: list[str] = []
    if evaluation.speedup is not None:
        overall = evaluation.speedup
        text = (
            f"Overall (geometric mean): {overall.value:.2f}× the {REFERENCE}'s speed "
            f"(95 % interval {overall.low:.2f}–{overall.high:.2f})"
        )
        others = [
            f"{interval.value:.2f}× {name}"
            for name, interval in sorted(evaluation.baselines.items())
            if name != REFERENCE
        ]
        lines.append("; ".join([text, *others]) + ".")
    timed = [w for w in evaluation.workloads if w.timing is not None]
    lines += [f"- {_timed(w)}" for w in timed[:MAX_LISTED_WORKLOADS]]
    if len(timed) > MAX_LISTED_WORKLOADS:
        lines.append(f"- and {len(timed) - MAX_LISTED_WORKLOADS} more sizes")
    if brief.held_out and not evaluation.complete:
        lines.append("The held-out sizes were not tried yet.")
    return lines


def _timed(workload: WorkloadEvaluation) -> str:
    timing = workload.timing
    assert timing is not None  # callers pass timed workloads only
    parts: list[str] = []
    time = timing.device_us or timing.call_us
    if time is not None:
        parts.append(facts.microseconds(time.value))
    names = sorted(workload.speedups, key=lambda name: (name != REFERENCE, name))
    for name in names:
        interval = workload.speedups[name]
        text = f"{interval.value:.2f}× {name}"
        if name == REFERENCE:
            text += f" ({interval.low:.2f}–{interval.high:.2f})"
        parts.append(text)
    floor_us = workload.floors.shown_us
    if floor_us is not None and time is not None and time.value > 0:
        share = 100.0 * floor_us / time.value
        parts.append(f"floor {facts.microseconds(floor_us)}, so {share:.0f} % of what is possible")
    elif floor_us is None:
        parts.append("floor not known")
    if timing.host_bound:
        parts.append("bound by the host: launches, not the kernel, take the time")
    if timing.first_call_us is not None and timing.first_call_us > TELLING_FIRST_CALL_US:
        parts.append(f"first call {facts.microseconds(timing.first_call_us)}")
    return f"{facts.sizes(workload.axes)}: " + ", ".join(parts)


def _listed(workloads: Sequence[WorkloadEvaluation]) -> str:
    shown = "; ".join(facts.sizes(w.axes) for w in workloads[:MAX_LISTED_WORKLOADS])
    hidden = len(workloads) - MAX_LISTED_WORKLOADS
    return shown if hidden <= 0 else f"{shown}; and {hidden} more"


def _printed(evaluation: Evaluation, files: Sequence[str]) -> str:
    """The end of what a crashed or failing process printed, where it says more."""
    if evaluation.outcome not in (Outcome.CRASHED, Outcome.RUNTIME_ERROR, Outcome.RESOURCE_LIMIT):
        return ""
    if not evaluation.log.strip():
        return ""
    return "The process printed:\n" + _quoted(logs.last_lines(evaluation.log, files))


def _quoted(text: str) -> str:
    """Indented by four, so that no fence in it can end early."""
    return "\n".join(_indent(text.split("\n"))) if text.strip() else ""


def _indent(lines: Iterable[str]) -> list[str]:
    return ["    " + line if line.strip() else "" for line in lines]


def _index(index: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, index)) + "]"


def _number(value: float) -> str:
    return f"{value:.6g}"
