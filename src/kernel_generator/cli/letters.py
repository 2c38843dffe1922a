"""`kernel-generator prompts export` and `replies import`: a model that is asked elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kernel_generator.cli.options import StoreOption, at_store

_RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="The run's id, as `runs` lists it.")
]


def export_prompts(
    run: _RunArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files are written.")],
    store: StoreOption = None,
) -> None:
    """Write the requests that wait for a reply, a readable file each."""
    from kernel_generator.cli.console import to_stderr
    from kernel_generator.runs.letters import export_requests
    from kernel_generator.runs.store import Store

    written = export_requests(Store(store), run, folder)
    for path in written:
        print(path)
    told = f"{len(written)} request{'' if len(written) == 1 else 's'} of run {run} wait for replies"
    to_stderr().print(told, markup=False, highlight=False)


def import_replies(
    run: _RunArgument,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where the files RUN-r1.reply.md and so on are.")
    ],
    author: Annotated[
        str, typer.Option("--author", metavar="NAME", help="Who or what wrote them.")
    ] = "unknown",
    store: StoreOption = None,
) -> None:
    """Take replies that somebody wrote; `resume` goes on with them."""
    from kernel_generator.cli.console import to_stderr
    from kernel_generator.runs import letters
    from kernel_generator.runs.store import Store

    brought = letters.import_replies(Store(store), run, folder, author)
    for name in brought.taken:
        print(name)
    told = f"{len(brought.taken)} taken, {len(brought.known)} known already"
    if brought.taken:
        told += f"; to go on: kernel-generator resume {run}{at_store(store)}"
    to_stderr().print(told, markup=False, highlight=False, soft_wrap=True)
