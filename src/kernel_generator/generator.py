"""`KernelGenerator`, the public face: definitions in, solutions out.

Everything returned is a `flashinfer_bench.Solution`; a failed kernel is never returned as a result.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flashinfer_bench.data import Solution
from pydantic import PrivateAttr

from kernel_generator.domain.attempt import Attempt
from kernel_generator.domain.conversation import Finish, Request, Sampling
from kernel_generator.domain.errors import (
    IncompleteGeneration,
    InvalidInput,
    NoPassingSolution,
    NoWorkloads,
    UnknownName,
)
from kernel_generator.domain.events import Saved
from kernel_generator.domain.proposal import Proposal, Purpose
from kernel_generator.domain.target import TARGETS, find_target, target_of_device
from kernel_generator.domain.task import LANGUAGES, Brief, Task
from kernel_generator.evaluation.judge import Limits, Profile
from kernel_generator.evaluation.local import LocalJudge
from kernel_generator.evaluation.timing import TimingPlan
from kernel_generator.evaluation.toolchain import check_target, find_toolchain, gpu_name
from kernel_generator.evaluation.workloads import split_workloads
from kernel_generator.models.builtin import BUILTIN_COMPILER
from kernel_generator.models.builtin import LANGUAGE as BUILTIN_LANGUAGE
from kernel_generator.models.open_model import open_model
from kernel_generator.models.settings import read_settings
from kernel_generator.prompts.render import render
from kernel_generator.prompts.replies import Unreadable, read_solution
from kernel_generator.runs.blocking import run_blocking
from kernel_generator.runs.engine import Author, Goal, Run, describe, solution_name
from kernel_generator.runs.saving import check_writable, save_solution
from kernel_generator.runs.tracesets import definition_of, workloads_of
from kernel_generator.search.refine import Refine

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flashinfer_bench import Definition, TraceSet, Workload

    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.domain.events import Observer
    from kernel_generator.domain.target import Target
    from kernel_generator.models.protocol import LanguageModel

READING_TRIES = 2
"""How often one independent sample is asked for until its reply can be read."""


class GeneratedSolution(Solution):
    """A FlashInfer-Bench Solution that knows its evaluation and can write itself."""

    _evaluation: Evaluation | None = PrivateAttr(default=None)

    @property
    def evaluation(self) -> Evaluation | None:
        """What the judge found; None where it was not evaluated. Not part of the JSON."""
        return self._evaluation

    def to_json(self) -> str:
        """The solution as FlashInfer-Bench stores it."""
        return self.model_dump_json(indent=2)

    @classmethod
    def of(cls, solution: Solution, evaluation: Evaluation | None = None) -> GeneratedSolution:
        """A solution together with its evaluation."""
        made = cls.model_validate(solution.model_dump())
        made._evaluation = evaluation
        return made


class KernelGenerator:
    """Asks a language model for kernels and judges what it writes.

    Parameters
    ----------
    model_name
        'gpt-5', 'claude-opus-4-1', 'gemini-2.5-pro', any name an endpoint knows, or
        'builtin:compiler' (the default where neither a model nor a key is given).
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
        Called with every event of every run.
    limits
        How long each step of a candidate may take.

    Raises
    ------
    InvalidInput
        `UnknownName`, `MissingKey`, `UnsupportedTarget` and the like, before anything is asked.
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
    ) -> None:
        self.target: Target = find_target(target_gpu) if target_gpu else local_target()
        if model is None:
            name = model_name or default_model(api_key)
            model = open_model(name, api_key=api_key, base_url=base_url, dialect=dialect)
        self.model_name: str = model.name
        self.language: str = _language(language, self.target, model.name)
        self._author = Author(model, Sampling(reasoning_effort=reasoning_effort))
        self._on_event = on_event
        self._judge = LocalJudge(limits)
        # A target that the toolchain cannot serve is said before anyone pays for a reply.
        self.notices: list[str] = check_target(self.target, self.language, find_toolchain())
        """What cannot be done on this machine for this target, as sentences."""
        self.interrupted: GeneratedSolution | None = None
        """The best result of a run that was interrupted, if it had one."""

    # -- generating without evaluating ----------------------------------------------------------

    def generate(
        self, definition: Definition, pass_k: int = 1, *, workloads: Sequence[Workload] = ()
    ) -> list[GeneratedSolution]:
        """`pass_k` independently sampled solutions, asked concurrently and not evaluated.

        Raises `InvalidInput`, `ProviderError`, and `IncompleteGeneration` (which carries the
        readable ones) where a sample gave no readable reply in `READING_TRIES` tries.
        """
        return run_blocking(self.generate_async(definition, pass_k, workloads=workloads))

    async def generate_async(
        self, definition: Definition, pass_k: int = 1, *, workloads: Sequence[Workload] = ()
    ) -> list[GeneratedSolution]:
        """See `generate`."""
        if pass_k < 1:
            raise InvalidInput(f"pass_k is {pass_k}: ask for at least 1 solution")
        searched, held_out = split_workloads(definition, workloads)
        task = Task(definition, searched, held_out, self.target, self.language)
        brief = Brief(
            definition=definition,
            workloads=searched,
            target=self.target,
            language=self.language,
            toolchain=find_toolchain(),
            held_out=len(held_out),
        )
        # The run gives the samples their common id; it is never worked on.
        run_id = self._run(task, Goal()).run_id
        try:
            found = await asyncio.gather(
                *(self._sample(task, brief, run_id, sample) for sample in range(pass_k)),
                return_exceptions=True,
            )
        finally:
            await self._author.model.close()
        solutions = [f for f in found if isinstance(f, GeneratedSolution)]
        attempts = [f for f in found if isinstance(f, Attempt)]
        errors = [f for f in found if isinstance(f, BaseException)]
        if errors and not solutions:
            raise errors[0]
        if len(solutions) < pass_k:
            reason = str(errors[0]) if errors else f"{attempts[0].outcome}: {attempts[0].message}"
            raise IncompleteGeneration(
                f"{len(solutions)} of {pass_k} solutions could be read; {reason}",
                solutions,
                attempts,
            )
        return solutions

    async def _sample(
        self, task: Task, brief: Brief, run_id: str, sample: int
    ) -> GeneratedSolution | Attempt:
        proposal = Proposal(Purpose.DRAFT, round=1, sample=sample)
        history: list[Attempt] = []
        for attempt_number in range(READING_TRIES):
            if attempt_number:
                proposal = Proposal(Purpose.REPAIR, attempt_number + 1, parent=0, sample=sample)
            request = Request(
                render(brief, proposal, history), brief, proposal, self._author.sampling
            )
            reply = await self._author.model.ask(request)
            if reply.finish is Finish.EXHAUSTED:
                raise InvalidInput(
                    f"'{self.model_name}' has only so many proposals: {reply.detail}"
                )
            name = solution_name(task, self.model_name, run_id, proposal)
            solution = read_solution(reply, brief, proposal, self.model_name, name)
            if not isinstance(solution, Unreadable):
                return GeneratedSolution.of(describe(solution, task, run_id, proposal, None))
            history = [Attempt(proposal, reply, solution.outcome, solution.reason)]
        return history[0]

    # -- the loop -------------------------------------------------------------------------------

    def optimized_generate(
        self,
        *,
        traceset: TraceSet,
        definition: Definition,
        rounds: int = 5,
        keep_improving: bool = False,
        target_speedup: float | None = None,
    ) -> GeneratedSolution:
        """The first version that passes on all workloads, or the best one.

        With `keep_improving` or a `target_speedup` (over the reference) the remaining rounds are
        used and the best version is returned. `solution.evaluation` holds the figures, the
        comparison with `torch.compile` among them.

        Raises `NoPassingSolution` (with every attempt) where nothing passed, `NoWorkloads`,
        `ReferenceFailed` and other `InvalidInput` before anything is asked, and `ProviderError`
        where the provider gave up before anything passed. Interrupted, or stopped by anything
        else, the best version so far is left in `interrupted`.
        """
        return run_blocking(
            self.optimized_generate_async(
                traceset=traceset,
                definition=definition,
                rounds=rounds,
                keep_improving=keep_improving,
                target_speedup=target_speedup,
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
    ) -> GeneratedSolution:
        """See `optimized_generate`."""
        goal = check_goal(Goal(rounds, keep_improving, target_speedup))
        task = make_task(traceset, definition, self.target, self.language)
        run = self._run(task, goal)
        self.interrupted = None
        try:
            best = await run.work()
        except BaseException:
            if run.best is not None:
                self.interrupted = _solution_of(run.best)
            raise
        finally:
            await self._author.model.close()
        if best is None:
            raise NoPassingSolution(_why_none(run.attempts, definition.name), run.attempts)
        return _solution_of(best)

    def save(self, solution: Solution, traceset: TraceSet) -> Path:
        """Write the solution into the trace set, with traces where it was measured.

        Returns the path written. Raises `SaveFailed`, `TraceSetError`.
        """
        evaluation = solution.evaluation if isinstance(solution, GeneratedSolution) else None
        path, written = save_solution(solution, traceset, evaluation)
        if self._on_event is not None:
            self._on_event(Saved(path, written.name))
        return path

    def _run(self, task: Task, goal: Goal) -> Run:
        return Run(task, self._author, self._judge, Refine(), goal, self._on_event)


def evaluate(
    traceset: TraceSet,
    definition: Definition,
    solution: Solution,
    target_gpu: str | None = None,
    *,
    limits: Limits | None = None,
) -> Evaluation:
    """Judge one solution on all workloads of its definition.

    Raises `NoWorkloads`, `ReferenceFailed`, `UnsupportedTarget` and other `InvalidInput`.
    """
    target = find_target(target_gpu) if target_gpu else local_target()
    language = solution.spec.language.value
    check_target(target, language, find_toolchain())
    task = make_task(traceset, definition, target, language)
    session = LocalJudge(limits).open(task)
    try:
        return session.evaluate(solution, Profile(timing=TimingPlan(), compiled_baseline=True))
    finally:
        session.close()


def make_task(traceset: TraceSet, definition: Definition, target: Target, language: str) -> Task:
    """The task that a definition of a trace set poses.

    Raises `NoWorkloads`, `UnknownName`.
    """
    definition_of(traceset, definition.name)
    workloads = workloads_of(traceset, definition.name)
    if not workloads:
        raise NoWorkloads(f"No workloads found for definition '{definition.name}' - SKIPPING")
    searched, held_out = split_workloads(definition, workloads)
    return Task(definition, searched, held_out, target, language, traceset.root)


def local_target() -> Target:
    """The target that this machine is: its first GPU where the table knows it, else the CPU."""
    gpu = gpu_name()
    known = target_of_device(gpu) if gpu else None
    return known or TARGETS["CPU"]


def default_model(api_key: str | None = None) -> str:
    """The embedded model, where nobody asked for another.

    Raises `InvalidInput` where a key is given and no model: keys are meant to be used.
    """
    if api_key or read_settings().llm_api_key is not None:
        raise InvalidInput(
            "a key is set (LLM_API_KEY or api_key) but no model is named: name one, 'gpt-5' for "
            f"example, or '{BUILTIN_COMPILER}' to do without"
        )
    return BUILTIN_COMPILER


def writable_root(traceset: TraceSet) -> Path:
    """The folder results go to. Raises `TraceSetError` where they could not be saved."""
    return check_writable(traceset)


def _language(language: str | None, target: Target, model: str) -> str:
    builtin = model == BUILTIN_COMPILER
    if language is None:
        if builtin:
            return BUILTIN_LANGUAGE
        return "triton" if target.is_gpu else "cpp"
    if language not in LANGUAGES:
        raise UnknownName("language", language, LANGUAGES)
    if builtin and language != BUILTIN_LANGUAGE:
        raise InvalidInput(
            f"'{BUILTIN_COMPILER}' writes {BUILTIN_LANGUAGE} (torch.compile), not {language}: "
            f"leave the language out, or name a language model and give its key"
        )
    return language


def check_goal(goal: Goal) -> Goal:
    """The goal as it is. Raises `InvalidInput` where it cannot be worked towards."""
    if goal.rounds < 1:
        raise InvalidInput(f"rounds is {goal.rounds}: give at least 1")
    if goal.target_speedup is not None and not goal.target_speedup > 0:
        raise InvalidInput(f"target_speedup is {goal.target_speedup}: give more than 0")
    return goal


def _solution_of(attempt: Attempt) -> GeneratedSolution:
    if attempt.candidate is None:
        raise ValueError("only an attempt with a candidate can be best")
    return GeneratedSolution.of(attempt.candidate.solution, attempt.evaluation)


def _why_none(attempts: Sequence[Attempt], definition: str) -> str:
    if not attempts:
        return f"All attempts failed for {definition} - SKIPPING (nothing was proposed)"
    outcomes = ", ".join(a.outcome.value for a in attempts)
    last = attempts[-1]
    return (
        f"All attempts failed for {definition} - SKIPPING "
        f"({len(attempts)} attempts: {outcomes}; the last: {last.outcome.meaning})"
    )
