"""Requests of stored runs that a provider answers in batches: what waits, what was handed in, what
came back.

A submission is noted in every run that it is of before it is made, under a key that the batch
carries, and with the batch's id afterwards: a batch whose id nobody noted is found by its key, and
no request is in two batches that may both answer it. Where a provider does not tell yet whether a
batch is the one, the requests wait until it does.
"""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from kernel_generator.domain.conversation import Finish, Reply, Sampling
from kernel_generator.domain.errors import BudgetSpent, RunBusy
from kernel_generator.domain.events import Notice, Replied
from kernel_generator.models.batch import Answered, BatchRequest, Sought, Unanswered, Unclear
from kernel_generator.models.open_model import open_batches
from kernel_generator.runs.journal import Journal, read_run

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from kernel_generator.domain.conversation import Message
    from kernel_generator.domain.events import Observer
    from kernel_generator.domain.proposal import Proposal
    from kernel_generator.models.batch import Batch, BatchDesk, Result
    from kernel_generator.runs.settings import RunSettings
    from kernel_generator.runs.spending import Spending
    from kernel_generator.runs.store import Store, StoredEvent

MAX_TRIES = 3
"""So often one request is in a batch that ends without an answer to it; then its attempt fails."""


@dataclass(frozen=True)
class Submission:
    """A batch as it was noted."""

    key: str
    since: float
    """When it was about to be made, in seconds since 1970."""
    requests: frozenset[str]
    """Every request in it, other runs' too."""
    batch_id: str = ""
    """Empty where the note that it was made is missing."""


@dataclass(frozen=True)
class Waiting:
    """A request of a stored run that has no reply."""

    run_id: str
    proposal: Proposal
    messages: tuple[Message, ...]
    settings: RunSettings
    submission: Submission | None
    """What it is in; None where it is to be submitted."""
    tries: int
    """Batches that ended without an answer to it."""

    @property
    def custom_id(self) -> str:
        """What it is called in a batch."""
        return _custom_id(self.run_id, self.proposal.round, self.proposal.sample)


def open_desk(settings: RunSettings, base_url: str | None) -> BatchDesk:
    """Where a run's requests are handed in, with the key from the environment. Raises
    `InvalidInput`."""
    return open_batches(settings.model, base_url=base_url, dialect=settings.dialect)


async def check_batches(
    model: str, base_url: str | None, dialect: str | None, effort: str | None
) -> None:
    """Raises `InvalidInput` where a model cannot be asked in batches, and `ProviderError` where its
    provider says no."""
    desk = open_batches(model, base_url=base_url, dialect=dialect, reasoning_effort=effort)
    await desk.check(Sampling(effort))


def waiting_of(store: Store, run_id: str) -> list[Waiting]:
    """A run's requests without a reply. Raises `UnknownName`, `StoreError`."""
    events = store.events(run_id)
    run = read_run(store.find(run_id), events)
    if run.history.reason is not None or not run.settings.batch:
        return []
    found: list[Waiting] = []
    for proposal, messages in run.history.pending:
        custom_id = _custom_id(run_id, proposal.round, proposal.sample)
        submission, tries = _noted(events, custom_id)
        found.append(Waiting(run_id, proposal, messages, run.settings, submission, tries))
    return found


async def submit_waiting(
    store: Store,
    desk: BatchDesk,
    run_ids: Iterable[str],
    spending: Spending,
    observer: Observer,
) -> Batch | None:
    """Hand in, as one batch, what waits in these runs and is in none; None where nothing does.

    Runs that another program moves forward are passed over. Raises `BudgetSpent` before anything is
    sent, `ProviderError` and `StoreError`; then the runs wait as before, and what was made
    nevertheless is found by `take_in`.
    """
    with _held(store, run_ids) as held:
        chosen = [w for run_id in held for w in waiting_of(store, run_id) if w.submission is None]
        if not chosen:
            return None
        if spent := spending.exhausted:
            raise BudgetSpent(spent)
        requests = [
            BatchRequest(w.custom_id, w.messages, Sampling(w.settings.reasoning_effort))
            for w in chosen
        ]
        key = secrets.token_hex(16)
        draft = await desk.prepare(requests, key)
        runs = list(dict.fromkeys(w.run_id for w in chosen))
        for run_id in runs:
            ids = [request.custom_id for request in requests]
            store.append(run_id, "submitting", {"key": key, "requests": ids})
        batch = await desk.create(draft)
        for run_id in runs:
            store.append(run_id, "submitted", {"key": key, "batch": batch.batch_id})
        count = _count(len(chosen), "request")
        told = f"waiting for replies of '{desk.model}': {count}, in batch {batch.batch_id}"
        observer(Notice(told))
        return batch


async def take_in(
    store: Store,
    desk: BatchDesk,
    run_ids: Iterable[str],
    spending: Spending,
    observer: Observer,
) -> None:
    """Look the batches of these runs up, and note the replies of those that are over.

    What a batch ended without answering is to be submitted again, `MAX_TRIES` times in all; then a
    reply that says so takes the answer's place. Raises `ProviderError` and `StoreError`; what was
    noted until then stays.
    """
    with _held(store, run_ids) as held:
        by_key: dict[str, list[Waiting]] = {}
        for waiting in (w for run_id in held for w in waiting_of(store, run_id)):
            if waiting.submission is not None:
                by_key.setdefault(waiting.submission.key, []).append(waiting)
        for those in by_key.values():
            taking = _Taking(store, desk, those, spending, observer)
            await taking.work()


