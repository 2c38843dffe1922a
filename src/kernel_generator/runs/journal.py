"""One run's journal: each step is noted before the next one acts, and read when the run goes on.

What is noted is enough to go on where a run was stopped, at whatever instant: no stored reply is
asked for again, and no finished evaluation repeated.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flashinfer_bench import Solution
from pydantic import Field, TypeAdapter

from kernel_generator.domain.attempt import Attempt, Candidate
from kernel_generator.domain.conversation import Finish, Message, Reply, Usage
from kernel_generator.domain.errors import StoreError
from kernel_generator.domain.evaluation import Evaluation, Record
from kernel_generator.domain.outcome import Outcome
from kernel_generator.domain.proposal import Proposal
from kernel_generator.domain.version import VERSION
from kernel_generator.models.offline import OFFLINE
from kernel_generator.runs.contents import Content, contents
from kernel_generator.runs.goal import Goal
from kernel_generator.search.ranking import best_index

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from kernel_generator.domain.conversation import Request
    from kernel_generator.domain.task import Task
    from kernel_generator.runs.store import Store, StoredEvent, StoredRun

_PROPOSAL, _REPLY = TypeAdapter(Proposal), TypeAdapter(Reply)
_MESSAGES = TypeAdapter(tuple[Message, ...])
_INDEX: TypeAdapter[int | None] = TypeAdapter(int | None)
_UNREADABLE = (KeyError, TypeError, ValueError)
"""What reading a document raises that another version wrote, pydantic's errors among it."""

_BLANK = {"messages": "[]", "text": ""}
"""In the place of texts that were not read."""


class RunSettings(Record):
    """What a run was begun with: all that it takes to go on with it, but for keys and addresses."""

    definition: str
    traceset: str | None
    """The folder's absolute path; None for a trace set that is in memory alone."""
    model: str
    language: str
    target: str
    rounds: int
    keep_improving: bool = False
    target_speedup: float | None = None
    strategy: str
    dialect: str | None = None
    reasoning_effort: str | None = None
    isolation: str
    batch: bool = False
    """Whether its requests go to the provider in batches, with those of other runs."""
    program: str
    """This program's version."""
    fingerprints: dict[str, str] = Field(default_factory=dict[str, str])
    """Hashes of the definition, under '', and of its workloads, by uuid."""
    contents: dict[str, Content] = Field(default_factory=dict[str, Content])
    """Of the files of captured inputs, by path; none where an older version began it."""

    @property
    def goal(self) -> Goal:
        """When the run ends."""
        return Goal(self.rounds, self.keep_improving, self.target_speedup)

    def changes(self, task: Task) -> list[str]:
        """What has changed in the trace set since, a phrase each."""
        before, now = dict(self.fingerprints), fingerprints(task)
        found = ["the definition has changed"] if before.pop("", None) != now.pop("") else []
        kept = before.keys() & now.keys()
        for what, uuids in (
            ("is new", now.keys() - before.keys()),
            ("is gone", before.keys() - now.keys()),
            ("has changed", {uuid for uuid in kept if before[uuid] != now[uuid]}),
        ):
            found += [f"workload {uuid} {what}" for uuid in sorted(uuids)]
        files = contents(task)
        for path in sorted(self.contents.keys() & files.keys()):
            if self.contents[path].differs(files[path]):
                found.append(f"what is in '{path}' has changed")
        return found


def fingerprints(task: Task) -> dict[str, str]:
    """See `RunSettings.fingerprints`."""
    records = {"": task.definition, **{w.uuid: w for w in task.workloads}}
    return {
        name: hashlib.sha256(record.model_dump_json().encode()).hexdigest()[:16]
        for name, record in records.items()
    }


