"""The one loop: propose, render, ask, read, judge, append; then again.

Each step is in the journal before the next one acts, so that a run which was stopped, for whatever
reason, can go on. An attempt is complete before the next is proposed, and `Run.attempts` holds
every one of them at any moment, so whoever stops a run keeps what was finished.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernel_generator.domain.attempt import Attempt, Candidate
from kernel_generator.domain.conversation import Finish, Request
from kernel_generator.domain.errors import (
    BudgetSpent,
    KernelGeneratorError,
    NeverAnswered,
    NoWorkloads,
    ProviderError,
    ReferenceFailed,
    ReplyPending,
    StoreError,
)
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
from kernel_generator.evaluation.devices import evaluate, prepare
from kernel_generator.evaluation.toolchain import find_toolchain, portable_build_environment
from kernel_generator.models.offline import OFFLINE, OfflineModel
from kernel_generator.prompts.render import render
from kernel_generator.prompts.replies import Unreadable, read_solution
from kernel_generator.runs.duplicates import (
    judged_elsewhere,
    judged_on,
    repeated,
    same_as,
    subject,
)
from kernel_generator.runs.saving import slug
from kernel_generator.runs.spending import Counted, Spending
from kernel_generator.runs.threads import in_a_thread
from kernel_generator.search.ranking import best_index

if TYPE_CHECKING:
    from flashinfer_bench import Solution

    from kernel_generator.domain.conversation import Reply
    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.domain.events import Observer
    from kernel_generator.domain.proposal import Proposal
    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.judge import Judge, Meter, Session
    from kernel_generator.runs.author import Author
    from kernel_generator.runs.goal import Goal
    from kernel_generator.runs.journal import Journal
    from kernel_generator.search.strategy import Strategy

MAX_NOT_RUN = 2
"""So many versions in a row that cannot be tried here end a run: it says nothing of any of them."""


@dataclass(frozen=True)
class _Ending:
    """Why a run stops here."""

    reason: str
    is_over: bool = True
    """False where it may go on later."""


class Run:
    """One task being worked on. `work` may be cancelled at any time."""

    def __init__(
        self,
        task: Task,
        author: Author,
        judge: Judge,
        strategy: Strategy,
        goal: Goal,
        journal: Journal,
        observer: Observer | None = None,
        spending: Spending | None = None,
    ) -> None:
        self.run_id = journal.run_id
        self.task = task
        self.attempts: list[Attempt] = []
        self._journal = journal
        self._spending = spending or Spending()
        self._author = author
        self._judge = judge
        self._strategy = strategy
        self._goal = goal
        self._observer = observer
        self._judged_on = judged_on(task)

    @property
    def best(self) -> Attempt | None:
        """The best attempt so far that may be returned."""
        index = best_index(self.attempts)
        return None if index is None else self.attempts[index]

    async def work(self) -> Attempt | None:
        """Run to the goal or the last round; the best attempt, or None where nothing passed. A run
        that was stopped goes on where it was; one that has ended does nothing.

        Raises `InvalidInput` before anything is asked where the task cannot be worked on here, and
        `ProviderError` (with the attempts made until then) where the provider gave up before
        anything passed; afterwards the run stops, and its reason says so. `ReplyPending` where the
        model is asked elsewhere, `BudgetSpent` where the budget ends it before anything passed,
        `StoreError` where a step cannot be noted.
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
        for attempt in self._journal.history.attempts:
            self.attempts.append(attempt)
            self._tell(Attempted(self.run_id, attempt, is_best=self.best is attempt))
        reason = self._journal.history.reason
        if reason is None:
            if isinstance(self._author.model, OfflineModel) and self._journal.history.pending:
                # The judge need not be got ready to find that out.
                raise self._suspended()
            ended = self._ended()
            # The judge need not be got ready to find that out.
            spent = "" if ended else self._spent()
            if spent and self.best is None:
                raise BudgetSpent(spent)
            if ended:
                ending = _Ending(ended)
            elif spent:
                ending = _Ending(spent, is_over=False)
            else:
                ending = await self._move_forward()
            reason = ending.reason
            if ending.is_over:
                self._journal.finished(reason)
        self._tell(RunFinished(self.run_id, reason, self.best))
        return self.best

    async def _move_forward(self) -> _Ending:
        session = self._judge.open(self.task)
        try:
            # The thread goes on when this is cancelled, until the session is closed below.
            try:
                await in_a_thread(prepare, session, self._spending.permit(self._spent))
            except BudgetSpent as spent:
                if self.best is None:
                    raise
                return _Ending(str(spent), is_over=False)
            except (ReferenceFailed, NoWorkloads) as error:
                self._journal.finished(str(error))
                raise
            for unusable in session.opened.unusable:
                told = f"workload {unusable.workload.uuid}: {unusable.reason}"
                self._tell(Notice(told, self.run_id))
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
            return await self._loop(brief, session)
        finally:
            # Whoever waits for other definitions is not held up by the end of this one.
            await asyncio.shield(in_a_thread(session.close))

    async def _loop(self, brief: Brief, session: Session) -> _Ending:
        while not (reason := self._ended()):
            proposal = self._strategy.propose(self.attempts)
            try:
                attempt = await self._attempt(brief, session, proposal)
            except StoreError:
                # Nothing can be noted any more, how it ended included.
                raise
            except BudgetSpent as spent:
                if self.best is None:
                    raise
                return _Ending(str(spent), is_over=False)
            except ReplyPending as pending:
                raise self._suspended() from pending
            except KernelGeneratorError as error:
                # The provider's trouble, say, does not take back what passed before it.
                if self.best is None:
                    if isinstance(error, ProviderError):
                        error.attempts = tuple(self.attempts)
                    raise
                # A provider may answer later; a stored run will not.
                is_over = isinstance(error, NeverAnswered)
                return _Ending(f"stopped with what had passed: {error}", is_over)
            if attempt is None:
                return _Ending("the model has nothing further to propose")
            self._journal.attempted(attempt)
            self.attempts.append(attempt)
            self._tell(Attempted(self.run_id, attempt, is_best=self.best is attempt))
        return _Ending(reason)

    def _spent(self) -> str:
        """Why nothing further may begin, before the judge is got ready; empty where it may. A reply
        that was paid for is judged with time alone."""
        complete = {(a.proposal.round, a.proposal.sample) for a in self.attempts}
        steps = self._journal.history.steps.items()
        if any(step.reply is not None and key not in complete for key, step in steps):
            return self._spending.out_of_time
        return self._spending.exhausted

    def _subject(self, session: Session, solution: Solution) -> str:
        target, isolation = self.task.target.name, session.opened.isolation
        return subject(solution, self._judged_on, target, isolation)

    def _known_verdict(self, session: Session, solution: Solution) -> Evaluation | None:
        """The verdict on the same source, where it was judged before."""
        index = same_as(self.attempts, solution)
        if index is not None:
            return repeated(self.attempts[index])
        device, has_best = session.opened.described, self.best is not None
        return judged_elsewhere(self._journal, self._subject(session, solution), device, has_best)

    def _suspended(self) -> ReplyPending:
        told = f"run {self.run_id} waits for a reply"
        if self._author.model.name == OFFLINE:
            told += (
                f": kernel-generator prompts export {self.run_id} DIR, have it answered there, "
                f"then: replies import {self.run_id} DIR, and: resume {self.run_id}"
            )
        return ReplyPending(told)

    def _ended(self) -> str:
        """Why the run ends here; empty where it goes on."""
        reason = self._reached(self.attempts[-1]) if self.attempts else ""
        if not reason and len(self.attempts) >= self._goal.rounds:
            return f"all {self._goal.rounds} rounds were used"
        return reason

    def _reached(self, attempt: Attempt) -> str:
        """Why the last attempt ends the run; empty where it does not."""
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
        # What was not promoted is not what is returned.
        if wanted is not None and attempt is self.best and (attempt.speedup or 0.0) >= wanted:
            return f"the target of {wanted:g}x was reached"
        if attempt.outcome is Outcome.CORRECT_NOT_MEASURED:
            return "a version is correct; without a measurement none can be called faster"
        return ""

    async def _attempt(self, brief: Brief, session: Session, proposal: Proposal) -> Attempt | None:
        known = self._journal.history.of_proposal(proposal)
        reply = known.reply or await self._ask(brief, proposal)
        if reply.finish is Finish.EXHAUSTED:
            return None
        name = solution_name(self.task, self._author.model.name, self.run_id, proposal)
        solution = known.solution
        if solution is None:
            # What was answered elsewhere has an author of its own.
            author = self._author.model.name
            author = reply.model if author == OFFLINE else author
            read = read_solution(reply, brief, proposal, author, name)
            if isinstance(read, Unreadable):
                return Attempt(proposal, reply, read.outcome, read.reason)
            self._journal.proposed(proposal, solution := read)
        evaluation = known.evaluation
        if evaluation is None:
            evaluation = self._known_verdict(session, solution)
            if evaluation is None:
                meter = self._spending.permit(lambda: self._spending.out_of_time)
                meter.check()
                self._tell(Evaluating(self.run_id, proposal, solution.name))
                evaluation = await in_a_thread(self._evaluate, session, solution, meter)
            self._journal.judged(proposal, evaluation, self._subject(session, solution))
        noted = describe(solution, self.task, self.run_id, proposal, evaluation)
        return Attempt(
            proposal=proposal,
            reply=reply,
            outcome=evaluation.outcome,
            message=evaluation.message,
            candidate=Candidate(noted, proposal),
            evaluation=evaluation,
            duplicate_of=same_as(self.attempts, solution) if evaluation.reused else None,
        )

    async def _ask(self, brief: Brief, proposal: Proposal) -> Reply:
        request = Request(
            messages=render(brief, proposal, self.attempts),
            brief=brief,
            proposal=proposal,
            sampling=self._author.sampling,
            permit=self._spending.permit(lambda: self._spending.exhausted),
        )
        request.permit.check()
        self._journal.asking(proposal, request)
        self._tell(Asked(self.run_id, proposal))
        reply = self._spending.priced(await self._author.model.ask(request))
        # It was paid for, whether or not it can be noted.
        self._spending.replied(reply)
        self._journal.replied(proposal, reply)
        self._tell(Replied(self.run_id, proposal, reply))
        return reply

    def _evaluate(self, session: Session, solution: Solution, meter: Meter) -> Evaluation:
        """Judge a version: certify the first that passes, and whatever then beats the best one."""
        best = self.best
        # The embedded model's kernels are torch.compile: against themselves they show nothing.
        own_compiler = self._author.model.name.startswith("builtin:")
        baselines = tuple(
            baseline
            for baseline in default_baselines(self.task)
            if not (own_compiler and baseline.name == TORCH_COMPILE)
        )
        incumbent, searched_s = None, 0.0
        if best is not None and best.candidate is not None and best.outcome is Outcome.PASSED:
            incumbent = best.candidate.solution
            found = evaluate(session, solution, profiles.search(incumbent), meter)
            if not found.outcome.is_result or found.promoted is False:
                return found
            searched_s = found.seconds
            meter = Counted(self._spending)
        certification = profiles.certification(baselines, incumbent)
        found = evaluate(session, solution, certification, meter)
        return found.model_copy(update={"seconds": found.seconds + searched_s})

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
