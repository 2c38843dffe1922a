"""`KernelGenerator`, the public face: definitions in, solutions out.

Everything returned is a `flashinfer_bench.Solution`; a failed kernel is never returned as a result.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_generator.domain.conversation import Sampling
from kernel_generator.domain.errors import (
    InvalidInput,
    KernelGeneratorError,
    NoPassingSolution,
    StoreError,
)
from kernel_generator.domain.events import Notice, Saved
from kernel_generator.domain.task import Task
from kernel_generator.domain.version import VERSION
from kernel_generator.evaluation.devices import DevicePool
from kernel_generator.evaluation.toolchain import check_target, find_toolchain
from kernel_generator.evaluation.workloads import split_workloads
from kernel_generator.models.builtin import BUILTIN_COMPILER
from kernel_generator.models.credentials import base_url_of, batch_share_of
from kernel_generator.models.offline import OFFLINE, BatchedModel, OfflineModel
from kernel_generator.models.open_model import open_model
from kernel_generator.models.price import is_priced
from kernel_generator.runs import saving
from kernel_generator.runs.author import Author
from kernel_generator.runs.blocking import run_blocking
from kernel_generator.runs.contents import contents
from kernel_generator.runs.defaults import (
    asks_a_provider,
    default_model,
    embedded_notice,
    judge_of,
    resolve_language,
    resolve_target,
)
from kernel_generator.runs.engine import Run
from kernel_generator.runs.generated import GeneratedSolution
from kernel_generator.runs.goal import Goal, check_goal
from kernel_generator.runs.journal import Journal, known_run, note_saved
from kernel_generator.runs.observers import watched
from kernel_generator.runs.replay import REPLAY, ReplayModel
from kernel_generator.runs.results import saved_before, solution_of, why_none
from kernel_generator.runs.samples import Samples
from kernel_generator.runs.settings import RunSettings, fingerprints, parts
from kernel_generator.runs.spending import Spending
from kernel_generator.runs.store import Store
from kernel_generator.runs.tasks import make_task
from kernel_generator.search.refine import Refine

if TYPE_CHECKING:
    import os
    from collections.abc import Generator, Sequence

    from flashinfer_bench import Definition, Solution, TraceSet, Workload

    from kernel_generator.domain.budget import Budget, Price
    from kernel_generator.domain.events import Observer
    from kernel_generator.domain.target import Target
    from kernel_generator.evaluation.judge import Judge, Limits
    from kernel_generator.models.protocol import LanguageModel
    from kernel_generator.runs.journal import KnownRun


AT_ONCE = 32
"""Definitions worked on at a time for each device, where nobody says."""


class KernelGenerator:
    """Asks a language model for kernels and judges what it writes. Several runs may share one.

    Parameters
    ----------
    model_name
        'gpt-5', 'claude-opus-4-1', 'gemini-2.5-pro', any name an endpoint knows,
        'builtin:compiler' (the default where neither a model nor a key is given), 'offline' (asked
        elsewhere, by files), or 'replay:RUN' (answers as in a stored run).
    language
        'triton', 'cuda', 'cpp' or 'python'. None: Triton for GPU targets, C++ for the CPU, Python
        for the embedded model.
    target_gpu
        'H100', 'H200', 'B200', 'A100', 'V100', 'L40S', 'RTX4090' or 'CPU'. None: the GPU of this
        machine, else the CPU.
    api_key, base_url
        None: from the environment or `.env`; see the README on which key goes where.
    reasoning_effort
        Passed on to models that accept it.
    dialect
        'chat' or 'responses', where the table of known models is wrong about an endpoint.
    model
        A `LanguageModel` to ask instead of opening one by name.
    on_event
        Called with every event of every run. One that raises is told of once, with its traceback
        (by `logging`), and not called again; the run goes on.
    limits
        How long each step of a candidate may take.
    isolation
        'strict' (namespaces, an allow-list of files, no network, bounds), or 'process' (a process
        that can do what you can do).
    store
        File in which each step of an `optimized_generate` is kept before the next one acts, so that
        a run which was stopped can go on; made where it is missing. A `Store` is shared with the
        other generators that were given it. None: nothing is kept.
    budget
        What all `optimized_generate` runs together may spend; the wall clock runs from here. A run
        that it ends keeps what had passed, and can go on later. A `Spending` is shared with the
        other generators that were given it.
    price
        Of a token, where no table knows it; a `Spending` brings its own.
    judge
        Who judges, where several generators share devices; `limits` and `isolation` are then its
        own. None: this machine's device.
    batch
        Requests are stored alone, and the run raises `ReplyPending`: `kernel-generator resume`
        hands those of all runs in as one batch, and goes on once it is answered.

    Raises
    ------
    InvalidInput
        `UnknownName`, `MissingKey`, `UnsupportedTarget` and the like, before anything is asked.
    StoreError
        The store cannot be used.
    """

    def __init__(
        self,
        model_name: str | None = None,
        language: str | None = None,
        target_gpu: str | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        reasoning_effort: str | None = None,
        *,
        dialect: str | None = None,
        model: LanguageModel | None = None,
        on_event: Observer | None = None,
        limits: Limits | None = None,
        isolation: str = "strict",
        store: str | os.PathLike[str] | Store | None = None,
        budget: Budget | Spending | None = None,
        price: Price | None = None,
        judge: Judge | None = None,
        batch: bool = False,
    ) -> None:
        self.target: Target = resolve_target(target_gpu)
        nobody_asked, opened_by_name = model is None and model_name is None, model is None
        if store is not None and not isinstance(store, Store):
            store = Store(Path(store))
        self._store = store
        if model is None and model_name is not None and model_name.startswith(REPLAY):
            model = self._replayed(model_name.removeprefix(REPLAY))
            language = language or model.language
        elif model is None and batch:
            model = BatchedModel(model_name or default_model(api_key))
        elif model is None:
            name = model_name or default_model(api_key)
            model = open_model(
                name,
                api_key=api_key,
                base_url=base_url,
                dialect=dialect,
                reasoning_effort=reasoning_effort,
            )
        self.model_name: str = model.name
        self.language: str = resolve_language(language, self.target, model.name)
        if isinstance(budget, Spending) and price is not None:
            raise InvalidInput("a shared Spending has its own price: Spending(budget, price)")
        self.spending = budget if isinstance(budget, Spending) else Spending(budget, price)
        """What was spent so far."""
        if opened_by_name and asks_a_provider(model.name):
            is_known = is_priced(model.name, base_url_of(model.name, base_url=base_url))
            if batch:
                is_known &= batch_share_of(model.name, base_url=base_url) is not None
            self.spending.check_price(model.name, is_known)
        self._author = Author(model, Sampling(reasoning_effort=reasoning_effort))
        self._tell = watched(on_event)
        self._judge: Judge = judge or judge_of(target_gpu, isolation, limits)
        self._isolation, self._dialect = isolation, dialect
        if isinstance(model, OfflineModel) and self._store is None:
            raise InvalidInput(
                f"{_asker(model)} is for optimize alone, and keeps its requests in a store: "
                "name one"
            )
        # A target that the toolchain cannot serve is said before anyone pays for a reply.
        self.notices: list[str] = check_target(self.target, self.language, find_toolchain())
        """What to know before believing or paying: each run tells these as `Notice` events."""
        if nobody_asked:
            self.notices.insert(0, embedded_notice())
        self._running = 0
        self.interrupted: list[GeneratedSolution] = []
        """What runs that were interrupted had: the best result of an `optimized_generate`, the
        solutions read by a `generate`. Emptied when a run starts while no other is under way."""

    def _replayed(self, run_id: str) -> ReplayModel:
        if self._store is None:
            raise InvalidInput("a stored run is replayed from its store: name one")
        return ReplayModel(known_run(self._store, run_id))

    # -- generating without evaluating ----------------------------------------------------------

    def generate(
        self, definition: Definition, pass_k: int = 1, *, workloads: Sequence[Workload] = ()
    ) -> list[GeneratedSolution]:
        """`pass_k` independently sampled solutions, asked concurrently and not evaluated.

        Raises `InvalidInput`, `ProviderError`, and `IncompleteGeneration` (which carries the
        readable ones, and whose `__cause__` is the provider's error where that was the reason)
        where a sample gave no readable reply in `READING_TRIES` tries. Interrupted, what was read
        is left in `interrupted`.
        """
        return run_blocking(self.generate_async(definition, pass_k, workloads=workloads))

    async def generate_async(
        self, definition: Definition, pass_k: int = 1, *, workloads: Sequence[Workload] = ()
    ) -> list[GeneratedSolution]:
        """See `generate`."""
        if isinstance(self._author.model, OfflineModel):
            asker = _asker(self._author.model)
            raise InvalidInput(f"independent samples are not kept: {asker} is for optimize alone")
        if pass_k < 1:
            raise InvalidInput(f"pass_k is {pass_k}: ask for at least 1 solution")
        searched, held_out = split_workloads(definition, workloads)
        task = Task(definition, searched, held_out, self.target, self.language)
        samples = Samples(task, self._author, self._tell)
        with self._under_way():
            async with self._author.at_work():
                try:
                    return await samples.ask(pass_k)
                except BaseException as error:
                    # Errors of ours carry what was read; nothing else does.
                    if not isinstance(error, KernelGeneratorError):
                        self.interrupted += samples.solutions
                    raise

    # -- the loop -------------------------------------------------------------------------------

    def optimized_generate(
        self,
        *,
        traceset: TraceSet,
        definition: Definition,
        rounds: int = 5,
        keep_improving: bool = False,
        target_speedup: float | None = None,
        run_id: str | None = None,
    ) -> GeneratedSolution:
        """The first version that passes on all workloads, or the best one.

        With `keep_improving` or a `target_speedup` (over the reference) the remaining rounds are
        used and the best version is returned. `solution.evaluation` holds the figures, the
        comparison with `torch.compile` among them.

        `run_id` names a run of the store that is to go on, with the goal that it was begun with:
        what it was answered is not asked for again, and what was judged is not judged again. Where
        what it was judged on has changed since, `InvalidInput` says what.

        Raises `NoPassingSolution` (with every attempt) where nothing passed, `NoWorkloads`,
        `ReferenceFailed` and other `InvalidInput` before anything is asked, and `ProviderError`
        (with the attempts made until then) where the provider gave up before anything passed;
        `UnknownName` and `RunBusy` for a `run_id` that is not in the store or is being worked on.
        Interrupted, or stopped by anything else, the best version so far is left in `interrupted`.
        """
        return run_blocking(
            self.optimized_generate_async(
                traceset=traceset,
                definition=definition,
                rounds=rounds,
                keep_improving=keep_improving,
                target_speedup=target_speedup,
                run_id=run_id,
            )
        )

    async def optimized_generate_async(
        self,
        *,
        traceset: TraceSet,
        definition: Definition,
        rounds: int = 5,
        keep_improving: bool = False,
        target_speedup: float | None = None,
        run_id: str | None = None,
    ) -> GeneratedSolution:
        """See `optimized_generate`."""
        goal = check_goal(Goal(rounds, keep_improving, target_speedup))
        with self._under_way():
            return await self._work(traceset, definition, goal, run_id)

    async def _work(
        self, traceset: TraceSet, definition: Definition, goal: Goal, run_id: str | None
    ) -> GeneratedSolution:
        begun = None if run_id is None else self._begun(run_id)
        if begun is not None:
            goal = begun.settings.goal
        if isinstance(self._author.model, ReplayModel):
            self._author.model.check(definition.name)
        task = make_task(traceset, definition, self.target, self.language)
        strategy = Refine()
        journal = self._journal(self._settings(task, goal, strategy.name), task, begun)
        run = Run(
            *(task, self._author, self._judge, strategy, goal, journal, self._tell),
            spending=self.spending,
        )
        with journal.held():
            async with self._author.at_work():
                try:
                    best = await run.work()
                except BaseException:
                    if run.result is not None:
                        self.interrupted.append(solution_of(run.result, run.run_id))
                    raise
        if best is None:
            raise NoPassingSolution(why_none(run.attempts, task), run.attempts)
        return solution_of(best, run.run_id)

    def _settings(self, task: Task, goal: Goal, strategy: str) -> RunSettings:
        return RunSettings(
            definition=task.definition.name,
            traceset=None if task.root is None else str(Path(task.root).absolute()),
            model=self.model_name,
            language=self.language,
            target=self.target.name,
            rounds=goal.rounds,
            keep_improving=goal.keep_improving,
            target_speedup=goal.target_speedup,
            strategy=strategy,
            dialect=self._dialect,
            reasoning_effort=self._author.sampling.reasoning_effort,
            isolation=self._isolation,
            batch=isinstance(self._author.model, BatchedModel),
            allowance=self.spending.allowance,
            program=VERSION,
            fingerprints=fingerprints(task),
            parts=parts(task),
            contents=contents(task),
        )

    def _begun(self, run_id: str) -> KnownRun:
        if self._store is None:
            raise InvalidInput("a run can go on only where it was kept: name the store")
        return known_run(self._store, run_id)

    def _journal(self, settings: RunSettings, task: Task, begun: KnownRun | None) -> Journal:
        if begun is None:
            return Journal.begin(self._store, settings)
        begun.settings.check(begun.run_id, settings)
        if any(step.evaluation is not None for step in begun.history.steps.values()):
            begun.settings.check_same(begun.run_id, task)
        for change in begun.settings.changes(task):
            told = f"{begun.settings.definition}: since the run began, {change}"
            self._tell(Notice(told, begun.run_id))
        return Journal(begun.run_id, self._store)

    @property
    def asks_by_file(self) -> bool:
        """True where the model is asked elsewhere, and its replies are brought as files."""
        return self.model_name == OFFLINE

    @property
    def at_once(self) -> int:
        """How many definitions are worked on at a time where nobody says: dozens, most of which
        wait for a model; with one that answers at once, as many as devices can judge."""
        if not isinstance(self._judge, DevicePool):
            return AT_ONCE
        if self.model_name == BUILTIN_COMPILER:
            return self._judge.slots
        return AT_ONCE * len(self._judge.judges)

    def check_isolation(self) -> None:
        """Raises `IsolationUnavailable` where kernels cannot be run here at the level that was
        asked for. `optimized_generate` raises it too, before anything is asked."""
        self._judge.check()

    def save(self, solution: Solution, traceset: TraceSet) -> Path:
        """Write the solution into the trace set, with traces where it was measured.

        Returns the path written; that of before where a stored run's solution was written there
        already. Raises `SaveFailed`, `TraceSetError`.
        """
        evaluation = solution.evaluation if isinstance(solution, GeneratedSolution) else None
        run_id = solution.run_id if isinstance(solution, GeneratedSolution) else ""
        store = self._store if run_id else None
        if store is not None and (before := saved_before(store, run_id, solution, traceset)):
            return before
        path, written = saving.save_solution(solution, traceset, evaluation, once=store is not None)
        if store is not None:
            try:
                note_saved(store, run_id, path.absolute(), solution.name)
            except StoreError as error:
                told = f"that '{path}' was saved could not be noted: {error}"
                self._tell(Notice(told, run_id))
        self._tell(Saved(run_id, path, written.name))
        return path

    def rescue(self, solution: Solution) -> Path:
        """Write a solution that could not be saved to the temporary folder; the path written.

        Raises `SaveFailed`.
        """
        return saving.rescue_solution(solution)

    @contextmanager
    def _under_way(self) -> Generator[None]:
        """For as long as a run takes, its connections' end included."""
        if not self._running:
            self.interrupted = []
        for notice in self.notices:
            self._tell(Notice(notice))
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1


def _asker(model: OfflineModel) -> str:
    return "a batch" if isinstance(model, BatchedModel) else f"'{OFFLINE}'"
