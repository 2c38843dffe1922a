"""The one loop: propose, render, ask, read, judge, append; then again.

Each step is in the journal before the next one acts, so that a run which was stopped, for whatever
reason, can go on. An attempt is complete before the next is proposed, and `Run.attempts` holds
every one of them at any moment, so whoever stops a run keeps what was finished.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernel_generator.domain.attempt import Attempt, Candidate
from kernel_generator.domain.conversation import Finish, Request
from kernel_generator.domain.errors import (
    BudgetSpent,
    InvalidInput,
    KernelGeneratorError,
    NeverAnswered,
    NoWorkloads,
    ProviderError,
    ReferenceFailed,
    ReplyPending,
    SaveFailed,
    StoreError,
)
from kernel_generator.domain.events import (
    Asked,
    Attempted,
    Evaluating,
    Notice,
    Replied,
    RunFinished,
    RunStarted,
    RunStopped,
    StopKind,
)
from kernel_generator.domain.outcome import Outcome
from kernel_generator.domain.task import Brief
from kernel_generator.evaluation import profiles
from kernel_generator.evaluation.baselines import TORCH_COMPILE, default_baselines
from kernel_generator.evaluation.devices import evaluate, prepare
from kernel_generator.evaluation.toolchain import find_toolchain
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
from kernel_generator.runs.letters import how_to_answer
from kernel_generator.runs.observers import watched
from kernel_generator.runs.origin import describe, solution_name
from kernel_generator.runs.saving import rescue_reply
from kernel_generator.runs.spending import Counted, Spending
from kernel_generator.runs.stopping import stop_kind, stopped
from kernel_generator.runs.threads import in_a_thread
from kernel_generator.search.ranking import best_index

if TYPE_CHECKING:
    from flashinfer_bench import Solution

    from kernel_generator.domain.conversation import Reply
    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.domain.events import Observer
    from kernel_generator.domain.proposal import Proposal
    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.baselines import Baseline
    from kernel_generator.evaluation.judge import Judge, Meter, Session
    from kernel_generator.runs.author import Author
    from kernel_generator.runs.goal import Goal
    from kernel_generator.runs.journal import Journal
    from kernel_generator.search.strategy import Strategy

MAX_NOT_RUN = 2
"""So many versions in a row that cannot be tried here end a run: it says nothing of any of them."""

_NOT_HERE = (Outcome.NOT_RUN, Outcome.BUILT_NOT_RUN, Outcome.CORRECT_NOT_MEASURED)
"""What is said of a kernel where its target is not."""


@dataclass(frozen=True)
class _Ending:
    """Why a run stops here."""

    reason: str
    kind: StopKind | None = None
    """None where it is over; else it may go on later."""


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
        self._tell = watched(observer)
        self._judged_on = judged_on(task)

    @property
    def best(self) -> Attempt | None:
        """The best attempt so far that may be returned."""
        index = best_index(self.attempts)
        return None if index is None else self.attempts[index]

    @property
    def result(self) -> Attempt | None:
        """The best attempt, where it was judged here: what another store says of one is no
        result."""
        best = self.best
        return None if best is None or self._journal.history.is_elsewheres(best) else best

    async def work(self) -> Attempt | None:
        """Run to the goal or the last round; the best attempt, or None where nothing passed. A run
        that was stopped goes on where it was; one that has ended does nothing.

        Raises `InvalidInput` before anything is asked where the task cannot be worked on here, and
        `ProviderError` (with the attempts made until then) where the provider gave up before
        anything passed; afterwards the run stops, and its reason says so. `ReplyPending` where the
        model is asked elsewhere, `BudgetSpent` where the budget ends it before anything passed,
        `StoreError` where a step cannot be noted. What passed elsewhere is judged here first:
        `InvalidInput` where that cannot be.
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
        try:
            ending = await self._come_to_an_end()
        except BaseException as error:
            self._tell(stopped(self.run_id, error))
            raise
        if ending.kind is None:
            self._tell(RunFinished(self.run_id, ending.reason, self.best))
        else:
            self._tell(RunStopped(self.run_id, ending.reason, ending.kind, self.best))
        return self.best

    async def _come_to_an_end(self) -> _Ending:
        for attempt in self._journal.history.attempts:
            self.attempts.append(attempt)
            is_best = self.best is attempt
            self._tell(Attempted(self.run_id, attempt, is_best, recalled=True))
        reason = self._journal.history.reason
        offline = isinstance(self._author.model, OfflineModel)
        if reason is None and offline and self._journal.history.pending:
            # The judge need not be got ready to find that out.
            raise self._suspended()
        if self.best is not self.result:
            await self._certify()
        if reason is not None:
            return _Ending(reason)
        ended = self._ended()
        # The judge need not be got ready to find that out.
        spent = "" if ended else self._spent()
        if spent and self.best is None:
            raise BudgetSpent(spent)
        if ended:
            ending = _Ending(ended)
        elif spent:
            ending = _Ending(spent, StopKind.BUDGET)
        else:
            ending = await self._move_forward()
        if ending.kind is None:
            self._journal.finished(ending.reason)
        return ending

    async def _certify(self) -> None:
        """Judge here what passed elsewhere, until the best version is one that passed here."""
        meter = self._spending.permit(lambda: self._spending.out_of_time)
        session, history = self._judge.open(self.task), self._journal.history
        try:
            await in_a_thread(prepare, session, meter)
            profile = profiles.certification(self._baselines)
            while (best := self.best) is not None and history.is_elsewheres(best):
                read = history.of_proposal(best.proposal).solution
                if read is None or best.evaluation is None:
                    raise StoreError(f"run {self.run_id} does not tell what was judged elsewhere")
                found = await in_a_thread(evaluate, session, read, profile, meter)
                if found.outcome in _NOT_HERE and found.outcome is not best.outcome:
                    raise InvalidInput(
                        f"what passed in run {self.run_id} was judged elsewhere, and here is no "
                        f"{self.task.target.name} to judge it on: resume it on a machine with one"
                    )
                found = found.model_copy(update={"promoted": best.evaluation.promoted})
                noted = describe(read, self.task, self.run_id, best.proposal, found)
                index = self.attempts.index(best)
                self.attempts[index] = self._journal.certified(best, noted, found)
                told = f"round {best.proposal.round}, judged elsewhere, was judged again here"
                self._tell(Notice(f"{told}: {found.outcome.value}", self.run_id))
        finally:
            await asyncio.shield(in_a_thread(session.close))

    async def _move_forward(self) -> _Ending:
        session = self._judge.open(self.task)
        try:
            # The thread goes on when this is cancelled, until the session is closed below.
            try:
                await in_a_thread(prepare, session, self._spending.permit(self._spent))
            except BudgetSpent as spent:
                if self.best is None:
                    raise
                return _Ending(str(spent), StopKind.BUDGET)
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
                return _Ending(str(spent), StopKind.BUDGET)
            except ReplyPending as pending:
                raise self._suspended() from pending
            except KernelGeneratorError as error:
                # The provider's trouble, say, does not take back what passed before it.
                if self.best is None:
                    if isinstance(error, ProviderError):
                        error.attempts = tuple(self.attempts)
                    raise
                # A provider may answer later; a stored run will not.
                kind = None if isinstance(error, NeverAnswered) else stop_kind(error)
                return _Ending(f"stopped with what had passed: {error}", kind)
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
        if index is not None and not self._journal.history.is_elsewheres(self.attempts[index]):
            return repeated(self.attempts[index])
        device, has_best = session.opened.described, self.best is not None
        return judged_elsewhere(self._journal, self._subject(session, solution), device, has_best)

    def _suspended(self) -> ReplyPending:
        told = f"run {self.run_id} waits for a reply"
        if self._author.model.name == OFFLINE:
            told += f": {how_to_answer(self.run_id, self._journal.place)}"
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
        evaluation = None if known.elsewhere else known.evaluation
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
        try:
            self._journal.replied(proposal, reply)
        except StoreError as error:
            raise StoreError(f"{error}; {_kept(reply, self.run_id, proposal)}") from error
        self._tell(Replied(self.run_id, proposal, reply))
        return reply

    def _evaluate(self, session: Session, solution: Solution, meter: Meter) -> Evaluation:
        """Judge a version: certify the first that passes, and whatever then beats the best one."""
        best = self.best
        incumbent, searched_s = None, 0.0
        if best is not None and best.candidate is not None and best.outcome is Outcome.PASSED:
            incumbent = best.candidate.solution
            found = evaluate(session, solution, profiles.search(incumbent), meter)
            if not found.outcome.is_result or found.promoted is False:
                return found
            searched_s = found.seconds
            meter = Counted(self._spending)
        certification = profiles.certification(self._baselines, incumbent)
        found = evaluate(session, solution, certification, meter)
        return found.model_copy(update={"seconds": found.seconds + searched_s})

    @property
    def _baselines(self) -> tuple[Baseline, ...]:
        # The embedded model's kernels are torch.compile: against themselves they show nothing.
        own_compiler = self._author.model.name.startswith("builtin:")
        return tuple(
            baseline
            for baseline in default_baselines(self.task)
            if not (own_compiler and baseline.name == TORCH_COMPILE)
        )


def _kept(reply: Reply, run_id: str, proposal: Proposal) -> str:
    """Where a reply is that could not be noted."""
    told = f"the reply of round {proposal.round} of run {run_id} was paid for"
    try:
        return f"{told}, and is kept in {rescue_reply(reply, run_id, proposal.round)}"
    except SaveFailed as worse:
        return f"{told}, and {worse}"
