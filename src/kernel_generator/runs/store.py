"""The event store: what happened in every run, on disk before anything acts on it.

Guarantees that an event which was appended is there after a crash of the program or the machine,
whole or not at all, and that several programs may use one store at once.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from sqlalchemy import bindparam, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as insert_or

from kernel_generator.domain.errors import InvalidInput, RunBusy, StoreError, UnknownName
from kernel_generator.runs import schema
from kernel_generator.runs.bundle import Bundle, BundledEvent, text_key
from kernel_generator.runs.database import Database

if TYPE_CHECKING:
    from collections.abc import Container, Generator, Iterator, Mapping, Sequence
    from pathlib import Path

    from sqlalchemy import Connection, Select

_ID = re.compile(r"\w+", re.ASCII)
_KEEP_TEXT = insert_or(schema.texts).on_conflict_do_nothing()
_KEEP_EVENT = insert(schema.events)
_LAST_NUMBER = select(func.coalesce(func.max(schema.events.c.number), 0)).where(
    schema.events.c.run == bindparam("of_run")
)
_AT_ONCE = 500
"""So many keys are named in one statement."""


@dataclass(frozen=True)
class StoredRun:
    """A run as it was begun."""

    run_id: str
    began: str
    """ISO 8601, UTC."""
    settings: dict[str, Any]


@dataclass(frozen=True)
class StoredEvent:
    """One thing that happened."""

    number: int
    at: str
    kind: str
    document: dict[str, Any]
    """Large texts are in their place again."""
    unread: Mapping[str, str] = field(default_factory=dict[str, str])
    """Keys of those that were left out, by name."""
    elsewhere: bool = field(default=False, compare=False)
    """Whether it was taken in from another store, whose word it is."""


class Store:
    """One file. Safe to use from several threads and programs."""

    def __init__(self, path: Path | None = None) -> None:
        """Open the store at `path`, or make it; None: at its usual place. An older one is brought
        up to date; from one that cannot be written here what it holds can be read.

        Raises `StoreError` where it cannot be read or made, is damaged (a copy is made first),
        or was written by a newer version of this program.
        """
        self._database = Database(path)
        self.path = self._database.path

    # -- runs -----------------------------------------------------------------------------------

    def begin(self, run_id: str, settings: Mapping[str, Any]) -> None:
        """Note a run before its first event. Raises `StoreError`."""
        row = {"id": run_id, "began": _now(), "settings": json.dumps(settings)}
        with self._database.transaction() as connection:
            connection.execute(insert(schema.runs).values(row))

    def runs(self) -> list[StoredRun]:
        """All runs, oldest first. Raises `StoreError`."""
        with self._database.transaction(reads=True) as connection:
            rows = connection.execute(select(schema.runs).order_by(schema.runs.c.began)).all()
        return [StoredRun(row.id, row.began, json.loads(row.settings)) for row in rows]

    def find(self, run_id: str) -> StoredRun:
        """The run of that id. Raises `UnknownName` with the closest ones, and `StoreError`."""
        with self._database.transaction(reads=True) as connection:
            query = select(schema.runs).where(schema.runs.c.id == run_id)
            row = connection.execute(query).one_or_none()
        if row is None:
            known = [run.run_id for run in reversed(self.runs())]
            raise UnknownName("run", run_id, known, str(self.path))
        return StoredRun(row.id, row.began, json.loads(row.settings))

    def delete(self, run_id: str) -> None:
        """Forget a run, and those of its texts that no other run names. Raises `UnknownName`,
        `RunBusy`, `StoreError`."""
        self.find(run_id)
        own: set[str] = set()
        others: set[str] = set()
        with self.working_on(run_id), self._database.transaction() as connection:
            for row in connection.execute(select(schema.events)):
                named = json.loads(row.document)["texts"].values()
                (own if row.run == run_id else others).update(named)
            connection.execute(delete(schema.events).where(schema.events.c.run == run_id))
            connection.execute(delete(schema.runs).where(schema.runs.c.id == run_id))
            for some in _portions(own - others):
                connection.execute(delete(schema.texts).where(schema.texts.c.sha256.in_(some)))

    @contextlib.contextmanager
    def working_on(self, run_id: str) -> Generator[None]:
        """Nobody else moves the run forward meanwhile. Raises `RunBusy`."""
        if not _ID.fullmatch(run_id):
            raise UnknownName("run", run_id, (), str(self.path))
        folder = self.path.with_name(f"{self.path.name}.locks")
        try:
            folder.mkdir(exist_ok=True)
            lock = FileLock(folder / f"{run_id}.lock")
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RunBusy(
                f"run {run_id} is being worked on by another program: wait for it, or stop it"
            ) from error
        except OSError as error:
            raise StoreError(f"'{folder}' cannot be written: {error.strerror}") from error
        try:
            yield
        finally:
            lock.release()

    # -- events ---------------------------------------------------------------------------------

    def append(
        self,
        run_id: str,
        kind: str,
        document: Mapping[str, Any],
        texts: Mapping[str, str] | None = None,
        subject: str | None = None,
    ) -> None:
        """Note what happened, for good once this returns. `texts` are large parts of the document,
        by name; what has a `subject` is found by it. Raises `StoreError`."""
        # As JSON, which holds what UTF-8 does not: a reply may have half a surrogate pair.
        held = {name: json.dumps(text) for name, text in (texts or {}).items()}
        hashes = {name: text_key(text) for name, text in held.items()}
        rows = [{"sha256": hashes[name], "text": text} for name, text in held.items()]
        with self._database.transaction() as connection:
            if rows:
                connection.execute(_KEEP_TEXT, rows)
            row = {
                "run": run_id,
                "number": connection.execute(_LAST_NUMBER, {"of_run": run_id}).scalar_one() + 1,
                "at": _now(),
                "kind": kind,
                "document": json.dumps({**document, "texts": hashes}),
                "subject": subject,
            }
            connection.execute(_KEEP_EVENT, row)

    def about(self, subject: str) -> list[tuple[str, StoredEvent]]:
        """What was noted in this store about a subject, latest first, with the runs' ids. Raises
        `StoreError`."""
        on_it = select(schema.events).where(schema.events.c.subject == subject)
        query = on_it.order_by(schema.events.c.at.desc())
        with self._database.transaction(reads=True) as connection:
            rows = connection.execute(query).all()
            told = self._told(connection, rows)
        return [(row.run, one) for row, one in zip(rows, told, strict=True)]

    def events(self, run_id: str, only: Container[str] | None = None) -> list[StoredEvent]:
        """What happened in a run, in order, with those large texts whose names are in `only`; None:
        with all. Raises `StoreError`."""
        with self._database.transaction(reads=True) as connection:
            return self._told(connection, connection.execute(_events_of(run_id)).all(), only)

    def text(self, key: str) -> str:
        """A text that `events` left out. Raises `StoreError`."""
        with self._database.transaction(reads=True) as connection:
            return json.loads(self._held(connection, {key})[key])

    def _told(
        self, connection: Connection, rows: Sequence[Any], only: Container[str] | None = None
    ) -> list[StoredEvent]:
        documents = [json.loads(row.document) for row in rows]
        named = [document.pop("texts") for document in documents]
        wanted = [
            {name: key for name, key in keys.items() if only is None or name in only}
            for keys in named
        ]
        texts = self._held(connection, {key for keys in wanted for key in keys.values()})
        return [
            StoredEvent(
                row.number,
                row.at,
                row.kind,
                document | {name: json.loads(texts[key]) for name, key in read.items()},
                {name: key for name, key in keys.items() if name not in read},
                bool(row.elsewhere),
            )
            for row, document, keys, read in zip(rows, documents, named, wanted, strict=True)
        ]

    # -- copies ---------------------------------------------------------------------------------

    def bundled(self, run_id: str) -> Bundle:
        """All that is known of a run. Raises `UnknownName`, `StoreError`."""
        run = self.find(run_id)
        with self._database.transaction(reads=True) as connection:
            events = [_bundled(row) for row in connection.execute(_events_of(run_id)).all()]
            keys = {key for event in events for key in event.document["texts"].values()}
            texts = self._held(connection, keys)
        return Bundle(
            run_id=run_id,
            began=run.began,
            settings=run.settings,
            events=tuple(events),
            texts=texts,
        ).sealed()

    def take_in(self, bundle: Bundle) -> bool:
        """Keep a run that another store had, whose bundle is whole. False where all of it is here
        already; where its beginning is, the rest is added, and what is judged from then on is
        judged in the bundle's isolation.

        Raises `InvalidInput` where the run here was begun or went on otherwise, and `StoreError`.
        """
        run_id = bundle.run_id
        settings = {"settings": json.dumps(bundle.settings)}
        here = schema.runs.c.id == run_id
        with self._database.transaction() as connection:
            row = connection.execute(select(schema.runs).where(here)).one_or_none()
            known = [_bundled(row) for row in connection.execute(_events_of(run_id)).all()]
            shared = min(len(known), len(bundle.events))
            if known[:shared] != list(bundle.events[:shared]) or (
                row is not None and not _began_so(row, bundle)
            ):
                raise InvalidInput(
                    f"the store has a run {run_id} that was begun or went on otherwise: import it "
                    "into another store, with --store"
                )
            if row is None:
                made = {"id": run_id, "began": bundle.began, **settings}
                connection.execute(insert(schema.runs).values(made))
            elif len(bundle.events) > shared:
                connection.execute(update(schema.runs).where(here).values(settings))
            for key, text in bundle.texts.items():
                held = {"sha256": key, "text": text}
                connection.execute(insert_or(schema.texts).values(held).on_conflict_do_nothing())
            for number, event in enumerate(bundle.events[shared:], start=shared + 1):
                noted = {
                    "run": run_id,
                    "number": number,
                    "at": event.at,
                    "kind": event.kind,
                    "document": json.dumps(event.document),
                    "elsewhere": 1,
                }
                connection.execute(insert(schema.events).values(noted))
        return row is None or len(bundle.events) > shared

    def _held(self, connection: Connection, keys: set[str]) -> dict[str, str]:
        """Texts as they are stored, by their hashes."""
        found: dict[str, str] = {}
        for some in _portions(keys):
            query = select(schema.texts).where(schema.texts.c.sha256.in_(some))
            found |= {row.sha256: row.text for row in connection.execute(query)}
        for key in keys:
            if key not in found or text_key(found[key]) != key:
                raise StoreError(
                    f"a text in the store of runs '{self.path}' is missing or was altered "
                    f"({key[:12]})"
                )
        return found

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        self._database.close()


def _events_of(run_id: str) -> Select[Any]:
    of_run = schema.events.c.run == run_id
    return select(schema.events).where(of_run).order_by(schema.events.c.number)


def _portions(keys: set[str]) -> Iterator[list[str]]:
    ordered = sorted(keys)
    for start in range(0, len(ordered), _AT_ONCE):
        yield ordered[start : start + _AT_ONCE]


def _bundled(row: Any) -> BundledEvent:
    return BundledEvent(at=row.at, kind=row.kind, document=json.loads(row.document))


def _began_so(row: Any, bundle: Bundle) -> bool:
    """Whether a run is the bundle's, which may name another isolation."""
    aside = {"isolation": None}
    return row.began == bundle.began and json.loads(row.settings) | aside == bundle.settings | aside


def _now() -> str:
    return datetime.now(UTC).isoformat()
