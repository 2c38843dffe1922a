"""Reads a trace set file by file, so that one bad file costs that file and nothing else.

Never creates or changes anything: `flashinfer_bench.TraceSet.from_path` makes missing folders, and
gives up without a file name on the first malformed one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flashinfer_bench.data import Definition, Solution, Trace, TraceSet
from pydantic import BaseModel, ValidationError

from kernel_generator.domain.errors import TraceSetError, UnknownName

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashinfer_bench.data import Workload

_Record = TypeVar("_Record", bound=BaseModel)


@dataclass(frozen=True)
class Problem:
    """Something in a trace set that was skipped."""

    path: Path
    message: str
    line: int | None = None
    """1-based, in files that hold one record a line."""

    def __str__(self) -> str:
        where = str(self.path) if self.line is None else f"{self.path}:{self.line}"
        return f"{where}: {self.message}"


def load_traceset(path: str | os.PathLike[str]) -> tuple[TraceSet, list[Problem]]:
    """The trace set at `path` and a list of what was skipped and why.

    Raises `TraceSetError` where the path is missing, unreadable or not a trace set.
    """
    root = Path(path).expanduser()
    try:
        if not root.exists():
            raise TraceSetError(f"there is no trace set at '{root}': the path does not exist")
        if not (root / "definitions").is_dir():
            raise TraceSetError(
                f"'{root}' is not a FlashInfer-Bench trace set: it has no definitions/ folder"
            )
        # Searching a folder that may not be read finds nothing, and says nothing of it.
        os.listdir(root / "definitions")  # noqa: PTH208 - iterdir() reads nothing until asked
    except OSError as error:
        raise TraceSetError(f"'{root}' cannot be read: {error.strerror}") from error
    problems: list[Problem] = []
    traceset = TraceSet(
        root=root,
        definitions=_definitions(root, problems),
        solutions=_solutions(root, problems),
    )
    traceset.workloads = _traces(root / "workloads", problems, workloads=True)
    traceset.traces = _traces(root / "traces", problems, workloads=False)
    for name, traces in list(traceset.workloads.items()):
        if name not in traceset.definitions:
            file = root / "workloads" / "**" / f"{name}.jsonl"
            problems.append(
                Problem(file, f"{len(traces)} workloads of '{name}', which has no definition")
            )
            del traceset.workloads[name]
    return traceset, problems


def definition_of(traceset: TraceSet, name: str) -> Definition:
    """The definition of that name. Raises `UnknownName` with the closest ones."""
    if name not in traceset.definitions:
        raise UnknownName("definition", name, sorted(traceset.definitions))
    return traceset.definitions[name]


def workloads_of(traceset: TraceSet, name: str) -> tuple[Workload, ...]:
    """The captured workloads of a definition, in file order."""
    return tuple(trace.workload for trace in traceset.workloads.get(name, []))


def solutions_by_name(traceset: TraceSet) -> dict[str, Solution]:
    """Every solution of the set; names are unique in the whole of it."""
    return {s.name: s for found in traceset.solutions.values() for s in found}


def _definitions(root: Path, problems: list[Problem]) -> dict[str, Definition]:
    found: dict[str, Definition] = {}
    for path in sorted((root / "definitions").rglob("*.json")):
        definition = _read(Definition, path, problems)
        if definition is None:
            continue
        if definition.name in found:
            problems.append(Problem(path, f"a second definition named '{definition.name}'"))
            continue
        found[definition.name] = definition
    return found


def _solutions(root: Path, problems: list[Problem]) -> dict[str, list[Solution]]:
    found: dict[str, list[Solution]] = {}
    homes: dict[str, Path] = {}
    for path in sorted((root / "solutions").rglob("*.json")):
        solution = _read(Solution, path, problems)
        if solution is None:
            continue
        if solution.name in homes:
            problems.append(
                Problem(
                    path,
                    f"a second solution named '{solution.name}' (the first is in "
                    f"{homes[solution.name]}): names must be unique in the whole trace set, or "
                    "flashinfer_bench cannot load it",
                )
            )
            continue
        homes[solution.name] = path
        found.setdefault(solution.definition, []).append(solution)
    return found


def _traces(folder: Path, problems: list[Problem], workloads: bool) -> dict[str, list[Trace]]:
    found: dict[str, list[Trace]] = {}
    seen: set[tuple[str, str]] = set()
    for path in sorted(folder.rglob("*.jsonl")):
        for number, trace in _read_lines(path, problems):
            if trace.is_workload_trace() is not workloads:
                expected = "a workload" if workloads else "an evaluation"
                problems.append(Problem(path, f"this line is not {expected}", number))
                continue
            key = (trace.definition, trace.workload.uuid)
            if workloads and key in seen:
                problems.append(
                    Problem(path, f"a second workload with uuid {trace.workload.uuid}", number)
                )
                continue
            seen.add(key)
            found.setdefault(trace.definition, []).append(trace)
    return found


def _read_lines(path: Path, problems: list[Problem]) -> Iterator[tuple[int, Trace]]:
    text = _text(path, problems)
    # Not splitlines(): JSON strings may hold U+2028 and other characters that it takes for ends.
    for number, line in enumerate((text or "").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, Trace.model_validate_json(line)
        except ValidationError as error:
            problems.append(Problem(path, first_error(error), number))


def _read(kind: type[_Record], path: Path, problems: list[Problem]) -> _Record | None:
    text = _text(path, problems)
    if text is None:
        return None
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        problems.append(Problem(path, first_error(error)))
        return None


def _text(path: Path, problems: list[Problem]) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        problems.append(Problem(path, f"cannot be read: {error.strerror}"))
    except UnicodeDecodeError as error:
        problems.append(
            Problem(path, f"is not UTF-8 text: {error.reason} (byte {error.start + 1})")
        )
    return None


def first_error(error: ValidationError) -> str:
    """The first thing wrong with a record, with the field it is about."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
