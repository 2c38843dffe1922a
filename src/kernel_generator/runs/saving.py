"""Writes results into a trace set: never overwriting, never half a file, names unique in the set.

A file is written under another name first and linked to its final one, which the file system
refuses where that exists already; so two programs can save into one trace set.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from flashinfer_bench.data import (
    Correctness,
    Environment,
    EvaluationStatus,
    Performance,
    Solution,
    Trace,
)
from flashinfer_bench.data import Evaluation as ExportedEvaluation
from pydantic import TypeAdapter

from kernel_generator.domain.conversation import Reply
from kernel_generator.domain.errors import SaveFailed, TraceSetError
from kernel_generator.domain.outcome import Outcome
from kernel_generator.runs.tracesets import definition_of

if TYPE_CHECKING:
    from collections.abc import Container, Generator, Sequence

    from flashinfer_bench import Definition, TraceSet
    from pydantic import BaseModel

    from kernel_generator.domain.evaluation import Evaluation, WorkloadEvaluation

_MAX_FILES = 100_000
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def slug(text: str) -> str:
    """`text` as a file or solution name: letters, digits, '.', '_' and '-' only."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "unnamed"


def writable_root(traceset: TraceSet) -> Path:
    """The trace set's root. Raises `TraceSetError` where results could not be saved."""
    if traceset.root is None:
        raise TraceSetError("this trace set has no folder: load one with load_traceset(path)")
    folder = traceset.root / "solutions"
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise TraceSetError(
            f"'{folder}' is not writable, so no result could be saved there: "
            "use a copy of the trace set"
        )
    return traceset.root


def save_solution(
    solution: Solution, traceset: TraceSet, evaluation: Evaluation | None, *, once: bool = False
) -> tuple[Path, Solution]:
    """Write the solution, and its evaluation as traces where it was measured.

    Returns the path and the solution as written: its name gets a number where the trace set has
    it already. `once`: the name is the solution's own, and where the set has exactly this one
    already, it is the result of before, and only traces that are missing are added. Raises
    `SaveFailed`, `TraceSetError`.
    """
    root = writable_root(traceset)
    definition = traceset.definitions.get(solution.definition)
    if definition is None:
        raise TraceSetError(f"the trace set at '{root}' has no definition '{solution.definition}'")
    folder = root / "solutions" / slug(definition.op_type) / slug(definition.name)
    file = trace_file(root, definition)
    try:
        with lock_of(root):
            homes = homes_below(root / "solutions")
            before = homes.get(solution.name) if once else None
            if before is not None and holds(before, solution):
                path, written = before, solution
            else:
                before, written = None, _with_free_name(solution, homes)
                path = _claim(folder, f"{slug(solution.author)}_optimized_solution", written)
            try:
                traces = missing_traces(file, traces_of(written, traceset, evaluation))
                append_traces(file, traces)
            except OSError:
                # All or nothing: whoever saves it again must not find half of it here.
                if before is None:
                    path.unlink()
                raise
    except OSError as error:
        raise SaveFailed(f"the solution could not be written below {folder}: {error}") from error
    # TraceSet has no method to add a solution; without this its get_solution would not find it.
    by_name = traceset._solution_by_name  # pyright: ignore[reportPrivateUsage]
    if before is None or written.name not in by_name:
        traceset.solutions.setdefault(definition.name, []).append(written)
        by_name[written.name] = written
    traceset.traces.setdefault(definition.name, []).extend(traces)
    return path, written


def check_known(solution: Solution, traceset: TraceSet) -> None:
    """Raises `TraceSetError` where the set has no solution of that name, sources and build."""
    for known in traceset.solutions.get(solution.definition, []):
        if known.name == solution.name:
            if known.sources == solution.sources and known.spec == solution.spec:
                return
            raise TraceSetError(
                f"the trace set's solution '{solution.name}' is another one: traces are kept only "
                "for solutions as the set holds them"
            )
    raise TraceSetError(
        f"the trace set has no solution '{solution.name}', so its traces would be nobody's: save "
        "the solution there first"
    )


def save_traces(solution: Solution, traceset: TraceSet, evaluation: Evaluation) -> int:
    """Append the measured workloads of a solution that the trace set has; how many there were.

    Raises `SaveFailed`, and `InvalidInput` where the trace set has no such solution.
    """
    root = writable_root(traceset)
    check_known(solution, traceset)
    definition = definition_of(traceset, solution.definition)
    traces = traces_of(solution, traceset, evaluation)
    file = trace_file(root, definition)
    try:
        with lock_of(root):
            append_traces(file, traces)
    except OSError as error:
        raise SaveFailed(f"the traces could not be written to {file}: {error}") from error
    traceset.traces.setdefault(definition.name, []).extend(traces)
    return len(traces)


def rescue_solution(solution: Solution) -> Path:
    """Write a solution that could not be saved to the temporary folder, so that it is not lost.

    Raises `SaveFailed`.
    """
    try:
        return _claim(Path(tempfile.gettempdir()), f"rescued_{slug(solution.name)}", solution)
    except OSError as error:
        raise SaveFailed(f"nor could it be written to the temporary folder: {error}") from error


def rescue_reply(reply: Reply, run_id: str, number: int) -> Path:
    """Write the reply of a run's round, which could not be noted, to the temporary folder; the
    path written. Raises `SaveFailed`.
    """
    path = Path(tempfile.gettempdir()) / f"rescued_reply_{slug(run_id)}_r{number}.json"
    try:
        # In ASCII: what is not UTF-8 stays what it is.
        replace_file(path, json.dumps(TypeAdapter(Reply).dump_python(reply, mode="json")))
    except OSError as error:
        raise SaveFailed(f"nor could it be written to the temporary folder: {error}") from error
    return path


