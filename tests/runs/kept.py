"""Runs in a store, as the engine would have noted them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kernel_generator.domain.attempt import Attempt, Candidate
from kernel_generator.domain.conversation import Finish, Message, Reply, Request, Role, Usage
from kernel_generator.domain.proposal import Proposal, Purpose
from kernel_generator.domain.target import TARGETS
from kernel_generator.domain.task import Brief, Toolchain
from kernel_generator.runs.journal import Journal
from kernel_generator.runs.settings import RunSettings, fingerprints, parts
from kernel_generator.runs.tasks import make_task
from tests.runs.sets import RIGHT, a_solution, an_evaluation

if TYPE_CHECKING:
    from flashinfer_bench import TraceSet

    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.domain.task import Task
    from kernel_generator.runs.store import Store

ENDED = "all rounds were used"


def task_of(traceset: TraceSet) -> Task:
    """Of its definition 'scale_add'."""
    return make_task(traceset, traceset.definitions["scale_add"], TARGETS["CPU"], "python")


def keep_run(
    store: Store,
    traceset: TraceSet,
    /,
    *verdicts: Evaluation,
    reason: str | None = ENDED,
    **settings: Any,
) -> str:
    """A run with an attempt for each verdict; its id."""
    task = task_of(traceset)
    begun: dict[str, Any] = {
        "definition": "scale_add",
        "traceset": str(traceset.root),
        "model": "scripted",
        "language": "python",
        "target": "CPU",
        "rounds": 3,
        "strategy": "refine",
        "isolation": "strict",
        "program": "1",
        "fingerprints": fingerprints(task),
        "parts": parts(task),
    }
    journal = Journal.begin(store, RunSettings.model_validate(begun | settings))
    brief = Brief(task.definition, task.searched, task.target, task.language, Toolchain("3"))
    for number, verdict in enumerate(verdicts or (an_evaluation(),), start=1):
        proposal = Proposal(Purpose.DRAFT, number)
        asked = f"Write version {number} of run {journal.run_id}."
        journal.asking(proposal, Request((Message(Role.USER, asked),), brief, proposal))
        reply = Reply(f"{RIGHT}{number}", Finish.COMPLETE, "scripted", Usage(10, 0, 5), 0.5)
        journal.replied(proposal, reply)
        solution = a_solution(f"scale_add_r{number}_{journal.run_id}")
        journal.proposed(proposal, solution)
        journal.judged(proposal, verdict)
        candidate = Candidate(solution, proposal)
        journal.attempted(Attempt(proposal, reply, verdict.outcome, "", candidate, verdict))
    if reason is not None:
        journal.finished(reason)
    return journal.run_id
