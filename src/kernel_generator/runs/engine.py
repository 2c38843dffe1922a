"""The one loop: propose, render, ask, read, judge, append; then again.

An attempt is complete before the next is proposed, and `Run.attempts` holds every one of them at
any moment, so whoever stops a run, for whatever reason, keeps what was finished.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernel_generator.domain.attempt import Attempt, Candidate
from kernel_generator.domain.conversation import Finish, Request
from kernel_generator.domain.errors import KernelGeneratorError, ProviderError
from kernel_generator.domain.events import (
    Asked,
    Attempted,
    Evaluating,
    Event,
    Notice,
    Replied,
    RunFinished,
    RunStarted,
)
from kernel_generator.domain.outcome import Outcome
from kernel_generator.domain.task import Brief
from kernel_generator.evaluation import profiles
from kernel_generator.evaluation.baselines import TORCH_COMPILE, default_baselines
from kernel_generator.evaluation.toolchain import find_toolchain, portable_build_environment
from kernel_generator.prompts.render import render
from kernel_generator.prompts.replies import Unreadable, read_solution
from kernel_generator.runs.saving import slug
from kernel_generator.search.ranking import best_index

if TYPE_CHECKING:
    from flashinfer_bench import Solution

    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.domain.events import Observer
    from kernel_generator.domain.proposal import Proposal
    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.judge import Judge, Session
    from kernel_generator.runs.author import Author
    from kernel_generator.search.strategy import Strategy

MAX_NOT_RUN = 2
"""So many versions in a row that cannot be tried here end a run: it says nothing of any of them."""


@dataclass(frozen=True)
class Goal:
    """When a run ends."""

    rounds: int = 5
    """Most versions asked for."""
    keep_improving: bool = False
    """Use the remaining rounds after the first version that passes."""
    target_speedup: float | None = None
    """Go on until the speedup over the reference reaches this."""

    @property
    def improves(self) -> bool:
        """True where passing alone does not end the run."""
        return self.keep_improving or self.target_speedup is not None


class Run:
    """One task being worked on. `work` may be cancelled at any time."""

    def __init__(
        self,
        task: Task,
        author: Author,
        judge: Judge,
        strategy: Strategy,
        goal: Goal,
        observer: Observer | None = None,
    ) -> None:
        self.run_id = secrets.token_hex(4)
        self.task = task
        self.attempts: list[Attempt] = []
        self._author = author
        self._judge = judge
        self._strategy = strategy
        self._goal = goal
        self._observer = observer

    @property
    def best(self) -> Attempt | None:
        """The best attempt so far that may be returned."""
        index = best_index(self.attempts)
        return None if index is None else self.attempts[index]

    async def work(self) -> Attempt | None:
        """Run to the goal or the last round; the best attempt, or None where nothing passed.

        Raises `InvalidInput` before anything is asked where the task cannot be worked on here, and
        `ProviderError` (with the attempts made until then) where the provider gave up before
        anything passed; afterwards that ends the run, and its reason says so.
        """
        self._tell(
            RunStarted(
                run_id=self.run_id,
                definition=self.task.definition.name,
                model=self._author.model.name,
                language=self.task.language,
                target=self.task.target.name,
                rounds=self._goal.rounds,
                searched=len(self.task.searched),
                held_out=len(self.task.held_out),
            )
        )
        session = self._judge.open(self.task)
        try:
            # The thread goes on when this is cancelled, until the session is closed below.
            await asyncio.to_thread(session.prepare)
            for unusable in session.opened.unusable:
                self._tell(Notice(f"workload {unusable.workload.uuid}: {unusable.reason}"))
            unusable_ids = {u.workload.uuid for u in session.opened.unusable}
            brief = Brief(
                definition=self.task.definition,
                workloads=tuple(w for w in self.task.searched if w.uuid not in unusable_ids),
                target=self.task.target,
                language=self.task.language,
                toolchain=find_toolchain(),
                floors=session.opened.floors,
                held_out=len(self.task.held_out),
            )
            reason = await self._loop(brief, session)
        finally:
            session.close()
        self._tell(RunFinished(self.run_id, reason, self.best))
        return self.best

    async def _loop(self, brief: Brief, session: Session) -> str:
        while len(self.attempts) < self._goal.rounds:
            proposal = self._strategy.propose(self.attempts)
            try:
                attempt = await self._attempt(brief, session, proposal)
            except KernelGeneratorError as error:
                # The provider's trouble, say, does not take back what passed before it.
                if self.best is None:
                    if isinstance(error, ProviderError):
                        error.attempts = tuple(self.attempts)
                    raise
                return f"stopped with what had passed: {error}"
            if attempt is None:
                return "the model has nothing further to propose"
            self.attempts.append(attempt)
            self._tell(Attempted(attempt, is_best=self.best is attempt))
            reason = self._reached(attempt)
            if reason:
                return reason
        return f"all {self._goal.rounds} rounds were used"

    def _reached(self, attempt: Attempt) -> str:
        """Why the run ends after this attempt; empty where it goes on."""
        if attempt.outcome is Outcome.BUILT_NOT_RUN:
            return "nothing more can be found out on this machine"
        last = [a.outcome for a in self.attempts[-MAX_NOT_RUN:]]
        if last == [Outcome.NOT_RUN] * MAX_NOT_RUN:
            return f"{MAX_NOT_RUN} versions in a row could not be tried here: {attempt.message}"
        if not attempt.outcome.is_result or attempt.evaluation is None:
            return ""
        if not attempt.evaluation.complete:
            return ""
        if not self._goal.improves:
            return "a version passed on all workloads"
        wanted = self._goal.target_speedup
        if wanted is not None and (attempt.speedup or 0.0) >= wanted:
            return f"the target of {wanted:g}x was reached"
        if attempt.outcome is Outcome.CORRECT_NOT_MEASURED:
            return "a version is correct; without a measurement none can be called faster"
        return ""

    async def _attempt(self, brief: Brief, session: Session, proposal: Proposal) -> Attempt | None:
        request = Request(
            messages=render(brief, proposal, self.attempts),
            brief=brief,
            proposal=proposal,
            sampling=self._author.sampling,
        )
        self._tell(Asked(proposal))
        reply = await self._author.model.ask(request)
        self._tell(Replied(proposal, reply))
        if reply.finish is Finish.EXHAUSTED:
            return None
        name = solution_name(self.task, self._author.model.name, self.run_id, proposal)
        solution = read_solution(reply, brief, proposal, self._author.model.name, name)
        if isinstance(solution, Unreadable):
            return Attempt(proposal, reply, solution.outcome, solution.reason)
        self._tell(Evaluating(proposal, solution.name))
        evaluation = await asyncio.to_thread(self._evaluate, session, solution)
        noted = describe(solution, self.task, self.run_id, proposal, evaluation)
        return Attempt(
            proposal=proposal,
            reply=reply,
            outcome=evaluation.outcome,
            message=evaluation.message,
            candidate=Candidate(noted, proposal),
            evaluation=evaluation,
        )

    def _evaluate(self, session: Session, solution: Solution) -> Evaluation:
        """Judge a version: certify the first that passes, and whatever then beats the best one."""
        best = self.best
        # The embedded model's kernels are torch.compile: against themselves they show nothing.
        own_compiler = self._author.model.name.startswith("builtin:")
        baselines = tuple(
            baseline
            for baseline in default_baselines(self.task)
            if not (own_compiler and baseline.name == TORCH_COMPILE)
        )
        incumbent = None
        if best is not None and best.candidate is not None and best.outcome is Outcome.PASSED:
            incumbent = best.candidate.solution
            found = session.evaluate(solution, profiles.search(incumbent))
            if not found.outcome.is_result or found.promoted is False:
                return found
        return session.evaluate(solution, profiles.certification(baselines, incumbent))

    def _tell(self, event: Event) -> None:
        if self._observer is not None:
            self._observer(event)


def solution_name(task: Task, model: str, run_id: str, proposal: Proposal) -> str:
    """Unique in any trace set by its run id; safe for model names with '/' and ':'."""
    parts = [task.definition.name, slug(model), task.language, f"r{proposal.round}", run_id]
    if proposal.sample:
        parts.append(f"s{proposal.sample + 1}")
    return "_".join(parts)


def describe(
    solution: Solution,
    task: Task,
    run_id: str,
    proposal: Proposal,
    evaluation: Evaluation | None,
) -> Solution:
    """The solution with its origin as one JSON line at the end of its description."""
    origin: dict[str, object] = {
        "author": solution.author,
        "run_id": run_id,
        "round": proposal.round,
        "target": task.target.name,
    }
    environment = portable_build_environment(task.target, task.language)
    if environment:
        origin["build_environment"] = environment
    if evaluation is not None:
        origin["outcome"] = evaluation.outcome.value
        origin["workloads"] = f"{evaluation.judged} of {len(task.workloads)}"
        if evaluation.speedup is not None and evaluation.device is not None:
            origin["speedup"] = round(evaluation.speedup.value, 4)
            origin["measured_on"] = evaluation.device.name
    line = json.dumps(origin, sort_keys=True)
    text = f"{solution.description}\n{line}" if solution.description else line
    return solution.model_copy(update={"description": text})
