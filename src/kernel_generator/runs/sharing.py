"""A run as a file that another machine takes in, and its results as files of a trace set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from kernel_generator.domain.errors import InvalidInput
from kernel_generator.runs import saving
from kernel_generator.runs.bundle import Bundle
from kernel_generator.runs.journal import known_run, read_run
from kernel_generator.runs.results import task_of
from kernel_generator.runs.saving import slug
from kernel_generator.runs.store import StoredEvent, StoredRun

if TYPE_CHECKING:
    from pathlib import Path

    from flashinfer_bench import Definition, Solution, Trace, TraceSet

    from kernel_generator.runs.journal import KnownRun
    from kernel_generator.runs.store import Store

_MOST_BYTES = 1 << 30
_STRICT = "strict"


def export_run(store: Store, run_id: str, folder: Path, traceset: TraceSet | None) -> list[Path]:
    """Write a run's bundle and every candidate that passed; with its trace set also the definition
    and the traces, so that the folder is a trace set itself. The paths that hold them.

    What the folder has already stays as it is: traces are added to those of before, once each, and
    only a bundle of the same run is replaced. Raises `UnknownName`, `StoreError`, and
    `InvalidInput` where the folder has another definition or solution of a name or the trace set is
    not what the run was judged on, before anything is written, or where a file cannot be written.
    """
    run = known_run(store, run_id)
    if traceset is not None:
        run.settings.check_same(run_id, task_of(run, traceset))
    bundle = folder / f"{run_id}.bundle.json"
    document = store.bundled(run_id).dumped()
    results = _results(run, traceset)
    made: list[Path] = []
    try:
        with saving.lock_of(folder):
            homes = _homes(folder, results)
            try:
                for path, record in homes.items():
                    if not path.exists():
                        saving.create_file(path, record.model_dump_json(indent=2))
                        made.append(path)
                is_new = not bundle.exists()
                saving.replace_file(bundle, document)
                made += [bundle] if is_new else []
                return [bundle, *homes, *_trace(folder, results)]
            except OSError:
                for path in made:
                    path.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise InvalidInput(f"'{folder}' cannot be written: {error.strerror}") from error


def import_run(store: Store, path: Path) -> tuple[KnownRun, bool]:
    """Take in a run from a bundle. False where the store had all of it already; where it had the
    beginning, the rest is added.

    What comes from elsewhere is judged in full isolation, whatever it was judged in there. Raises
    `InvalidInput` where the file is no bundle or was altered, `RunBusy`, and `StoreError`.
    """
    bundle = _read(path)
    settings = bundle.settings | {"isolation": _STRICT}
    bundle = bundle.model_copy(update={"settings": settings})
    # Nothing is kept that could not be read again.
    read_run(StoredRun(bundle.run_id, bundle.began, settings), _unpacked(bundle))
    with store.working_on(bundle.run_id):
        is_new = store.take_in(bundle)
    return known_run(store, bundle.run_id), is_new


@dataclass(frozen=True)
class _Results:
    """What came of a run."""

    solutions: tuple[Solution, ...]
    definition: Definition | None
    """None where the trace set is not here."""
    traces: tuple[Trace, ...]


def _results(run: KnownRun, traceset: TraceSet | None) -> _Results:
    passed = [
        (attempt.candidate.solution, attempt.evaluation)
        for attempt in run.history.attempts
        if attempt.candidate is not None
        and attempt.outcome.is_result
        # Another store's word makes no result here.
        and not run.history.is_elsewheres(attempt)
    ]
    solutions = tuple(solution for solution, _ in passed)
    if traceset is None:
        return _Results(solutions, None, ())
    traces = [t for one, verdict in passed for t in saving.traces_of(one, traceset, verdict)]
    definition = traceset.definitions.get(run.settings.definition)
    return _Results(solutions, definition, tuple(traces))


def _homes(folder: Path, results: _Results) -> dict[Path, Definition | Solution]:
    """The file of each record: the one that holds it already, else where a new one is to be.

    Raises `InvalidInput` where a file of that name holds something else.
    """
    homes: dict[Path, Definition | Solution] = {}
    solved = saving.homes_below(folder / "solutions")
    for one in results.solutions:
        usual = folder / "solutions" / slug(one.definition) / f"{slug(one.name)}.json"
        homes[solved.get(one.name, usual)] = one
    if (definition := results.definition) is not None:
        known = saving.homes_below(folder / "definitions")
        usual = folder / "definitions" / slug(definition.op_type) / f"{slug(definition.name)}.json"
        homes[known.get(definition.name, usual)] = definition
    for path, record in homes.items():
        if path.exists() and not saving.holds(path, record):
            raise InvalidInput(
                f"'{path}' holds another {type(record).__name__.lower()} than the run's "
                f"'{record.name}': export it into another folder"
            )
    return homes


def _trace(folder: Path, results: _Results) -> list[Path]:
    """Add the traces that the folder does not have; the file of them."""
    if results.definition is None or not results.traces:
        return []
    path = saving.trace_file(folder, results.definition)
    saving.append_traces(path, saving.missing_traces(path, results.traces))
    return [path]


def _read(path: Path) -> Bundle:
    try:
        if not path.is_file():
            raise InvalidInput(f"there is no file '{path}'")
        if path.stat().st_size > _MOST_BYTES:
            raise InvalidInput(f"'{path}' is larger than {_MOST_BYTES >> 30} GiB")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"'{path}' cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"'{path}' is no JSON: it is cut off, or no bundle of a run") from error
    try:
        bundle = Bundle.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][:3])
        raise InvalidInput(f"'{path}' is no bundle of a run: {place}: {first['msg']}") from error
    if bundle.problem:
        raise InvalidInput(f"'{path}' is damaged: {bundle.problem}")
    return bundle


def _unpacked(bundle: Bundle) -> list[StoredEvent]:
    found: list[StoredEvent] = []
    for number, event in enumerate(bundle.events, start=1):
        document = dict(event.document)
        texts = {name: json.loads(bundle.texts[key]) for name, key in document.pop("texts").items()}
        found.append(StoredEvent(number, event.at, event.kind, document | texts))
    return found
