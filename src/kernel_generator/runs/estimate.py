"""What a campaign would ask for and cost, worked out before anything is asked or judged.

Needs no key and opens no model. Every figure is a low and a high end; what cannot be known is None,
and `Estimate.notes` say what the others rest on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernel_generator.domain.conversation import Usage
from kernel_generator.domain.evaluation import Record
from kernel_generator.domain.proposal import Proposal, Purpose
from kernel_generator.domain.task import Brief
from kernel_generator.evaluation.toolchain import find_toolchain
from kernel_generator.models.builtin import BUILTIN_COMPILER
from kernel_generator.models.credentials import base_url_of, batch_share_of
from kernel_generator.models.offline import OFFLINE
from kernel_generator.models.open_model import open_model
from kernel_generator.models.price import cost_usd, is_priced
from kernel_generator.prompts.feedback import MAX_FEEDBACK_CHARS
from kernel_generator.prompts.render import render
from kernel_generator.runs.precedents import Amount, Completion, Count, Judged, completion_of
from kernel_generator.runs.replay import REPLAY, ReplayModel
from kernel_generator.runs.samples import declared_floors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kernel_generator.domain.budget import Price
    from kernel_generator.domain.task import Task
    from kernel_generator.runs.goal import Goal
    from kernel_generator.runs.journal import KnownRun

CHARACTERS_PER_TOKEN = 4
"""A rule of thumb for English and source code: no provider's tokenizer is asked."""
_FEEDBACK_TOKENS = MAX_FEEDBACK_CHARS // CHARACTERS_PER_TOKEN


class DefinitionEstimate(Record):
    """What one definition would take."""

    definition: str
    requests: Count
    prompt_tokens: Count
    completion_tokens: Count
    cost_usd: Amount | None
    """None where no price is known."""
    judge_s: Amount | None
    """Seconds; None where this machine has not judged such kernels before."""


class Estimate(Record):
    """What a command would take."""

    model: str
    language: str
    target: str
    definitions: tuple[DefinitionEstimate, ...]
    skipped: dict[str, str]
    """Definitions that would not be asked for, and why."""
    requests: Count
    prompt_tokens: Count
    completion_tokens: Count
    cost_usd: Amount | None
    judge_s: Amount | None
    """None where any definition's is."""
    completion: Completion | None
    """Of one reply; None for the embedded model, which counts no tokens."""
    max_usd: float | None
    """The budget that was given."""
    exceeds_max_usd: bool | None
    """True where the high end is beyond it; None where that cannot be told."""
    notes: tuple[str, ...]
    """What the figures rest on, a sentence each."""


@dataclass(frozen=True)
class Asking:
    """Who would be asked, how, and how often."""

    model: str
    """As the user names it, 'replay:RUN' among them."""
    goal: Goal
    base_url: str | None = None
    reasoning_effort: str | None = None
    price: Price | None = None
    max_usd: float | None = None
    batch: bool = False
    """Whether its requests go to the provider in batches, which may cost less."""


@dataclass(frozen=True)
class _Tariff:
    """What a reply costs, and who says so."""

    of: Callable[[Usage], float | None]
    told: str


def estimate(
    tasks: Sequence[Task],
    asking: Asking,
    known: Sequence[KnownRun] = (),
    skipped: Mapping[str, str] | None = None,
) -> Estimate:
    """What working on these tasks, of one language and target, would take. `known` are earlier
    runs: of their replies and verdicts the figures are made where they fit.

    Raises `InvalidInput` where the model could not be asked whatever its key, and `ValueError`
    without a task.
    """
    if not tasks:
        raise ValueError("there is nothing to estimate")
    if asking.model.startswith("builtin:"):
        open_model(asking.model, reasoning_effort=asking.reasoning_effort)
    tariff, completion = (
        _tariff(asking),
        completion_of(asking.model, asking.reasoning_effort, known),
    )
    judged = Judged(known, tasks[0].target.kind)
    found = tuple(_of_task(task, asking, completion, tariff, judged) for task in tasks)
    cost, judge = _sum_of([d.cost_usd for d in found]), _sum_of([d.judge_s for d in found])
    exceeds = None
    if asking.max_usd is not None and cost is not None:
        exceeds = cost.high > asking.max_usd
    return Estimate(
        model=asking.model,
        language=tasks[0].language,
        target=tasks[0].target.name,
        definitions=found,
        skipped=dict(skipped or {}),
        requests=_count([d.requests for d in found]),
        prompt_tokens=_count([d.prompt_tokens for d in found]),
        completion_tokens=_count([d.completion_tokens for d in found]),
        cost_usd=cost,
        judge_s=judge,
        completion=completion,
        max_usd=asking.max_usd,
        exceeds_max_usd=exceeds,
        notes=(
            _told_of_requests(_requests(tasks[0], asking.goal), asking.goal),
            *_told_of_tokens(completion),
            tariff.told,
            judged.told,
            *_told_of_budget(asking.max_usd, exceeds),
        ),
    )


def replayed(run: KnownRun, definitions: Sequence[str]) -> str:
    """The language of a stored run that is to answer for these definitions. Raises `InvalidInput`
    where it is of another."""
    model = ReplayModel(run)
    for definition in definitions:
        model.check(definition)
    return model.language


# -- one definition -------------------------------------------------------------------------------


