"""Where `optimize` and `resume` tell what happens: to people, and to programs on stdout."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kernel_generator.cli.console import plain, print_json, to_people, to_stderr
from kernel_generator.cli.economy import economy_of_runs, summary_lines
from kernel_generator.cli.exits import Exit
from kernel_generator.domain.errors import InvalidInput
from kernel_generator.domain.events import CampaignEnded
from kernel_generator.reporting import figures
from kernel_generator.reporting.lines import EventLines
from kernel_generator.reporting.progress import Progress
from kernel_generator.reporting.tables import campaign_notes, campaign_table
from kernel_generator.runs.observers import each, watched

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from kernel_generator.domain.events import Observer
    from kernel_generator.reporting.tables import Row


class Outputs:
    """Open while a command works, so that every event is written before it ends."""

    def __init__(self, as_json: bool, json_events: bool) -> None:
        """Raises `InvalidInput` where stdout is wanted for two things."""
        if as_json and json_events:
            raise InvalidInput("--json prints one document and --json-events lines: choose one")
        self._as_json, self._json_events = as_json, json_events
        self.progress = Progress(to_stderr())
        self._lines = EventLines(sys.stdout, self.progress.line) if json_events else None
        self.observer: Observer = watched(self.progress)
        """Who is told of events: people, and whoever reads stdout."""
        if self._lines is not None:
            self.observer = each(self.progress, self._lines)
        self._is_interrupted = False

    def __enter__(self) -> None:
        """Nothing to open."""

    def __exit__(
        self, kind: type[BaseException] | None, _error: object, _traceback: TracebackType | None
    ) -> None:
        if self._lines is not None:
            interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
            self._lines.close(hurry=interrupted or self._is_interrupted)

    def conclude(self, rows: list[Row], total: int, store: Path, code: Exit) -> None:
        """The closing table and statistics of `total` definitions."""
        self._is_interrupted = code is Exit.INTERRUPTED
        ended = self._ended(rows, total, code)
        economy = economy_of_runs(store, self.progress.run_ids)
        self.observer(ended)
        if self._as_json:
            statistics = {**asdict(ended), "economy": plain(economy) if economy else None}
            del statistics["exit_code"]
            documents = [_row_document(row) for row in rows]
            print_json({"definitions": documents, "statistics": statistics})
        console = to_people(self._as_json or self._json_events)
        console.print(campaign_table(rows))
        for note in campaign_notes(rows):
            console.print(note, markup=False, highlight=False, soft_wrap=True)
        waiting = f", waiting {ended.waiting}" if ended.waiting else ""
        console.print(
            f"processed {ended.processed} of {total}, successful {ended.successful}, failed "
            f"{ended.failed}{waiting}, success rate {ended.success_rate:.0f} %; "
            f"{figures.tokens(self.progress.usage)}, {figures.dollars(ended.cost_usd)}",
            highlight=False,
            soft_wrap=True,
        )
        for line in summary_lines(economy):
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _ended(self, rows: list[Row], total: int, code: Exit) -> CampaignEnded:
        solved, waiting = sum(row.solved for row in rows), sum(row.waits for row in rows)
        return CampaignEnded(
            total=total,
            processed=len(rows),
            successful=solved,
            waiting=waiting,
            failed=len(rows) - solved - waiting,
            success_rate=100.0 * solved / len(rows) if rows else 0.0,
            prompt_tokens=self.progress.usage.prompt,
            completion_tokens=self.progress.usage.completion,
            cost_usd=self.progress.cost_usd,
            exit_code=int(code),
        )


def _row_document(row: Row) -> dict[str, Any]:
    evaluation = row.evaluation
    return {
        "definition": row.definition,
        "op_type": row.op_type,
        "outcome": row.outcome,
        "solved": row.solved,
        "file": row.file,
        "message": row.message,
        "seconds": row.seconds,
        "evaluation": plain(evaluation) if evaluation else None,
    }
