"""A run as a file that another machine takes in, and its results as files of a trace set."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from kernel_generator.domain.errors import InvalidInput
from kernel_generator.runs.bundle import Bundle
from kernel_generator.runs.journal import known_run, read_run
from kernel_generator.runs.saving import slug, traces_of
from kernel_generator.runs.store import StoredEvent, StoredRun

if TYPE_CHECKING:
    from flashinfer_bench import TraceSet

    from kernel_generator.runs.journal import KnownRun
    from kernel_generator.runs.store import Store

_MOST_BYTES = 1 << 30
_STRICT = "strict"


def export_run(store: Store, run_id: str, folder: Path, traceset: TraceSet | None) -> list[Path]:
    """Write a run's bundle and every candidate that passed; with its trace set also the definition
    and the traces, so that the folder is a trace set itself. The paths written.

    Raises `UnknownName`, `StoreError`, and `InvalidInput` where a file cannot be written.
    """
    run = known_run(store, run_id)
    contents = {folder / f"{run_id}.bundle.json": store.bundled(run_id).model_dump_json()}
    contents |= _results(run, folder, traceset)
    try:
        for path, text in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, text)
    except OSError as error:
        raise InvalidInput(f"'{folder}' cannot be written: {error.strerror}") from error
    return list(contents)


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
    run = read_run(StoredRun(bundle.run_id, bundle.began, settings), _unpacked(bundle))
    with store.working_on(bundle.run_id):
        is_new = store.take_in(bundle)
    return run if is_new else known_run(store, run.run_id), is_new


def _results(run: KnownRun, folder: Path, traceset: TraceSet | None) -> dict[Path, str]:
    name = run.settings.definition
    found: dict[Path, str] = {}
    lines: list[str] = []
    for attempt in run.history.attempts:
        if attempt.candidate is None or not attempt.outcome.is_result:
            continue
        solution = attempt.candidate.solution
        path = folder / "solutions" / slug(name) / f"{slug(solution.name)}.json"
        found[path] = solution.model_dump_json(indent=2)
        if traceset is not None:
            traces = traces_of(solution, traceset, attempt.evaluation)
            lines += [trace.model_dump_json() + "\n" for trace in traces]
    definition = traceset.definitions.get(name) if traceset is not None else None
    if definition is not None:
        path = folder / "definitions" / slug(definition.op_type) / f"{slug(name)}.json"
        found[path] = definition.model_dump_json(indent=2)
        if lines:
            path = folder / "traces" / slug(definition.op_type) / f"{slug(name)}.jsonl"
            found[path] = "".join(lines)
    return found


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


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
