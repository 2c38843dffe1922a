"""Requests that wait for a reply, as files that a person, another tool or another machine answers.

A request becomes `RUN-r2.md`, and its reply is expected in `RUN-r2.reply.md` beside it.
"""

from __future__ import annotations

import difflib
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernel_generator.domain.conversation import Finish, Reply
from kernel_generator.domain.errors import InvalidInput
from kernel_generator.domain.proposal import Proposal, Purpose
from kernel_generator.models.offline import OFFLINE
from kernel_generator.runs.database import default_path
from kernel_generator.runs.journal import Journal, known_run, known_runs

if TYPE_CHECKING:
    from pathlib import Path

    from kernel_generator.domain.conversation import Message
    from kernel_generator.runs.history import History
    from kernel_generator.runs.store import Store

_REPLY = re.compile(r"(?P<run>\w+)-r(?P<round>\d+)(?:-s(?P<sample>\d+))?\.reply\.md")
_MOST_BYTES = 4 << 20
_NEAR = 0.7
"""So alike is what was probably meant, by difflib's measure: 1 for the same name."""


@dataclass(frozen=True)
class Brought:
    """What became of replies that were brought."""

    taken: tuple[str, ...] = ()
    """Names of the files that are replies now."""
    known: tuple[str, ...] = ()
    """Names of those that had been taken before."""
    expected: tuple[str, ...] = ()
    """Names of files that requests still wait for."""
    near: tuple[str, ...] = ()
    """Names of files there that are called nearly so."""


def waiting_runs(store: Store) -> list[str]:
    """Ids of all runs that wait for a reply by file, oldest first. Raises `StoreError`."""
    runs = known_runs(store)[0]
    return [run.run_id for run in runs if run.waits and run.settings.model == OFFLINE]


def how_to_answer(run: str, store: Path | None) -> str:
    """The commands by which a run goes on, or all (`--all`); `store` is the file it is kept in."""
    at = "" if store in (None, default_path()) else f" --store {shlex.quote(str(store))}"
    return (
        f"kernel-generator prompts export {run} DIR{at}, have it answered there, "
        f"then: replies import {run} DIR{at}, and: resume {run}{at}"
    )


def export_requests(store: Store, run_id: str, folder: Path) -> list[Path]:
    """Write the requests of a run that wait for a reply; the paths written.

    Raises `UnknownName`, `InvalidInput` where a file cannot be written, and `StoreError`.
    """
    store.find(run_id)
    history = _history(store, run_id)
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for proposal, messages in history.pending:
            path = folder / f"{_stem(run_id, proposal)}.md"
            path.write_text(_letter(run_id, proposal, messages), encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise InvalidInput(f"'{folder}' cannot be written: {error.strerror}") from error
    return written


def import_replies(store: Store, run_id: str, folder: Path, author: str) -> Brought:
    """Take the replies that lie in a folder, all or none; `author` is who wrote them.

    Raises `UnknownName`, `RunBusy`, `StoreError`, and `InvalidInput` where a file is empty, cannot
    be read, answers nothing that was asked, or answers anew what was answered otherwise before.
    """
    if not author.strip():
        raise InvalidInput("--author is blank: say who or what wrote the replies, or leave it out")
    settings = known_run(store, run_id).settings
    if settings.model != OFFLINE:
        raise InvalidInput(f"run {run_id} asks '{settings.model}' itself: it takes no files")
    if not folder.is_dir():
        raise InvalidInput(f"there is no folder '{folder}'")
    journal = Journal(run_id, store)
    taken: list[tuple[str, Proposal, str]] = []
    known: list[str] = []
    with store.working_on(run_id):
        history = _history(store, run_id)
        waiting = {(p.round, p.sample): p for p, _ in history.pending}
        for path in sorted(folder.glob("*.reply.md")):
            match = _REPLY.fullmatch(path.name)
            if match is None or match["run"] != run_id:
                continue
            key = int(match["round"]), int(match["sample"] or 1) - 1
            named = Proposal(Purpose.DRAFT, key[0], sample=key[1])
            if path.name != f"{_stem(run_id, named)}.reply.md":
                raise InvalidInput(f"'{path}' is not how a reply's file is called")
            text = _text(path)
            answered = history.steps[key].reply if key in history.steps else None
            if key in waiting:
                taken.append((path.name, waiting[key], text))
            elif answered is None:
                raise InvalidInput(f"'{path}' answers a request that run {run_id} never made")
            elif answered.text == text:
                known.append(path.name)
            else:
                raise InvalidInput(
                    f"'{path}' answers anew what was answered before, by {answered.model}: a "
                    "stored reply stays as it is"
                )
        for _, proposal, text in taken:
            journal.replied(proposal, Reply(text, Finish.COMPLETE, author))
    names = tuple(name for name, _, _ in taken)
    expected = [f"{_stem(run_id, proposal)}.reply.md" for proposal in waiting.values()]
    left = [name for name in expected if name not in names]
    return Brought(names, tuple(known), tuple(left), _near(left, folder))


def _near(expected: list[str], folder: Path) -> tuple[str, ...]:
    """Names of files in the folder that were probably meant to be those that are expected."""
    prompts = {name.removesuffix(".reply.md") + ".md" for name in expected}
    names = [path.name for path in sorted(folder.iterdir()) if path.name not in prompts]
    # What is called as it should be is another run's.
    names = [name for name in names if not _REPLY.fullmatch(name)]
    close = (difflib.get_close_matches(name, names, cutoff=_NEAR) for name in expected)
    return tuple(dict.fromkeys(name for found in close for name in found))


def _history(store: Store, run_id: str) -> History:
    return known_run(store, run_id).history


def _stem(run_id: str, proposal: Proposal) -> str:
    sample = f"-s{proposal.sample + 1}" if proposal.sample else ""
    return f"{run_id}-r{proposal.round}{sample}"


def _letter(run_id: str, proposal: Proposal, messages: tuple[Message, ...]) -> str:
    answer = f"{_stem(run_id, proposal)}.reply.md"
    head = (
        f"<!-- Run {run_id}, round {proposal.round}: {proposal.purpose}. Answer what follows, as a "
        f"language model would, in a file {answer} beside this one. -->"
    )
    turns = [f"<!-- {message.role} -->\n\n{message.text.strip()}" for message in messages]
    return "\n\n".join([head, *turns, ""])


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise InvalidInput(f"'{path}' is no ordinary file")
        with path.open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise InvalidInput(f"'{path}' is larger than {_MOST_BYTES >> 20} MiB")
        text = content.decode()
    except OSError as error:
        raise InvalidInput(f"'{path}' cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"'{path}' is not text in UTF-8") from error
    if not text.strip():
        raise InvalidInput(f"'{path}' is empty: write the reply into it, or remove it")
    return text
