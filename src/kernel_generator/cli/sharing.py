"""`kernel-generator export` and `import`: runs that go from one machine to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kernel_generator.cli.console import to_stderr
from kernel_generator.cli.options import StoreOption, at_store

if TYPE_CHECKING:
    from flashinfer_bench import TraceSet

    from kernel_generator.runs.journal import KnownRun

_NOT_HERE = "the run's trace set is not here; name its place with --traceset DIR"


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's id, as `runs` lists it.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files are written.")],
    traceset: Annotated[
        Path | None,
        typer.Option(
            "--traceset",
            metavar="DIR",
            help="Where the run's trace set is now, if it was moved.",
            show_default=False,
        ),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Write a run as a bundle for `import`, and what passed as files of a trace set."""
    from kernel_generator.runs.journal import known_run
    from kernel_generator.runs.results import task_of
    from kernel_generator.runs.sharing import export_run
    from kernel_generator.runs.store import Store

    kept = Store(store)
    known = known_run(kept, run)
    found, why = _traceset(known, traceset), _NOT_HERE
    if found is not None and (changed := known.settings.voiding(task_of(known, found))):
        found, why = None, f"since the run began, {', '.join(changed)}"
    for path in export_run(kept, run, folder, found):
        print(path)
    if found is None:
        _tell(f"no traces: {why}")


def import_bundle(
    bundle: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote.")],
    store: StoreOption = None,
) -> None:
    """Take in a run from another machine; `show` and `resume` know it then."""
    from kernel_generator.runs.sharing import import_run
    from kernel_generator.runs.store import Store

    run, is_new = import_run(Store(store), bundle)
    print(run.run_id)
    if not is_new:
        _tell(f"run {run.run_id} was known already")
    _tell(f"{run.settings.definition}: {len(run.history.attempts)} attempts; {run.state}")
    if not run.is_over:
        go_on = f"kernel-generator resume {run.run_id} --traceset DIR{at_store(store)}"
        _tell(f"to go on: {go_on}")
    if run.history.best is not None and run.history.is_elsewheres(run.history.best):
        _tell("what passed there is judged again here before it is saved")


def _traceset(run: KnownRun, moved: Path | None) -> TraceSet | None:
    """None where nobody named it and it is not where it was. Raises `InvalidInput`."""
    from kernel_generator.domain.errors import TraceSetError
    from kernel_generator.runs.tracesets import definition_of, load_traceset

    path = moved or run.settings.traceset
    if path is None:
        return None
    try:
        found, _ = load_traceset(path)
        definition_of(found, run.settings.definition)
    except TraceSetError:
        if moved is None:
            return None
        raise
    return found


def _tell(line: str) -> None:
    to_stderr().print(line, markup=False, highlight=False, soft_wrap=True)
