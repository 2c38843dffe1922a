"""How long replies and verdicts have been, from the earlier runs of a store.

What no earlier run tells is assumed and marked so (replies), or None (verdicts).
"""

from __future__ import annotations

import math
import socket
import statistics
from typing import TYPE_CHECKING

from kernel_generator.domain.evaluation import Record
from kernel_generator.models.builtin import BUILTIN_COMPILER
from kernel_generator.runs.replay import REPLAY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_generator.runs.journal import KnownRun


class Count(Record):
    """How many, at least and at most."""

    low: int
    high: int


class Amount(Record):
    """How much, at least and at most."""

    low: float
    high: float


class Completion(Record):
    """Tokens of one reply: the median and the 90th percentile of earlier replies, or assumed."""

    tokens: Count
    """Reasoning included."""
    visible: Count
    """Without it: what a later prompt carries as the source that it is about."""
    replies: int
    """So many earlier replies say so; 0 where it is assumed."""


ASSUMED = Completion(
    tokens=Count(low=2_000, high=16_000), visible=Count(low=1_500, high=6_000), replies=0
)
"""Where no earlier reply of the model is known."""


def completion_of(
    model: str, reasoning_effort: str | None, known: Sequence[KnownRun]
) -> Completion | None:
    """What replies of this model at this effort have been like; None for the embedded model."""
    if model == BUILTIN_COMPILER:
        return None
    replayed_run = model.removeprefix(REPLAY)
    usages = [
        reply.usage
        for run in known
        if (run.settings.model, run.settings.reasoning_effort) == (model, reasoning_effort)
        or (model.startswith(REPLAY) and run.run_id == replayed_run)
        for reply in run.history.replies
        if reply.usage is not None and reply.usage.completion
    ]
    if not usages:
        return ASSUMED
    return Completion(
        tokens=_typical([usage.completion for usage in usages]),
        visible=_typical([max(0, usage.completion - usage.reasoning) for usage in usages]),
        replies=len(usages),
    )


class Judged:
    """How long this machine took for a verdict, by definition."""

    def __init__(self, known: Sequence[KnownRun], kind: str) -> None:
        self._seconds: dict[str, list[float]] = {}
        host = socket.gethostname()
        for run in known:
            for attempt in run.history.attempts:
                verdict = attempt.evaluation
                if verdict is None or verdict.device is None or not verdict.seconds:
                    continue
                if (verdict.device.host, verdict.device.kind) == (host, kind):
                    self._seconds.setdefault(run.settings.definition, []).append(verdict.seconds)

    def of(self, definition: str, requests: Count) -> Amount | None:
        """Seconds for one kernel a request: of this definition's verdicts, else of all."""
        every = [second for some in self._seconds.values() for second in some]
        seconds = sorted(self._seconds.get(definition, every))
        if not seconds:
            return None
        return Amount(
            low=requests.low * statistics.median(seconds),
            high=requests.high * seconds[_ninetieth(len(seconds))],
        )

    @property
    def told(self) -> str:
        """Where the figures are from."""
        count = sum(map(len, self._seconds.values()))
        if not count:
            return "the judge's time is not estimated: this store has no verdict of this machine"
        return (
            f"the judge's time: median and 90th percentile of {count} earlier "
            f"verdict{'s' if count > 1 else ''} of this machine, without its getting ready"
        )


def _typical(figures: list[int]) -> Count:
    in_order = sorted(figures)
    return Count(low=statistics.median_low(in_order), high=in_order[_ninetieth(len(in_order))])


def _ninetieth(count: int) -> int:
    """Index of the 90th percentile, by nearest rank."""
    return math.ceil(0.9 * count) - 1
