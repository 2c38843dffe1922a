"""Live progress from events: a status line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.markup import escape

from kernel_generator.domain.conversation import Finish, Usage
from kernel_generator.domain.events import (
    Asked,
    Attempted,
    CampaignEnded,
    Evaluating,
    Notice,
    Replied,
    RunFinished,
    RunStarted,
    RunStopped,
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

_MESSAGE_CHARS = 160
_ASKING, _JUDGING, _READYING = "with the model", "with the judge", "running the reference"


@dataclass
class _Work:
    """One run that is under way."""

    definition: str
    rounds: int
    state: str = _READYING
    """Where its candidate is."""
    doing: str = "running the reference"
    """The same in detail."""
    done: int = 0
    """Attempts that are complete."""
    began: float = field(default_factory=time.monotonic)


class Progress:
    """An observer that writes to a console. Model text is escaped, never interpreted. Several runs
    may be under way at once: then each line begins with its definition's name."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._told: set[tuple[str, str]] = set()
        """Notices, each with its run."""
        self._began = time.monotonic()
        self._works: dict[str, _Work] = {}
        self._definitions: dict[str, str] = {}
        """Of every run, by its id; those that ended among them."""
        self._expected, self._ended = 1, 0
        self._best: tuple[float, str] | None = None
        self._samples = 0
        self._read = 0
        self.usage = Usage()
        """Tokens of all replies so far."""
        self.cost_usd: float | None = 0.0
        """Dollars so far; None as soon as one reply's price is unknown."""

    @property
    def run_ids(self) -> list[str]:
        """Of the runs that were worked on."""
        return list(self._definitions)

    def expect(self, definitions: int) -> None:
        """So many definitions will be worked on."""
        self._expected = definitions

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case RunStarted() | SamplingStarted():
                self._begin(event)
            case Notice(text):
                if (event.run_id, text) not in self._told:
                    self._told.add((event.run_id, text))
                    self.line(f"note: {text}", event.run_id)
            case Asked(run_id, proposal):
                doing = f"round {proposal.round}: waiting for the model ({proposal.purpose})"
                self._now(run_id, _ASKING, doing)
            case Replied(_, _, reply):
                self._count(reply)
            case Evaluating(run_id, proposal):
                doing = f"round {proposal.round}: judging the {proposal.purpose}"
                self._now(run_id, _JUDGING, doing)
            case Attempted(run_id, attempt, is_best):
                self._attempted(run_id, attempt, is_best)
            case SampleRead(run_id, proposal, reply, name):
                self._read += 1
                head = f"sample {proposal.sample + 1}: read {name}"
                self.line("; ".join([head, *_asked(reply)]), run_id)
            case RunFinished():
                self._end(event, "finished")
            case RunStopped():
                self._end(event, "stopped")
            case Saved(run_id, path):
                self.line(f"saved {path}", run_id)
            case CampaignEnded():
                pass  # the closing table says it
        self._show()

    def _begin(self, event: RunStarted | SamplingStarted) -> None:
        head = f"{event.model} writes {event.language} for {event.target}; "
        self._definitions[event.run_id] = event.definition
        if isinstance(event, RunStarted):
            self._samples = 0
            self._works[event.run_id] = _Work(event.definition, event.rounds)
            told = (
                f"{head}{event.searched} workloads searched, {event.held_out} held out "
                f"(run {event.run_id})"
            )
        else:
            self._samples, self._read = event.samples, 0
            self._works[event.run_id] = _Work(event.definition, event.samples)
            told = f"{head}{event.samples} independent samples, not evaluated (run {event.run_id})"
        self.line(told, event.run_id)

    def _now(self, run_id: str, state: str, doing: str) -> None:
        if (work := self._works.get(run_id)) is not None:
            work.state, work.doing = state, doing

    def _attempted(self, run_id: str, attempt: Attempt, is_best: bool) -> None:
        head = f"sample {attempt.proposal.sample + 1}, " if self._samples else ""
        mark = "  <- best" if is_best else ""
        self.line(f"{head}{_attempt_line(attempt)}{mark}", run_id)
        if (work := self._works.get(run_id)) is not None:
            work.done += 1
            if is_best and attempt.speedup is not None:
                self._best = max(self._best or (0.0, ""), (attempt.speedup, work.definition))

    def _end(self, event: RunFinished | RunStopped, how: str) -> None:
        work = self._works.pop(event.run_id, None)
        if isinstance(event, RunStopped) and event.best is None:
            # Whoever started the run is told by an error, and tells it.
            return
        took = figures.seconds(time.monotonic() - (work.began if work else self._began))
        self.line(f"{how} after {took}: {event.reason}", event.run_id)

    def ended(self, definition: str) -> None:
        """Nothing more becomes of a definition."""
        self._ended += 1
        for run_id in [r for r, work in self._works.items() if work.definition == definition]:
            del self._works[run_id]
        self._show()

    def _count(self, reply: Reply) -> None:
        if reply.finish is Finish.EXHAUSTED:
            return
        self.usage += reply.usage or Usage()
        known = self.cost_usd is not None and reply.cost_usd is not None
        self.cost_usd = (self.cost_usd or 0.0) + (reply.cost_usd or 0.0) if known else None

    def line(self, text: str, run_id: str = "") -> None:
        """Print one line of plain text, of a run where it is of one. A console that is gone is left
        alone: what is told there decides nothing."""
        head = ""
        if run_id in self._definitions:
            head = f"  {self._definitions[run_id]}: " if self._expected > 1 else "  "
        # Rich ends the program, by default, where the console's reader has gone.
        with contextlib.suppress(OSError, SystemExit):
            self._console.print(escape(f"{head}{text}"), highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the status line away."""
        self._works.clear()
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _show(self) -> None:
        if not self._console.is_terminal:
            return
        if not self._works:
            self.close()
            return
        what = escape(self._standing())
        if self._status is None:
            self._status = self._console.status(what)
            self._status.start()
        else:
            self._status.update(what)

    def _standing(self) -> str:
        """How things stand, in one line."""
        works = list(self._works.values())
        if self._samples:
            return f"waiting for the model: {self._read} of {self._samples} samples are here"
        if self._expected == 1:
            return works[0].doing
        states = Counter(work.state for work in works)
        parts = [f"{self._ended} of {self._expected} definitions done"]
        parts += [f"{states[state]} {state}" for state in sorted(states)]
        parts.append(figures.dollars(self.cost_usd))
        if self._best is not None:
            parts.append(f"best {self._best[0]:.2f}x ({self._best[1]})")
        done = self._ended + sum(min(1.0, work.done / work.rounds) for work in works)
        if done:
            left = (time.monotonic() - self._began) * (self._expected - done) / done
            parts.append(f"about {figures.seconds(left)} left at most")
        return "; ".join(parts)


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
