"""What a run was begun with: enough to go on with it, and to tell what has changed since."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from pydantic import Field

from kernel_generator.domain.errors import InvalidInput
from kernel_generator.domain.evaluation import Record
from kernel_generator.runs.contents import Content, contents
from kernel_generator.runs.goal import Goal

if TYPE_CHECKING:
    from kernel_generator.domain.task import Task

_NAMED = {"axes": "axis", "inputs": "input", "outputs": "output"}
_UNNAMED = {
    "op_type": "the type of operation",
    "constraints": "the list of constraints",
    "tags": "the list of tags",
}
_SAID_ONLY = ("the description", "the list of tags")
"""Parts of a definition that no verdict depends on."""


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
    parts: dict[str, str] = Field(default_factory=dict[str, str])
    """Hashes of what the definition says, by what it is about; none where an older version began
    it."""
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
        before, now = self.fingerprints, fingerprints(task)
        found = self.voiding(task)
        if self.parts:
            found += [f"{part} has changed" for part in self._changed(task) if part in _SAID_ONLY]
        uuids = before.keys() | now.keys()
        for what, some in (("new", uuids - before.keys()), ("gone", uuids - now.keys())):
            found += [f"workload {uuid} is {what}" for uuid in sorted(some)]
        return found

    def voiding(self, task: Task) -> list[str]:
        """Those of the changes after which what was judged before says nothing of what is there
        now."""
        before, now = self.fingerprints, fingerprints(task)
        found: list[str] = []
        if before.get("") != now[""]:
            changed = self._changed(task) if self.parts else ["the definition"]
            found += [f"{part} has changed" for part in changed if part not in _SAID_ONLY]
        kept = before.keys() & now.keys() - {""}
        edited = sorted(uuid for uuid in kept if before[uuid] != now[uuid])
        found += [f"workload {uuid} has changed" for uuid in edited]
        files = contents(task)
        for path in sorted(self.contents.keys() & files.keys()):
            if self.contents[path].differs(files[path]):
                found.append(f"what is in '{path}' has changed")
        return found

    def check_same(self, run_id: str, task: Task) -> None:
        """Raises `InvalidInput` where what was judged says nothing of the task as it is now."""
        if changed := self.voiding(task):
            name, place = self.definition, task.root or "DIR"
            raise InvalidInput(
                f"since run {run_id} began, {', '.join(changed)}: what it judged says nothing of "
                f"'{name}' as it is now; put back what was there, or begin anew: "
                f"kernel-generator optimize {place} -d {name}"
            )

    def _changed(self, task: Task) -> list[str]:
        before, now = self.parts, parts(task)
        names = sorted(before.keys() | now.keys())
        return [name for name in names if before.get(name) != now.get(name)]


def fingerprints(task: Task) -> dict[str, str]:
    """See `RunSettings.fingerprints`."""
    records = {"": task.definition, **{w.uuid: w for w in task.workloads}}
    return {name: _hash(record.model_dump_json()) for name, record in records.items()}


def parts(task: Task) -> dict[str, str]:
    """See `RunSettings.parts`."""
    said = task.definition.model_dump(mode="json")
    found: dict[str, object] = {}
    for name, value in said.items():
        one = _NAMED.get(name)
        if one is None:
            found[_UNNAMED.get(name, f"the {name.replace('_', ' ')}")] = value
        else:
            for key, about in value.items():
                found[f"{one} {key}"] = {k: v for k, v in about.items() if k != "description"}
            # Arguments are in the order in which they are declared.
            found[f"the order of the {name}"] = list(value)
    return {name: _hash(json.dumps(value)) for name, value in found.items()}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