@dataclass(frozen=True)
class Steps:
    """How far one attempt had come."""

    reply: Reply | None = None
    solution: Solution | None = None
    evaluation: Evaluation | None = None


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
            found.add(event.kind, event.document)
        return found

    def add(self, kind: str, document: dict[str, Any]) -> None:
        """Take one event in. Kinds that say nothing of where the run stands are passed over."""
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
                self._step(document, evaluation=verdict)
            case "attempted":
                self.attempts.append(self._attempt(document))
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

    def _attempt(self, document: dict[str, Any]) -> Attempt:
        proposal = _PROPOSAL.validate_python(document["proposal"])
        steps, noted = self.of_proposal(proposal), document.get("noted")
        candidate = None
        if noted is not None:
            candidate = Candidate(Solution.model_validate_json(noted), proposal)
        return Attempt(
            proposal=proposal,
            reply=steps.reply,
            outcome=Outcome(document["outcome"]),
            message=_text(document["message"]),
            candidate=candidate,
            evaluation=steps.evaluation,
            duplicate_of=_INDEX.validate_python(document.get("duplicate_of")),
        )


class Journal:
    """What a run notes, and what it finds noted. Without a store it finds nothing, and notes it
    nowhere. Every method may raise `StoreError`."""

    def __init__(self, run_id: str | None = None, store: Store | None = None) -> None:
        """The journal of a run that is in the store; of a new one where `run_id` is None."""
        self.run_id = run_id or secrets.token_hex(4)
        self.history = History()
        """What was found, once the run is held."""
        self._store = store

    @staticmethod
    def begin(store: Store | None, settings: RunSettings) -> Journal:
        """A new run's."""
        journal = Journal(store=store)
        if store is not None:
            store.begin(journal.run_id, json.loads(settings.model_dump_json()))
        return journal

    @contextlib.contextmanager
    def held(self) -> Generator[None]:
        """Nobody else moves the run forward meanwhile. Raises `RunBusy`."""
        if self._store is None:
            yield
            return
        with self._store.working_on(self.run_id):
            self.history = known_run(self._store, self.run_id).history
            if self.history.asked and self.history.reason is None:
                self._note("resumed", {"program": VERSION})
            yield

    def asking(self, proposal: Proposal, request: Request) -> None:
        """The request is about to be sent. One that waits already is not noted again."""
        if self.history.requests.get((proposal.round, proposal.sample)) == (
            proposal,
            request.messages,
        ):
            return
        messages = json.dumps([{"role": m.role.value, "text": m.text} for m in request.messages])
        self._note("asked", {"proposal": _plain(proposal)}, {"messages": messages})

    def replied(self, proposal: Proposal, reply: Reply) -> None:
        """The model answered; nothing was made of it yet."""
        told = _REPLY.dump_python(reply, mode="json")
        text = told.pop("text")
        self._note("replied", {"proposal": _plain(proposal), "reply": told}, {"text": text})

    def proposed(self, proposal: Proposal, solution: Solution) -> None:
        """The reply holds a candidate, which is about to be judged."""
        texts = {"solution": solution.model_dump_json()}
        self._note("read", {"proposal": _plain(proposal)}, texts)

    def judged(self, proposal: Proposal, evaluation: Evaluation, subject: str = "") -> None:
        """The judge has spoken, about what `runs.duplicates.subject` names."""
        texts = {"evaluation": evaluation.model_dump_json()}
        # A verdict that was taken over is not found again: whoever looks finds its origin.
        about = None if evaluation.reused else subject or None
        self._note("judged", {"proposal": _plain(proposal)}, texts, about)

    def verdicts(self, subject: str) -> list[tuple[str, Evaluation]]:
        """What the judge said of a subject in any run of the store, latest first, with the runs'
        ids."""
        if self._store is None:
            return []
        found: list[tuple[str, Evaluation]] = []
        for run_id, event in self._store.about(subject):
            try:
                verdict = Evaluation.model_validate_json(event.document["evaluation"])
            except _UNREADABLE:
                # Another version of this program wrote it: it is judged anew.
                continue
            found.append((run_id, verdict))
        return found

    def attempted(self, attempt: Attempt) -> None:
        """An attempt is complete."""
        document = {
            "proposal": _plain(attempt.proposal),
            "outcome": attempt.outcome.value,
            "message": attempt.message,
            "duplicate_of": attempt.duplicate_of,
        }
        candidate = attempt.candidate
        texts = {} if candidate is None else {"noted": candidate.solution.model_dump_json()}
        self._note("attempted", document, texts)

    def finished(self, reason: str) -> None:
        """The run has ended."""
        self._note("finished", {"reason": reason})

    def _note(
        self,
        kind: str,
        document: dict[str, Any],
        texts: dict[str, str] | None = None,
        subject: str | None = None,
    ) -> None:
        if self._store is not None:
            self._store.append(self.run_id, kind, document, texts, subject)