def _of_task(
    task: Task, asking: Asking, completion: Completion | None, tariff: _Tariff, judged: Judged
) -> DefinitionEstimate:
    requests = _requests(task, asking.goal)
    first = first_prompt_tokens(task)
    # The embedded model reads no prompt and counts no token.
    prompts = Count(low=0, high=0) if completion is None else Count(low=first, high=first)
    replies = Count(low=0, high=0) if completion is None else completion.tokens
    later = prompts
    if completion is not None:
        later = Count(
            low=first + completion.visible.low,
            high=first + completion.visible.high + _FEEDBACK_TOKENS,
        )
    return DefinitionEstimate(
        definition=task.definition.name,
        requests=requests,
        prompt_tokens=Count(
            low=prompts.low + (requests.low - 1) * later.low,
            high=prompts.high + (requests.high - 1) * later.high,
        ),
        completion_tokens=Count(low=requests.low * replies.low, high=requests.high * replies.high),
        cost_usd=_amount(
            _cost(tariff, requests.low, prompts.low, later.low, replies.low),
            _cost(tariff, requests.high, prompts.high, later.high, replies.high),
        ),
        judge_s=judged.of(task.definition.name, requests),
    )


def first_prompt_tokens(task: Task) -> int:
    """Tokens of the first round's messages, by the rule of thumb. What the judge would find out
    about the workloads before asking is left out: a few words."""
    brief = Brief(
        definition=task.definition,
        workloads=task.searched,
        target=task.target,
        language=task.language,
        toolchain=find_toolchain(),
        floors=declared_floors(task),
        held_out=len(task.held_out),
    )
    messages = render(brief, Proposal(Purpose.DRAFT, round=1))
    return math.ceil(sum(len(m.text) for m in messages) / CHARACTERS_PER_TOKEN)


def _requests(task: Task, goal: Goal) -> Count:
    """A run ends at the first version that passes, unless it is to go on; what cannot be measured
    here cannot be improved either."""
    measured = not task.target.is_gpu or find_toolchain().gpu is not None
    goes_on = goal.keep_improving and goal.target_speedup is None and measured
    return Count(low=goal.rounds if goes_on else 1, high=goal.rounds)


def _cost(tariff: _Tariff, requests: int, first: int, later: int, reply: int) -> float | None:
    """US dollars of so many requests. Each is priced by itself: long prompts have other prices."""
    opening = tariff.of(Usage(prompt=first, completion=reply))
    following = tariff.of(Usage(prompt=later, completion=reply))
    if opening is None or following is None:
        return None
    return opening + (requests - 1) * following


# -- prices ---------------------------------------------------------------------------------------


def _tariff(asking: Asking) -> _Tariff:
    price = asking.price
    if asking.model == BUILTIN_COMPILER:
        return _Tariff(lambda _: 0.0, "the embedded model is free")
    if asking.model.startswith(REPLAY):
        return _Tariff(lambda _: 0.0, "replies of a stored run are free")
    if asking.model != OFFLINE:
        url = base_url_of(asking.model, base_url=asking.base_url)
        told = "prices are those of genai-prices' table; nothing is taken as cached"
        share = 1.0
        if asking.batch:
            # A table says nothing of batches: where their share is unknown, so is their price.
            share = batch_share_of(asking.model, base_url=asking.base_url)
            told += "" if share is None else f"; a reply of a batch costs {share:.0%} of that"
        if share is not None and is_priced(asking.model, url):
            return _Tariff(lambda usage: share * (cost_usd(usage, asking.model, url) or 0.0), told)
    if price is not None:
        told = f"prices are as stated: ${price.prompt:g} and ${price.completion:g} per million"
        return _Tariff(price.of, f"{told} tokens of prompt and completion")
    return _Tariff(
        lambda _: None,
        f"the price of '{asking.model}' is not known: state it with --price PROMPT,COMPLETION",
    )


# -- sums and words -------------------------------------------------------------------------------


def _count(parts: Sequence[Count]) -> Count:
    return Count(low=sum(p.low for p in parts), high=sum(p.high for p in parts))


def _amount(low: float | None, high: float | None) -> Amount | None:
    return None if low is None or high is None else Amount(low=low, high=high)


def _sum_of(parts: Sequence[Amount | None]) -> Amount | None:
    """None where a part is unknown."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return Amount(low=sum(p.low for p in known), high=sum(p.high for p in known))


def _told_of_requests(requests: Count, goal: Goal) -> str:
    if requests.low == requests.high:
        return f"each definition takes {goal.rounds} request{'s' if goal.rounds > 1 else ''}"
    enough = "reaches the target" if goal.target_speedup is not None else "passes"
    return f"low: the first version {enough}; high: all {goal.rounds} rounds are used"


def _told_of_tokens(completion: Completion | None) -> list[str]:
    if completion is None:
        return []
    tokens, visible = completion.tokens, completion.visible
    if completion.replies:
        many = "replies" if completion.replies > 1 else "reply"
        reply = (
            f"a reply is {tokens.low:,} to {tokens.high:,} tokens: median and 90th percentile of "
            f"{completion.replies} earlier {many} of this model in the store"
        )
    else:
        reply = (
            f"a reply is assumed to be {tokens.low:,} to {tokens.high:,} tokens, reasoning "
            "included: the store has no earlier reply of this model"
        )
    return [
        f"the first prompt is the one that would be sent, {CHARACTERS_PER_TOKEN} characters taken "
        f"as a token; later ones also carry a source of {visible.low:,} to {visible.high:,} tokens "
        f"and up to {_FEEDBACK_TOKENS:,} of what the judge found",
        reply,
    ]


def _told_of_budget(max_usd: float | None, exceeds: bool | None) -> list[str]:
    if max_usd is None:
        return []
    if exceeds is None:
        return [f"whether --max-usd {max_usd:g} suffices cannot be told without a price"]
    if exceeds:
        return [f"the high end exceeds --max-usd {max_usd:g}, where the command would stop"]
    return [f"the high end stays within --max-usd {max_usd:g}"]
