"""`kernel-generator optimize --estimate`: what the command would take, and nothing done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from kernel_generator.cli.console import plain, print_json, to_people, to_stderr
from kernel_generator.cli.exits import Exit
from kernel_generator.reporting import figures

if TYPE_CHECKING:
    from flashinfer_bench import TraceSet

    from kernel_generator.domain.budget import Price
    from kernel_generator.domain.task import Task
    from kernel_generator.runs.estimate import Estimate
    from kernel_generator.runs.goal import Goal
    from kernel_generator.runs.journal import KnownRun
    from kernel_generator.runs.precedents import Amount, Count


@dataclass(frozen=True)
class Wanted:
    """What the command was told; None as in `KernelGenerator`."""

    model: str | None
    language: str | None
    target: str | None
    base_url: str | None
    reasoning_effort: str | None
    goal: Goal
    price: Price | None
    max_usd: float | None
    batch: bool
    store: Path


def tell_estimate(chosen: list[tuple[TraceSet, list[str]]], wanted: Wanted, as_json: bool) -> Exit:
    """Print what working on these definitions would take, each set's own. Raises `InvalidInput`
    where the command itself would, but for a key."""
    found = _estimate(chosen, wanted)
    if as_json:
        print_json(plain(found))
        return Exit.SOLVED
    console = to_people()
    console.print(
        f"estimate; nothing was asked or judged: {found.model} writes {found.language} for "
        f"{found.target}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    console.print(_table(found))
    skipped = [f"{name} would be skipped: {why}" for name, why in found.skipped.items()]
    for line in (*skipped, *found.notes):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return Exit.SOLVED


def _estimate(chosen: list[tuple[TraceSet, list[str]]], wanted: Wanted) -> Estimate:
    from kernel_generator.domain.errors import InvalidInput, NoWorkloads
    from kernel_generator.runs.defaults import default_model, resolve_language, resolve_target
    from kernel_generator.runs.estimate import Asking, estimate, replayed
    from kernel_generator.runs.replay import REPLAY
    from kernel_generator.runs.tasks import make_task

    model = wanted.model or default_model()
    known = _known(wanted.store)
    language = wanted.language
    work = [(traceset, name) for traceset, names in chosen for name in names]
    if model.startswith(REPLAY):
        language = replayed(_run(known, model.removeprefix(REPLAY)), [name for _, name in work])
    target = resolve_target(wanted.target)
    language = resolve_language(language, target, model)
    tasks: list[Task] = []
    skipped: dict[str, str] = {}
    for traceset, name in work:
        try:
            tasks.append(make_task(traceset, traceset.definitions[name], target, language))
        except NoWorkloads as error:
            skipped[name] = str(error)
    if not tasks:
        raise InvalidInput("; ".join(skipped.values()))
    asking = Asking(
        model=model,
        goal=wanted.goal,
        base_url=wanted.base_url,
        reasoning_effort=wanted.reasoning_effort,
        price=wanted.price,
        max_usd=wanted.max_usd,
        batch=wanted.batch,
    )
    return estimate(tasks, asking, known, skipped)


def _known(store: Path) -> list[KnownRun]:
    """Earlier runs. No store is made where there is none."""
    from kernel_generator.runs.journal import known_runs
    from kernel_generator.runs.store import Store

    if not store.expanduser().exists():
        return []
    found, problems = known_runs(Store(store))
    for problem in problems:
        to_stderr().print(f"error: {problem}", markup=False, highlight=False, soft_wrap=True)
    return found


def _run(known: list[KnownRun], run_id: str) -> KnownRun:
    from kernel_generator.domain.errors import UnknownName

    by_id = {run.run_id: run for run in known}
    if run_id not in by_id:
        raise UnknownName("run", run_id, list(by_id))
    return by_id[run_id]


def _table(found: Estimate) -> Table:
    table = Table(show_lines=False)
    for name in ("definition", "requests", "prompt tokens", "completion tokens", "cost", "judging"):
        table.add_column(name, overflow="fold")
    rows = [(one.definition, one) for one in found.definitions]
    for name, one in (*rows, ("in sum", found)):
        table.add_row(
            escape(name),
            _count(one.requests),
            _count(one.prompt_tokens),
            _count(one.completion_tokens),
            _dollars(one.cost_usd),
            _seconds(one.judge_s),
        )
    return table


def _count(count: Count) -> str:
    return f"{count.low:,}" if count.low == count.high else f"{count.low:,} to {count.high:,}"


def _dollars(cost: Amount | None) -> str:
    if cost is None:
        return figures.dollars(None)
    low, high = figures.dollars(cost.low), figures.dollars(cost.high)
    return low if low == high else f"{low} to {high}"


def _seconds(time: Amount | None) -> str:
    if time is None:
        return "-"
    low, high = figures.seconds(time.low), figures.seconds(time.high)
    return low if low == high else f"{low} to {high}"