def _text(value: object) -> str:
    """Raises `TypeError` where it is none. One that is not UTF-8 is one too: models send such."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _plain(proposal: Proposal) -> Any:
    return _PROPOSAL.dump_python(proposal, mode="json")


def note_saved(store: Store, run_id: str, path: Path, name: str) -> None:
    """A run's candidate of that name is in the trace set. Raises `StoreError`."""
    store.append(run_id, "saved", {"path": str(path), "name": name})


@dataclass(frozen=True)
class KnownRun:
    """A run as the store tells of it."""

    run_id: str
    began: str
    """ISO 8601, UTC."""
    settings: RunSettings
    history: History

    @property
    def is_over(self) -> bool:
        """True where nothing is left to do: it has ended, and what passed was saved."""
        ended = self.history.reason is not None
        return ended and (self.history.best is None or self.history.is_saved)

    @property
    def waits(self) -> bool:
        """True where it cannot go on before somebody brings a reply."""
        elsewhere = self.settings.model == OFFLINE or self.settings.batch
        return elsewhere and self.history.reason is None and bool(self.history.pending)

    @property
    def state(self) -> str:
        """In words."""
        if self.history.reason is None:
            return "waits for a reply" if self.waits else "not ended"
        return self.history.reason if self.is_over else f"{self.history.reason}; not saved yet"


def known_runs(store: Store) -> tuple[list[KnownRun], list[StoreError]]:
    """Every run of a store that can be read, oldest first, and why others cannot.

    Of their texts only evaluations and the best versions are read: requests and replies are blank,
    other attempts have no candidate, and no evaluation tells of its workloads. Raises `StoreError`.
    """
    found: list[KnownRun] = []
    problems: list[StoreError] = []
    for run in store.runs():
        try:
            found.append(_listed(store, run))
        except StoreError as error:
            problems.append(error)
    return found, problems


def _listed(store: Store, run: StoredRun) -> KnownRun:
    events = store.events(run.run_id, only=("evaluation",))
    with _reading(run):
        settings = RunSettings.model_validate(run.settings)
        history = History()
        for event in events:
            document = _BLANK | event.document
            if event.kind == "judged":
                verdict = json.loads(document["evaluation"])
                # They are nearly all of it.
                document["evaluation"] = json.dumps(verdict | {"workloads": []})
            if event.kind != "read":
                history.add(event.kind, document)
        if (best := best_index(history.attempts)) is not None:
            attempted = [event for event in events if event.kind == "attempted"]
            noted = store.text(attempted[best].unread["noted"])
            attempt = history.attempts[best]
            candidate = Candidate(Solution.model_validate_json(noted), attempt.proposal)
            history.attempts[best] = replace(attempt, candidate=candidate)
    return KnownRun(run.run_id, run.began, settings, history)


def known_run(store: Store, run_id: str) -> KnownRun:
    """The run of that id. Raises `UnknownName` with the closest ones, and `StoreError`."""
    run = store.find(run_id)
    return read_run(run, store.events(run_id))


def read_run(run: StoredRun, events: Sequence[StoredEvent]) -> KnownRun:
    """What a run's events come to. Raises `StoreError` where they cannot be read."""
    with _reading(run):
        settings = RunSettings.model_validate(run.settings)
        history = History.of(events)
        if history.best is not None and history.best.candidate is None:
            raise ValueError("its best version has no source")
    return KnownRun(run.run_id, run.began, settings, history)


@contextlib.contextmanager
def _reading(run: StoredRun) -> Generator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise StoreError(
            f"run {run.run_id} cannot be read, another version of this program may have written "
            f"it: {' '.join(str(error).split())[:200]}"
        ) from error
