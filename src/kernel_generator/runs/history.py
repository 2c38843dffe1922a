"""What a run's events come to: its attempts, and how far the one had come that was under way.

Each event is taken in on its own, in the order in which it was noted.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flashinfer_bench import Solution
from pydantic import TypeAdapter

from kernel_generator.domain.attempt import Attempt, Candidate
from kernel_generator.domain.conversation import Finish, Message, Reply, Usage
from kernel_generator.domain.evaluation import Evaluation
from kernel_generator.domain.outcome import Outcome
from kernel_generator.domain.proposal import Proposal
from kernel_generator.search.ranking import best_index

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_generator.runs.store import StoredEvent

_PROPOSAL, _REPLY = TypeAdapter(Proposal), TypeAdapter(Reply)
_MESSAGES = TypeAdapter(tuple[Message, ...])
_INDEX: TypeAdapter[int | None] = TypeAdapter(int | None)


@dataclass(frozen=True)
class Steps:
    """How far one attempt had come."""

    reply: Reply | None = None
    solution: Solution | None = None
    evaluation: Evaluation | None = None
    elsewhere: bool = False
    """Whether the evaluation is another store's word."""


@dataclass
class History:
    """What is known of a run."""

    attempts: list[Attempt] = field(default_factory=list[Attempt])
    """Those that are complete, oldest first."""
    steps: dict[tuple[int, int], Steps] = field(default_factory=dict[tuple[int, int], Steps])
    """By round and sample."""
    requests: dict[tuple[int, int], tuple[Proposal, tuple[Message, ...]]] = field(
        default_factory=dict[tuple[int, int], tuple[Proposal, tuple[Message, ...]]]
    )
    """The last one of each round and sample."""
    asked: int = 0
    """Requests that were noted, answered or not."""
    reason: str | None = None
    """Why the run ended; None where it has not."""
    saved: str | None = None
    """Where its result was written last; None where it was not."""
    saved_name: str = ""
    """The name of the candidate that was."""

    @staticmethod
    def of(events: Sequence[StoredEvent]) -> History:
        """What events come to."""
        found = History()
        for event in events:
            found.add(event.kind, event.document, event.elsewhere)
        return found

    def add(self, kind: str, document: dict[str, Any], elsewhere: bool = False) -> None:
        """Take one event in; `elsewhere`: one that another store noted. Kinds that say nothing of
        where the run stands are passed over."""
        match kind:
            case "asked":
                self.asked += 1
                proposal = _PROPOSAL.validate_python(document["proposal"])
                messages = _MESSAGES.validate_json(document["messages"])
                self.requests[proposal.round, proposal.sample] = proposal, messages
            case "replied":
                reply = _REPLY.validate_python(document["reply"] | {"text": document["text"]})
                self._step(document, reply=reply)
            case "read":
                self._step(document, solution=Solution.model_validate_json(document["solution"]))
            case "judged":
                verdict = Evaluation.model_validate_json(document["evaluation"])
                self._step(document, evaluation=verdict, elsewhere=elsewhere)
            case "attempted":
                self.attempts.append(self._attempt(document))
            case "certified":
                verdict = Evaluation.model_validate_json(document["evaluation"])
                self._step(document, evaluation=verdict, elsewhere=elsewhere)
                self._certified(document, verdict)
            case "finished":
                self.reason = _text(document["reason"])
            case "saved":
                self.saved, self.saved_name = _text(document["path"]), _text(document["name"])
            case _:
                pass

    @property
    def replies(self) -> list[Reply]:
        """All that were stored, by round."""
        return [one.reply for _, one in sorted(self.steps.items()) if one.reply is not None]

    @property
    def pending(self) -> list[tuple[Proposal, tuple[Message, ...]]]:
        """Requests without a reply, by round."""
        requests = sorted(self.requests.items())
        return [one for key, one in requests if self.steps.get(key, Steps()).reply is None]

    @property
    def usage(self) -> Usage:
        """Tokens of all stored replies, as far as the provider reported them."""
        return sum((reply.usage or Usage() for reply in self.replies), Usage())

    @property
    def cost_usd(self) -> float | None:
        """Dollars of all stored replies; None where one's price is unknown."""
        costs = [r.cost_usd for r in self.replies if r.finish is not Finish.EXHAUSTED]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    @property
    def best(self) -> Attempt | None:
        """The best attempt that may be returned; None where nothing passed."""
        index = best_index(self.attempts)
        return None if index is None else self.attempts[index]

    @property
    def is_saved(self) -> bool:
        """True where the best attempt was written."""
        best = self.best
        if best is None or best.candidate is None:
            return False
        return self.saved is not None and best.candidate.solution.name == self.saved_name

    def of_proposal(self, proposal: Proposal) -> Steps:
        """How far it had come."""
        return self.steps.get((proposal.round, proposal.sample), Steps())

    def _step(self, document: dict[str, Any], **known: Any) -> None:
        proposal = _PROPOSAL.validate_python(document["proposal"])
        key = proposal.round, proposal.sample
        self.steps[key] = replace(self.steps.get(key, Steps()), **known)

    def is_elsewheres(self, attempt: Attempt) -> bool:
        """Whether its verdict is another store's word: it is judged here before it is a result."""
        return self.of_proposal(attempt.proposal).elsewhere

    def _certified(self, document: dict[str, Any], verdict: Evaluation) -> None:
        proposal, noted = _PROPOSAL.validate_python(document["proposal"]), document.get("noted")
        for index, attempt in enumerate(self.attempts):
            if attempt.proposal == proposal:
                candidate = attempt.candidate
                if noted is not None:
                    candidate = Candidate(Solution.model_validate_json(noted), proposal)
                self.attempts[index] = replace(
                    attempt,
                    outcome=verdict.outcome,
                    message=verdict.message,
                    candidate=candidate,
                    evaluation=verdict,
                )

    def _attempt(self, document: dict[str, Any]) -> Attempt:
        proposal = _PROPOSAL.validate_python(document["proposal"])
        steps, noted = self.of_proposal(proposal), document.get("noted")
        candidate = None
        if noted is not None:
            candidate = Candidate(Solution.model_validate_json(noted), proposal)
            _check_same(candidate.solution, steps.solution)
        outcome, verdict = Outcome(document["outcome"]), steps.evaluation
        if outcome.is_result if verdict is None else outcome is not verdict.outcome:
            said = "nothing" if verdict is None else verdict.outcome.value
            raise ValueError(f"an attempt is {outcome.value} where the judge said {said}")
        return Attempt(
            proposal=proposal,
            reply=steps.reply,
            outcome=outcome,
            message=_text(document["message"]),
            candidate=candidate,
            evaluation=steps.evaluation,
            duplicate_of=_INDEX.validate_python(document.get("duplicate_of")),
        )


def _check_same(noted: Solution, judged: Solution | None) -> None:
    """Raises `ValueError` where an attempt has another source than was judged, if that was read."""
    if judged is not None and (noted.sources, noted.spec) != (judged.sources, judged.spec):
        raise ValueError("an attempt has another source than was judged")


def _text(value: object) -> str:
    """Raises `TypeError` where it is none. One that is not UTF-8 is one too: models send such."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
