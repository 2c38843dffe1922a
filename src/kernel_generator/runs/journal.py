"""One run's journal: each step is noted before the next one acts, and read when the run goes on.

What is noted is enough to go on where a run was stopped, at whatever instant: no stored reply is
asked for again, and no finished evaluation repeated.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flashinfer_bench import Solution
from pydantic import TypeAdapter

from kernel_generator.domain.attempt import Attempt, Candidate
from kernel_generator.domain.conversation import Reply
from kernel_generator.domain.errors import StoreError
from kernel_generator.domain.evaluation import Evaluation
from kernel_generator.domain.proposal import Proposal
from kernel_generator.domain.version import VERSION
from kernel_generator.models.offline import OFFLINE
from kernel_generator.runs.history import History
from kernel_generator.runs.settings import RunSettings
from kernel_generator.search.ranking import best_index

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from kernel_generator.domain.conversation import Request
    from kernel_generator.runs.store import Store, StoredEvent, StoredRun

_PROPOSAL, _REPLY = TypeAdapter(Proposal), TypeAdapter(Reply)
_UNREADABLE = (KeyError, TypeError, ValueError)
"""What reading a document raises that another version wrote, pydantic's errors among it."""

_BLANK = {"messages": "[]", "text": ""}
"""In the place of texts that were not read."""


class Journal:
    """What a run notes, and what it finds noted. Without a store it finds nothing, and notes it
    nowhere. Every method may raise `StoreError`."""

    def __init__(self, run_id: str | None = None, store: Store | None = None) -> None:
        """The journal of a run that is in the store; of a new one where `run_id` is None."""
        self.run_id = run_id or secrets.token_hex(4)
        self.history = History()
        """What was found, once the run is held."""
        self._store = store

    @property
    def place(self) -> Path | None:
        """The store's file; None without a store."""
        return None if self._store is None else self._store.path

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

    def certified(self, attempt: Attempt, noted: Solution, evaluation: Evaluation) -> Attempt:
        """What another store's judge had passed was judged again here; the attempt as it is now,
        whose solution says so."""
        document = {"proposal": _plain(attempt.proposal)}
        texts = {
            "evaluation": evaluation.model_dump_json(),
            "noted": noted.model_dump_json(),
        }
        self._note("certified", document, texts)
        self.history.add("certified", document | texts)
        return next(a for a in self.history.attempts if a.proposal == attempt.proposal)

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
            if event.kind in ("judged", "certified"):
                verdict = json.loads(document["evaluation"])
                # They are nearly all of it.
                document["evaluation"] = json.dumps(verdict | {"workloads": []})
            if event.kind != "read":
                history.add(event.kind, document, event.elsewhere)
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
        known = [step.solution for step in history.steps.values()]
        known += [one.candidate.solution for one in history.attempts if one.candidate]
        if any(one and one.definition != settings.definition for one in known):
            raise ValueError(f"a version is not of '{settings.definition}'")
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
