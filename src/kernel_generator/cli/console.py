"""Where things are printed: people's output to stderr while `--json` owns stdout.

Whatever is shown, text acts on no terminal: only the console's own styles and status lines do.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from rich.console import Console

from kernel_generator.inert import inert

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic import BaseModel
    from rich.console import ConsoleOptions, RenderableType
    from rich.segment import Segment

    from kernel_generator.runs.tracesets import Problem

_PLAIN_WIDTH = 160
"""Columns where nobody's terminal says: wide enough that a table is not folded to shreds."""


class InertConsole(Console):
    """Shows text that models, candidates and providers wrote."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """See `Console.render`: what is text in it is made inert."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=inert(segment.text))


class Lasting(InertConsole):
    """One whose reader may go away (`| head`): nothing is printed any more, and that is all. Rich
    itself would end the program."""

    def on_broken_pipe(self) -> None:
        """Called by Rich."""
        self.quiet = True


def to_people(as_json: bool = False) -> Console:
    """The console for a command's result."""
    if as_json:
        return to_stderr()
    return InertConsole(file=sys.stdout, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)


def to_stderr() -> Console:
    """The console for progress and warnings."""
    return Lasting(stderr=True, width=None if sys.stderr.isatty() else _PLAIN_WIDTH)


def print_json(document: object) -> None:
    """One JSON document on stdout. Raises `ValueError` for a figure that JSON has no word for."""
    print(json.dumps(document, indent=2, default=str, allow_nan=False))


def plain(record: BaseModel) -> object:
    """A record as JSON holds it: what is not a number or not finite becomes a string."""
    return json.loads(record.model_dump_json())


def warn_of(problems: Sequence[Problem]) -> None:
    """Say what was skipped in a trace set."""
    console = to_stderr()
    for problem in problems:
        console.print(f"skipped {problem}", markup=False, highlight=False, soft_wrap=True)
