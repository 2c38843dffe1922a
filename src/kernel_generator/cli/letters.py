"""`kernel-generator prompts export` and `replies import`: a model that is asked elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kernel_generator.cli.console import to_stderr
from kernel_generator.cli.exits import Exit
from kernel_generator.cli.options import StoreOption, at_store

_RunOrFolder = Annotated[
    str, typer.Argument(metavar="[RUN]", help="The run's id, as `runs` lists it.")
]
_Folder = Annotated[
    Path | None,
    typer.Argument(metavar="DIR", help="Where the files are: RUN-r1.md, RUN-r1.reply.md, …"),
]
_All = Annotated[bool, typer.Option("--all", help="All runs that wait for a reply.")]


def export_prompts(
    run: _RunOrFolder,
    folder: _Folder = None,
    every: _All = False,
    store: StoreOption = None,
) -> None:
    """Write the requests that wait for a reply, a readable file each."""
    from kernel_generator.runs.letters import export_requests, waiting_runs
    from kernel_generator.runs.store import Store

    kept = Store(store)
    named, into = _named(run, folder, every)
    ids = waiting_runs(kept) if named is None else [named]
    written = [path for one in ids for path in export_requests(kept, one, into)]
    for path in written:
        print(path)
    of = f"of run {named}" if named is not None else f"of {_count(len(ids), 'run')}"
    verb = "waits" if len(written) == 1 else "wait"
    _tell(f"{_count(len(written), 'request')} {of} {verb} for replies")


def import_replies(
    run: _RunOrFolder,
    folder: _Folder = None,
    every: _All = False,
    author: Annotated[
        str, typer.Option("--author", metavar="NAME", help="Who or what wrote them.")
    ] = "unknown",
    store: StoreOption = None,
) -> int:
    """Take replies that somebody wrote; `resume` goes on with them."""
    from kernel_generator.runs import letters
    from kernel_generator.runs.store import Store

    kept = Store(store)
    named, out_of = _named(run, folder, every)
    ids = letters.waiting_runs(kept) if named is None else [named]
    brought = [letters.import_replies(kept, one, out_of, author) for one in ids]
    taken = [name for one in brought for name in one.taken]
    known = sum(len(one.known) for one in brought)
    expected = [name for one in brought for name in one.expected]
    near = dict.fromkeys(name for one in brought for name in one.near)
    for name in taken:
        print(name)
    told = f"{len(taken)} taken, {known} known already"
    if taken:
        told += f"; to go on: kernel-generator resume {named or '--all'}{at_store(store)}"
    _tell(told)
    if near or (expected and not taken and not known):
        _tell(f"not there: {', '.join(expected)}")
    if near:
        _tell(f"called nearly so, and not taken: {', '.join(near)}")
    return Exit.SOLVED if taken or known or not expected else Exit.UNSOLVED


def _named(run: str, folder: Path | None, every: bool) -> tuple[str | None, Path]:
    """The run, or None for all, and the folder. Raises `InvalidInput`."""
    from kernel_generator.domain.errors import InvalidInput

    if every:
        if folder is not None:
            raise InvalidInput("--all is for all runs: name the folder alone")
        return None, Path(run)
    if folder is None:
        raise InvalidInput("name a run and a folder, or give --all and a folder")
    return run, folder


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _tell(line: str) -> None:
    to_stderr().print(line, markup=False, highlight=False, soft_wrap=True)