def lock_of(root: Path) -> FileLock:
    """Held while a trace set is written to. One a trace set and user, outside of it: it has no
    business in the user's data.

    Linux lets nobody open another user's file in a shared temporary folder for writing; between
    users, unique names and exclusive links have to do.
    """
    key = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    return FileLock(Path(tempfile.gettempdir()) / f"kernel-generator-{os.getuid()}-{key}.lock")


def homes_below(folder: Path) -> dict[str, Path]:
    """The JSON files below a folder, by the name of the record in each; those of none left out."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            found.setdefault(str(json.loads(path.read_text(encoding="utf-8"))["name"]), path)
    return found


def holds(path: Path, record: BaseModel) -> bool:
    """Whether a file holds exactly this record, however it is written down."""
    try:
        known = type(record).model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return known.model_dump() == record.model_dump()


def missing_traces(path: Path, traces: Sequence[Trace]) -> list[Trace]:
    """Those that a file of traces does not have. Raises `OSError`."""
    known: set[str] = set()
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            with contextlib.suppress(ValueError):
                known.add(_canonical(line))
    return [trace for trace in traces if _canonical(trace.model_dump_json()) not in known]


def _canonical(line: str) -> str:
    return json.dumps(json.loads(line), sort_keys=True)


def _with_free_name(solution: Solution, taken: Container[str]) -> Solution:
    if solution.name not in taken:
        return solution
    number = next(n for n in range(2, _MAX_FILES) if f"{solution.name}_{n}" not in taken)
    # The frozen model's hash is computed on validation, so a copy has to be validated anew.
    return type(solution).model_validate(
        solution.model_dump() | {"name": f"{solution.name}_{number}"}
    )


def _claim(folder: Path, stem: str, solution: Solution) -> Path:
    with _written(folder, solution.model_dump_json(indent=2)) as temporary:
        for number in range(1, _MAX_FILES):
            path = folder / f"{stem}_{number}.json"
            with contextlib.suppress(FileExistsError):
                _link(temporary, path)
                return path
        raise FileExistsError(f"{_MAX_FILES} files named {stem}_*.json")


def create_file(path: Path, text: str) -> None:
    """Write a new file, whole or not at all. Raises `FileExistsError` and other `OSError`."""
    with _written(path.parent, text) as temporary:
        _link(temporary, path)


def replace_file(path: Path, text: str) -> None:
    """Write a file, whole or not at all, in the place of what was there. Raises `OSError`."""
    with _written(path.parent, text) as temporary:
        Path(temporary).replace(path)


@contextlib.contextmanager
def _written(folder: Path, text: str) -> Generator[str]:
    """A file of no name yet; it is gone afterwards where it got none."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".writing-", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        yield temporary
    finally:
        Path(temporary).unlink(missing_ok=True)


def _link(temporary: str, path: Path) -> None:
    """Give the file its name. Raises `FileExistsError` where that is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # Some file systems have one name a file: the name is claimed first, empty.
        path.touch(exist_ok=False)
        Path(temporary).replace(path)


def trace_file(root: Path, definition: Definition) -> Path:
    """Where the traces of a definition are."""
    return root / "traces" / slug(definition.op_type) / f"{slug(definition.name)}.jsonl"


def append_traces(path: Path, traces: Sequence[Trace]) -> None:
    """Append to a file of traces, all or none. Raises `OSError`."""
    if not traces:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(trace.model_dump_json() + "\n" for trace in traces)
    # Unbuffered: what could not be written must not be written once more on closing.
    with path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                lines = "\n" + lines
        try:
            left = memoryview(lines.encode())
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            if not size:
                path.unlink()
            raise


def traces_of(solution: Solution, traceset: TraceSet, evaluation: Evaluation | None) -> list[Trace]:
    """The measured workloads that the trace set has, as FlashInfer-Bench records them."""
    if evaluation is None or evaluation.outcome is not Outcome.PASSED:
        return []
    known = traceset.workloads.get(solution.definition, [])
    workloads = {t.workload.uuid: t.workload for t in known}
    traces: list[Trace] = []
    for record in evaluation.workloads:
        workload = workloads.get(record.uuid)
        exported = _exported(record, evaluation)
        if workload is not None and exported is not None:
            traces.append(
                Trace(
                    definition=solution.definition,
                    workload=workload,
                    solution=solution.name,
                    evaluation=exported,
                )
            )
    return traces


def _exported(record: WorkloadEvaluation, evaluation: Evaluation) -> ExportedEvaluation | None:
    """One measured workload as FlashInfer-Bench records it; None where it was not measured."""
    reference = record.baselines.get("reference")
    status = record.outcome.exported_status
    if (
        status is None
        # Figures on inputs that nobody captured are no trace of the workload.
        or record.synthetic
        or record.timing is None
        or record.timing.device_us is None
        or reference is None
        or reference.device_us is None
        or evaluation.device is None
    ):
        return None
    return ExportedEvaluation(
        status=EvaluationStatus(status),
        environment=Environment(
            hardware=evaluation.device.name, libs=dict(evaluation.device.libraries)
        ),
        timestamp=evaluation.timestamp,
        log="",
        correctness=Correctness(
            max_absolute_error=record.max_absolute_error or 0.0,
            max_relative_error=record.max_relative_error or 0.0,
        ),
        performance=Performance(
            latency_ms=record.timing.device_us.value / 1e3,
            reference_latency_ms=reference.device_us.value / 1e3,
            speedup_factor=record.speedups["reference"].value,
        ),
    )