class _Taking:
    """One batch, and the requests in it that wait."""

    def __init__(
        self,
        store: Store,
        desk: BatchDesk,
        those: Sequence[Waiting],
        spending: Spending,
        observer: Observer,
    ) -> None:
        noted = [w.submission for w in those if w.submission is not None]
        # A crash may have come between one run's note and the next one's.
        self._submission = max(noted, key=lambda one: bool(one.batch_id))
        self._store, self._desk, self._those = store, desk, those
        self._spending, self._observer = spending, observer

    async def work(self) -> None:
        batch = await self._found()
        if batch is None:
            return
        name = f"batch {batch.batch_id}"
        if not batch.is_over:
            self._tell(f"{name} is {batch.status}: {batch.done} of {batch.total} requests done")
            return
        results = self._sorted_out(await self._desk.results(batch))
        answered = sum(isinstance(results.get(w.custom_id), Answered) for w in self._those)
        told = f"{name} is {batch.status}: {answered} of {len(self._those)} replies taken"
        self._tell(f"{told}; {batch.problem}" if batch.problem else told)
        for waiting in self._those:
            result = results.get(waiting.custom_id)
            if isinstance(result, Answered):
                self._take(waiting, result.reply)
            else:
                reason = result.reason if result is not None else batch.problem
                self._fail(waiting, batch, reason or f"it is {batch.status} without a result")

    async def _found(self) -> Batch | None:
        """The batch as it is now; None where it was never made, which is noted, and where nobody
        can tell yet."""
        submission = self._submission
        key, count = submission.key, len(submission.requests)
        if submission.batch_id:
            return await self._desk.look_up(submission.batch_id)
        noted = _batches_noted(self._store)
        if key in noted:
            return await self._desk.look_up(noted[key])
        others = frozenset(noted.values())
        batch = await self._desk.find(Sought(key, submission.since, count, others))
        if isinstance(batch, Unclear):
            self._tell(
                f"whether a batch of {_count(count, 'request')} was made cannot be told before "
                f"{' and '.join(batch.batch_ids)} ended, which may be it: they wait until then"
            )
            return None
        for run_id in dict.fromkeys(w.run_id for w in self._those):
            if batch is None:
                self._store.append(run_id, "never submitted", {"key": key})
            else:
                self._store.append(run_id, "submitted", {"key": key, "batch": batch.batch_id})
        return batch

    def _sorted_out(self, results: Sequence[Result]) -> dict[str, Result]:
        """The first result of each request, an answer before a failure; tells of all others."""
        found: dict[str, Result] = {}
        twice, unknown = 0, 0
        for result in sorted(results, key=lambda one: isinstance(one, Unanswered)):
            if result.custom_id not in self._submission.requests:
                unknown += 1
            elif result.custom_id in found:
                twice += 1
            else:
                found[result.custom_id] = result
        if unknown:
            self._tell(f"{_count(unknown, 'result')} answered nothing that was asked: ignored")
        if twice:
            self._tell(f"{_count(twice, 'result')} came a second time: ignored")
        return found

    def _take(self, waiting: Waiting, reply: Reply) -> None:
        reply = self._spending.priced(reply)
        Journal(waiting.run_id, self._store).replied(waiting.proposal, reply)
        self._spending.replied(reply)
        self._observer(Replied(waiting.run_id, waiting.proposal, reply))

    def _fail(self, waiting: Waiting, batch: Batch, reason: str) -> None:
        tries = waiting.tries + 1
        what = f"run {waiting.run_id}, round {waiting.proposal.round}: batch {batch.batch_id} gave "
        self._tell(f"{what}no answer, try {tries} of {MAX_TRIES}: {reason}")
        if tries < MAX_TRIES:
            note = {"request": waiting.custom_id, "batch": batch.batch_id, "reason": reason}
            self._store.append(waiting.run_id, "unanswered", note)
            return
        detail = f"no answer in {MAX_TRIES} batches, lastly: {reason}"
        # Providers charge for answers alone.
        reply = Reply("", Finish.REFUSED, self._desk.model, cost_usd=0.0, detail=detail)
        Journal(waiting.run_id, self._store).replied(waiting.proposal, reply)

    def _tell(self, text: str) -> None:
        self._observer(Notice(text))


def _noted(events: Sequence[StoredEvent], custom_id: str) -> tuple[Submission | None, int]:
    """What a request is in, and how many batches ended without an answer to it."""
    submission: Submission | None = None
    tries = 0
    for event in events:
        document = event.document
        match event.kind:
            case "submitting" if custom_id in document["requests"]:
                since = datetime.fromisoformat(event.at).timestamp()
                submission = Submission(document["key"], since, frozenset(document["requests"]))
            case "submitted" if submission is not None and submission.key == document["key"]:
                submission = replace(submission, batch_id=document["batch"])
            case "never submitted" if submission is not None and submission.key == document["key"]:
                submission = None
            case "unanswered" if document["request"] == custom_id:
                submission, tries = None, tries + 1
            case _:
                pass
    return submission, tries


def _batches_noted(store: Store) -> dict[str, str]:
    """The ids of all batches that any run of a store was noted to be in, by their keys."""
    return {
        event.document["key"]: event.document["batch"]
        for run in store.runs()
        for event in store.events(run.run_id, only=())
        if event.kind == "submitted"
    }


@contextlib.contextmanager
def _held(store: Store, run_ids: Iterable[str]) -> Generator[list[str]]:
    """Those runs that nobody else moves forward; nobody else does until this ends."""
    with contextlib.ExitStack() as stack:
        held: list[str] = []
        for run_id in run_ids:
            with contextlib.suppress(RunBusy):
                stack.enter_context(store.working_on(run_id))
                held.append(run_id)
        yield held


def _custom_id(run_id: str, number: int, sample: int) -> str:
    return f"{run_id}-r{number}-s{sample + 1}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
