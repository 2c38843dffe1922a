"""Live progress from events: a status line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.markup import escape

from kernel_generator.domain.conversation import Finish, Usage
from kernel_generator.domain.events import (
    Asked,
    Attempted,
    Evaluating,
    Notice,
    Replied,
    RunFinished,
    RunStarted,
    SampleRead,
    SamplingStarted,
    Saved,
)
from kernel_generator.reporting import figures

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

    from kernel_generator.domain.attempt import Attempt
    from kernel_generator.domain.conversation import Reply
    from kernel_generator.domain.events import Event
    from kernel_generator.domain.proposal import Proposal

_MESSAGE_CHARS = 160


class Progress:
    """An observer that writes to a console. Model text is escaped, never interpreted."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._told: set[str] = set()
        self._began = time.monotonic()
        self._samples = 0
        self._read = 0
        self.usage = Usage()
        """Tokens of all replies so far."""
        self.cost_usd: float | None = 0.0
        """Dollars so far; None as soon as one reply's price is unknown."""

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case RunStarted() | SamplingStarted():
                self._begin(event)
            case Notice(text):
                if text not in self._told:
                    self._told.add(text)
                    self.line(f"  note: {text}")
            case Asked(proposal):
                self._wait(self._asking(proposal))
            case Replied(_, reply):
                self._count(reply)
            case Evaluating(proposal):
                self._wait(f"round {proposal.round}: judging the {proposal.purpose}")
            case Attempted(attempt, is_best):
                self._settle()
                head = f"sample {attempt.proposal.sample + 1}, " if self._samples else ""
                self.line(f"  {head}{_attempt_line(attempt)}{'  <- best' if is_best else ''}")
            case SampleRead(proposal, reply, name):
                self._settle()
                self._read += 1
                head = f"sample {proposal.sample + 1}: read {name}"
                self.line("  " + "; ".join([head, *_asked(reply)]))
                if self._read < self._samples:
                    self._wait(self._asking(proposal))
            case RunFinished():
                self._settle()
                took = figures.seconds(time.monotonic() - self._began)
                self.line(f"  finished after {took}: {event.reason}")
            case Saved(path):
                self.line(f"  saved {path}")

    def _begin(self, event: RunStarted | SamplingStarted) -> None:
        self._began = time.monotonic()
        head = f"  {event.model} writes {event.language} for {event.target}; "
        if isinstance(event, RunStarted):
            self._samples = 0
            self.line(
                f"{head}{event.searched} workloads searched, {event.held_out} held out "
                f"(run {event.run_id})"
            )
            self._wait("running the reference")
        else:
            self._samples, self._read = event.samples, 0
            self.line(
                f"{head}{event.samples} independent samples, not evaluated (run {event.run_id})"
            )

    def _asking(self, proposal: Proposal) -> str:
        if self._samples:
            return f"waiting for the model: {self._read} of {self._samples} samples are here"
        return f"round {proposal.round}: waiting for the model ({proposal.purpose})"

    def _count(self, reply: Reply) -> None:
        if reply.finish is Finish.EXHAUSTED:
            return
        self.usage += reply.usage or Usage()
        known = self.cost_usd is not None and reply.cost_usd is not None
        self.cost_usd = (self.cost_usd or 0.0) + (reply.cost_usd or 0.0) if known else None

    def line(self, text: str) -> None:
        """Print one line of plain text."""
        self._console.print(escape(text), highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the status line away."""
        self._settle()

    def _wait(self, what: str) -> None:
        if not self._console.is_terminal:
            return
        if self._status is None:
            self._status = self._console.status(escape(what))
            self._status.start()
        else:
            self._status.update(escape(what))

    def _settle(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def _attempt_line(attempt: Attempt) -> str:
    head = f"round {attempt.proposal.round} {attempt.proposal.purpose}: {attempt.outcome}"
    parts = [head]
    if attempt.evaluation is not None and attempt.outcome.is_result:
        parts.append(figures.comparison(attempt.evaluation))
        if attempt.evaluation.message:
            parts.append(_telling(attempt.evaluation.message))
    elif attempt.message.strip():
        parts.append(_telling(attempt.message))
    if attempt.reply is not None:
        parts += _asked(attempt.reply)
    if attempt.evaluation is not None:
        parts.append(f"judged in {figures.seconds(attempt.evaluation.seconds)}")
    return "; ".join(parts)


def _telling(message: str) -> str:
    lines = message.strip().splitlines()
    # A traceback's last line names the error; other messages begin with it.
    line = lines[-1] if lines[0].startswith("Traceback") else lines[0]
    return line.strip()[:_MESSAGE_CHARS]


def _asked(reply: Reply) -> list[str]:
    """What the reply took; nothing for the embedded model, which is asked for free."""
    if reply.model.startswith("builtin:"):
        return []
    return [
        figures.tokens(reply.usage),
        figures.dollars(reply.cost_usd),
        f"answered in {figures.seconds(reply.seconds)}",
    ]
