"""Tables for a terminal: results of a campaign, one evaluation, a trace set's contents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from kernel_generator.reporting import figures

if TYPE_CHECKING:
    from flashinfer_bench import TraceSet

    from kernel_generator.domain.evaluation import Evaluation

_SHOWN_AXES = 60


WAITING = "WAITING"
"""What became of a definition whose model is asked elsewhere."""


@dataclass(frozen=True)
class Row:
    """What became of one definition in a campaign."""

    definition: str
    op_type: str
    outcome: str
    """An outcome's name, or 'SKIPPED', 'FAILED', 'WAITING' or 'INTERRUPTED'."""
    evaluation: Evaluation | None = None
    file: str | None = None
    """Where the result was saved."""
    message: str = ""
    seconds: float = 0.0

    @property
    def solved(self) -> bool:
        """True where a result was saved."""
        return self.file is not None

    @property
    def waits(self) -> bool:
        """True where the model is asked elsewhere and has not answered."""
        return self.outcome == WAITING


def campaign_table(rows: list[Row]) -> Table:
    """Definition, outcome, speedup, file: the closing table of `optimize`."""
    table = Table(title=None, show_lines=False)
    table.add_column("definition", overflow="fold")
    table.add_column("outcome")
    table.add_column("speedup", overflow="fold")
    table.add_column("file", overflow="fold")
    for row in rows:
        speedup = figures.comparison(row.evaluation) if row.evaluation is not None else "-"
        table.add_row(
            escape(row.definition), row.outcome, speedup, escape(row.file or row.message or "-")
        )
    return table


def campaign_notes(rows: list[Row]) -> list[str]:
    """What has to be known of a result that the table has no room for, a sentence each."""
    return [
        f"{row.definition}: {note}"
        for row in rows
        if row.evaluation is not None and row.evaluation.outcome.is_result
        for note in (
            row.evaluation.message.strip(),
            *figures.notes(row.evaluation),
        )
        if note
    ]


def evaluation_table(evaluation: Evaluation) -> Table:
    """One line a workload."""
    table = Table(show_lines=False)
    for name in ("workload", "outcome", "time", "call", "reference", "speedup", "floor"):
        table.add_column(name, overflow="fold")
    for record in evaluation.workloads:
        timing = record.timing
        table.add_row(
            escape(", ".join(f"{k}={v}" for k, v in record.axes.items())[:_SHOWN_AXES]),
            record.outcome.value,
            figures.device_time(timing),
            figures.microseconds(timing.call_us.value) if timing and timing.call_us else "-",
            figures.device_time(record.baselines.get("reference")),
            figures.times(record.speedups.get("reference")),
            figures.microseconds(record.floors.shown_us)
            if record.floors.shown_us is not None
            else "-",
        )
    return table


def contents_table(traceset: TraceSet) -> Table:
    """What a trace set holds."""
    table = Table(show_lines=False)
    for name in ("definition", "type", "workloads", "solutions", "traces"):
        table.add_column(name, overflow="fold", justify="left" if name != "workloads" else "right")
    for name, definition in sorted(traceset.definitions.items()):
        table.add_row(
            escape(name),
            escape(definition.op_type),
            str(len(traceset.workloads.get(name, []))),
            str(len(traceset.solutions.get(name, []))),
            str(len(traceset.traces.get(name, []))),
        )
    return table
