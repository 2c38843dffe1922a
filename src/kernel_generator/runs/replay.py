"""A model that answers from a run of the store: to judge its kernels again, elsewhere or anew."""

from __future__ import annotations

import difflib
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from kernel_generator.domain.errors import InvalidInput, NeverAnswered

if TYPE_CHECKING:
    from kernel_generator.domain.conversation import Message, Reply, Request
    from kernel_generator.runs.journal import KnownRun

REPLAY = "replay:"
"""What its names begin with; the run's id follows."""
_DIFFERENT_LINES = 12


class ReplayModel:
    """A `LanguageModel` that says in each round what was said in that round of a stored run.

    Requests differ where the judge now finds something else, and the replies stay the same. They
    cost nothing.
    """

    def __init__(self, run: KnownRun) -> None:
        self._run = run

    @property
    def language(self) -> str:
        """The stored run's."""
        return self._run.settings.language

    def check(self, definition: str) -> None:
        """Raises `InvalidInput` where the stored run is of another definition."""
        known = self._run.settings.definition
        if known != definition:
            raise InvalidInput(
                f"run {self._run.run_id} is of '{known}', not of '{definition}': -d {known}"
            )

    @property
    def name(self) -> str:
        """'replay:' and the run's id."""
        return f"{REPLAY}{self._run.run_id}"

    async def ask(self, request: Request) -> Reply:
        """The stored reply. Raises `NeverAnswered` where there is none."""
        key = request.proposal.round, request.proposal.sample
        steps = self._run.history.steps.get(key)
        if steps is None or steps.reply is None:
            raise NeverAnswered(self._why(request))
        return replace(steps.reply, cost_usd=0.0, seconds=0.0)

    async def close(self) -> None:
        """Nothing to close."""

    def _why(self, request: Request) -> str:
        rounds = sorted({key[0] for key, s in self._run.history.steps.items() if s.reply})
        told = (
            f"round {request.proposal.round} was never answered in run {self._run.run_id}, which "
            f"has replies of {len(rounds)} rounds"
        )
        known = self._run.history.requests.get(max(self._run.history.requests, default=(0, 0)))
        if known is None:
            return told
        proposal, messages = known
        lines = difflib.unified_diff(
            _lines(messages),
            _lines(request.messages),
            f"round {proposal.round} as it was asked",
            f"round {request.proposal.round} now",
            n=0,
            lineterm="",
        )
        return "\n".join(
            [f"{told}; the first lines that differ:", *islice(lines, _DIFFERENT_LINES)]
        )


def _lines(messages: tuple[Message, ...]) -> list[str]:
    return [line for message in messages for line in message.text.splitlines()]
