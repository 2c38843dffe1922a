"""Independent solutions of one task, asked for concurrently and not evaluated.

What was read is held in `Samples.solutions` at any moment, so whoever stops the asking, for
whatever reason, keeps what has arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING

from kernel_generator.domain.attempt import Attempt
from kernel_generator.domain.conversation import Finish, Request
from kernel_generator.domain.errors import IncompleteGeneration, InvalidInput, KernelGeneratorError
from kernel_generator.domain.events import Asked, Attempted, Replied, SampleRead, SamplingStarted
from kernel_generator.domain.proposal import Proposal, Purpose
from kernel_generator.domain.task import Brief
from kernel_generator.evaluation.inputs import InputsUnavailable, plan_call
from kernel_generator.evaluation.toolchain import find_toolchain
from kernel_generator.evaluation.workloads import declared_floor
from kernel_generator.prompts.render import render
from kernel_generator.prompts.replies import Unreadable, read_solution
from kernel_generator.runs.generated import GeneratedSolution
from kernel_generator.runs.observers import watched
from kernel_generator.runs.origin import describe, solution_name

if TYPE_CHECKING:
    from kernel_generator.domain.events import Observer
    from kernel_generator.domain.task import Floor, Task
    from kernel_generator.runs.author import Author

READING_TRIES = 2
"""How often one independent sample is asked for until its reply can be read."""


class Samples:
    """Samples of one task. `ask` may be cancelled at any time."""

    def __init__(self, task: Task, author: Author, observer: Observer | None = None) -> None:
        self.run_id = secrets.token_hex(4)
        """The samples' common id."""
        self.attempts: list[Attempt] = []
        """Every reply that could not be read, oldest first."""
        self._task = task
        self._author = author
        self._tell = watched(observer)
        self._read: dict[int, GeneratedSolution] = {}
        self._brief = Brief(
            definition=task.definition,
            workloads=task.searched,
            target=task.target,
            language=task.language,
            toolchain=find_toolchain(),
            floors=declared_floors(task),
            held_out=len(task.held_out),
        )

    @property
    def solutions(self) -> list[GeneratedSolution]:
        """What was read so far, by number of the sample."""
        return [self._read[sample] for sample in sorted(self._read)]

    async def ask(self, count: int) -> list[GeneratedSolution]:
        """`count` solutions.

        Raises `ProviderError` or `InvalidInput` where nothing could be read for that reason, and
        `IncompleteGeneration` (whose cause is the error, where there was one) where some could not.
        """
        self._tell(
            SamplingStarted(
                run_id=self.run_id,
                definition=self._task.definition.name,
                model=self._author.model.name,
                language=self._task.language,
                target=self._task.target.name,
                samples=count,
            )
        )
        ended = await asyncio.gather(
            *(self._sample(sample) for sample in range(count)), return_exceptions=True
        )
        errors = [e for e in ended if isinstance(e, BaseException)]
        for error in errors:
            if not isinstance(error, KernelGeneratorError):
                raise error
        if errors and not self._read:
            raise errors[0]
        if len(self._read) < count:
            reason = str(errors[0]) if errors else _why(self.attempts[-1])
            raise IncompleteGeneration(
                f"{len(self._read)} of {count} solutions could be read; {reason}",
                self.solutions,
                self.attempts,
            ) from (errors[0] if errors else None)
        return self.solutions

    async def _sample(self, sample: int) -> None:
        proposal = Proposal(Purpose.DRAFT, round=1, sample=sample)
        history: list[Attempt] = []
        model = self._author.model
        for number in range(1, READING_TRIES + 1):
            if history:
                proposal = Proposal(Purpose.REPAIR, number, parent=0, sample=sample)
            messages = render(self._brief, proposal, history)
            self._tell(Asked(self.run_id, proposal))
            reply = await model.ask(Request(messages, self._brief, proposal, self._author.sampling))
            self._tell(Replied(self.run_id, proposal, reply))
            if reply.finish is Finish.EXHAUSTED:
                raise InvalidInput(f"'{model.name}' has only so many proposals: {reply.detail}")
            name = solution_name(self._task, model.name, self.run_id, proposal)
            solution = read_solution(reply, self._brief, proposal, model.name, name)
            if not isinstance(solution, Unreadable):
                noted = describe(solution, self._task, self.run_id, proposal, None)
                self._read[sample] = GeneratedSolution.of(noted)
                self._tell(SampleRead(self.run_id, proposal, reply, name))
                return
            history = [Attempt(proposal, reply, solution.outcome, solution.reason)]
            self.attempts += history
            self._tell(Attempted(self.run_id, history[0], is_best=False))


def declared_floors(task: Task) -> dict[str, Floor]:
    """What the declared tensors alone tell; operations are counted by running the reference."""
    floors: dict[str, Floor] = {}
    for workload in task.searched:
        with contextlib.suppress(InputsUnavailable):
            floors[workload.uuid] = declared_floor(plan_call(task.definition, workload), None)
    return floors


def _why(attempt: Attempt) -> str:
    return f"{attempt.outcome}: {attempt.message}"
