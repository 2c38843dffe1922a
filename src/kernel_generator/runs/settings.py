"""What a run was begun with: enough to go on with it, and to tell what has changed since."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from pydantic import Field

from kernel_generator.domain.errors import InvalidInput
from kernel_generator.domain.evaluation import Record
from kernel_generator.runs.contents import Content, contents
from kernel_generator.runs.goal import Goal

if TYPE_CHECKING:
    from kernel_generator.domain.task import Task


class Allowance(Record):
    """What all runs of one command may spend together; see `Budget` and `Price`."""

    command: str
    """The same in all of its runs, and in no others."""
    usd: float | None = None
    tokens: int | None = None
    device_s: float | None = None
    wall_s: float | None = None
    price: tuple[float, float] | None = None
    """As it was stated: dollars per million tokens of prompt and of completion."""


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
    allowance: Allowance | None = None
    """None where nothing was limited, or an older version began it."""
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

    def check(self, run_id: str, now: RunSettings) -> None:
        """Raises `InvalidInput` where the run would go on with something else."""
        for what in ("definition", "model", "language", "target"):
            before, after = getattr(self, what), getattr(now, what)
            if before != after:
                raise InvalidInput(f"run {run_id} was begun with {what} '{before}', not '{after}'")

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
