"""Estimates: the prompt that would be sent, figures of earlier runs, and prices that are known."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_generator.domain.budget import Price
from kernel_generator.domain.conversation import Finish, Reply, Usage
from kernel_generator.domain.errors import InvalidInput, UnknownName
from kernel_generator.domain.evaluation import Device
from kernel_generator.domain.outcome import Outcome
from kernel_generator.domain.proposal import Proposal, Purpose
from kernel_generator.domain.target import TARGETS
from kernel_generator.models.scripted import ScriptedModel
from kernel_generator.prompts.render import render
from kernel_generator.runs.author import Author
from kernel_generator.runs.engine import Run
from kernel_generator.runs.estimate import (
    CHARACTERS_PER_TOKEN,
    Asking,
    estimate,
    first_prompt_tokens,
)
from kernel_generator.runs.goal import Goal
from kernel_generator.runs.journal import Journal
from kernel_generator.runs.precedents import ASSUMED
from kernel_generator.runs.tasks import make_task
from kernel_generator.search.refine import Refine
from tests.desk import without_a_gpu
from tests.prompts.records import attempt as an_evaluated
from tests.prompts.records import brief
from tests.runs.ledgers import a_run, a_try
from tests.runs.sets import RIGHT, a_traceset, an_evaluation
from tests.runs.test_journal import Recorded

if TYPE_CHECKING:
    from kernel_generator.domain.task import Task
    from kernel_generator.runs.journal import KnownRun

GPT = Asking("gpt-5", Goal(3))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    traceset = a_traceset(tmp_path_factory.mktemp("set"))
    return make_task(traceset, traceset.definitions["scale_add"], TARGETS["CPU"], "python")


def answered(*usages: Usage, model: str = "gpt-5", effort: str | None = None) -> KnownRun:
    """A run of a model that answered so."""
    run = a_run(
        *(
            replace(a_try(Outcome.EMPTY_REPLY), reply=Reply("", Finish.COMPLETE, model, usage))
            for usage in usages
        )
    )
    told = run.settings.model_copy(update={"model": model, "reasoning_effort": effort})
    return replace(run, settings=told)


def judged(*seconds: float, host: str | None = None, definition: str = "scale_add") -> KnownRun:
    """A run whose versions took so long to judge, on this machine unless told otherwise."""
    device = Device(kind="cpu", name="a CPU", host=host or socket.gethostname())
    verdicts = [
        an_evaluation().model_copy(update={"seconds": second, "device": device})
        for second in seconds
    ]
    return a_run(*(replace(a_try(), evaluation=v) for v in verdicts), definition=definition)


def notes(task: Task, asking: Asking, *known: KnownRun) -> str:
    return "\n".join(estimate([task], asking, known).notes)


# --- tokens ---------------------------------------------------------------------------------------


def test_the_first_prompt_is_the_one_that_the_engine_sends(task: Task) -> None:
    model, judge = ScriptedModel([RIGHT]), Recorded(an_evaluation())
    asyncio.run(Run(task, Author(model), judge, Refine(), Goal(1), Journal()).work())
    sent = sum(len(message.text) for message in model.asked[0].messages)
    assert first_prompt_tokens(task) == pytest.approx(sent / CHARACTERS_PER_TOKEN, rel=0.05)


def test_a_later_prompt_with_a_large_source_and_a_long_log_stays_below_the_high_end(
    task: Task,
) -> None:
    one, two = (estimate([task], Asking("gpt-5", Goal(rounds))) for rounds in (1, 2))
    most = (two.prompt_tokens.high - one.prompt_tokens.high) * CHARACTERS_PER_TOKEN
    source = {"main.py": "x" * ASSUMED.visible.high * CHARACTERS_PER_TOKEN}
    failed = an_evaluation(Outcome.RUNTIME_ERROR).model_copy(
        update={"message": "no such size\n" * 5_000, "log": "warning\n" * 5_000}
    )
    here = brief("python", definition=task.definition, workloads=task.searched)
    later = render(
        here,
        Proposal(Purpose.REPAIR, 2, parent=0),
        [an_evaluated(failed, "python", source)],
    )
    first = render(here, Proposal(Purpose.DRAFT, 1))
    grown = sum(len(m.text) for m in later) - sum(len(m.text) for m in first)
    assert len(source["main.py"]) < grown
    assert grown + one.prompt_tokens.high * CHARACTERS_PER_TOKEN <= most


def test_replies_are_like_earlier_ones_of_the_model(task: Task) -> None:
    usages = [Usage(10, 0, n * 1000, n * 600) for n in range(1, 11)]
    found = estimate([task], GPT, [answered(*usages[:4]), answered(*usages[4:])])
    assert found.completion is not None
    assert (found.completion.tokens.low, found.completion.tokens.high) == (5000, 9000)
    assert (found.completion.visible.low, found.completion.visible.high) == (2000, 3600)
    assert (found.completion_tokens.low, found.completion_tokens.high) == (5000, 27000)
    assert "median and 90th percentile of 10 earlier replies" in "\n".join(found.notes)


@pytest.mark.parametrize(
    "other",
    [
        answered(Usage(1, 0, 7), model="gpt-4o"),
        answered(Usage(1, 0, 7), effort="high"),
        answered(Usage(1, 0, 0)),
        answered(),
    ],
    ids=["of another model", "with another effort", "without tokens", "none"],
)
def test_without_a_like_reply_figures_are_assumed_and_said_to_be(
    task: Task, other: KnownRun
) -> None:
    found = estimate([task], GPT, [other])
    assert found.completion == ASSUMED
    assert "a reply is assumed to be 2,000 to 16,000 tokens" in "\n".join(found.notes)


@pytest.mark.parametrize(
    ("goal", "low"),
    [(Goal(4), 1), (Goal(4, keep_improving=True), 4), (Goal(4, True, 1.5), 1)],
    ids=["until one passes", "improving", "until the target"],
)
def test_requests_are_those_of_the_goal(task: Task, goal: Goal, low: int) -> None:
    found = estimate([task], Asking("gpt-5", goal))
    assert (found.requests.low, found.requests.high) == (low, 4)


@without_a_gpu
def test_what_cannot_be_measured_here_is_not_improved_either(task: Task) -> None:
    elsewhere = replace(task, target=TARGETS["H100"], language="triton")
    assert estimate([elsewhere], Asking("gpt-5", Goal(4, keep_improving=True))).requests.low == 1


# --- dollars --------------------------------------------------------------------------------------


def test_a_price_of_the_table_needs_no_key(task: Task, bare_environment: None) -> None:
    cost = estimate([task], GPT).cost_usd
    assert cost is not None
    assert 0 < cost.low < cost.high
    assert "genai-prices' table" in notes(task, GPT)


def test_an_unknown_price_is_unknown_until_it_is_stated(task: Task, bare_environment: None) -> None:
    asking = Asking("some/model", Goal(2), base_url="http://127.0.0.1:1/v1", max_usd=1.0)
    found = estimate([task], asking)
    assert (found.cost_usd, found.exceeds_max_usd) == (None, None)
    assert "the price of 'some/model' is not known: state it with --price" in "\n".join(found.notes)
    assert "cannot be told without a price" in found.notes[-1]
    stated = estimate([task], replace(asking, price=Price(2.0, 10.0)))
    assert stated.cost_usd is not None
    tokens = stated.prompt_tokens.high, stated.completion_tokens.high
    assert stated.cost_usd.high == pytest.approx(tokens[0] * 2e-6 + tokens[1] * 10e-6)


def test_the_table_comes_before_what_is_stated_as_in_a_run(task: Task) -> None:
    dear = replace(GPT, price=Price(1e6, 1e6))
    assert estimate([task], dear).cost_usd == estimate([task], GPT).cost_usd


def test_the_embedded_model_is_free_and_counts_no_tokens(task: Task) -> None:
    found = estimate([task], Asking("builtin:compiler", Goal(3), max_usd=0.0))
    assert found.cost_usd is not None
    assert (found.cost_usd.low, found.cost_usd.high) == (0.0, 0.0)
    assert (found.prompt_tokens.high, found.completion) == (0, None)
    assert found.exceeds_max_usd is False
    assert "the embedded model is free" in found.notes


def test_what_is_answered_elsewhere_has_a_price_where_one_is_stated(task: Task) -> None:
    assert estimate([task], Asking("offline", Goal(1))).cost_usd is None
    assert estimate([task], Asking("offline", Goal(1), price=Price(1, 1))).cost_usd is not None


def test_a_replay_is_free_and_as_long_as_what_it_replays(task: Task) -> None:
    run = answered(Usage(1, 0, 70), Usage(1, 0, 70))
    found = estimate([task], Asking(f"replay:{run.run_id}", Goal(1)), [run])
    assert found.cost_usd is not None
    assert (found.cost_usd.high, found.completion_tokens.high) == (0.0, 70)


@pytest.mark.parametrize(("max_usd", "exceeds"), [(0.001, True), (1e6, False), (None, None)])
def test_the_high_end_is_held_against_the_budget(
    task: Task, max_usd: float | None, exceeds: bool | None
) -> None:
    assert estimate([task], replace(GPT, max_usd=max_usd)).exceeds_max_usd is exceeds


def test_a_model_that_could_not_be_asked_is_refused(task: Task, bare_environment: None) -> None:
    with pytest.raises(InvalidInput, match="cannot be told from its name"):
        estimate([task], Asking("gtp-5", Goal(1)))
    with pytest.raises(InvalidInput, match="is the host of anthropic"):
        estimate([task], Asking("gpt-5", Goal(1), base_url="https://api.anthropic.com/v1/"))
    with pytest.raises(UnknownName, match="did you mean 'builtin:compiler'"):
        estimate([task], Asking("builtin:compilr", Goal(1)))


# --- the judge ------------------------------------------------------------------------------------


def test_the_judges_time_is_that_of_earlier_verdicts_of_the_definition(task: Task) -> None:
    known = [judged(2.0, 3.0, 10.0), judged(500.0, definition="another")]
    time = estimate([task], GPT, known).judge_s
    assert time is not None
    assert (time.low, time.high) == (3.0, 30.0)


def test_a_new_definition_takes_as_long_as_others_did(task: Task) -> None:
    time = estimate([task], GPT, [judged(4.0, definition="another")]).judge_s
    assert time is not None
    assert (time.low, time.high) == (4.0, 12.0)


def test_verdicts_of_other_machines_say_nothing_of_this_one(task: Task) -> None:
    found = estimate([task], GPT, [judged(4.0, host="elsewhere.example")])
    assert found.judge_s is None
    assert "the judge's time is not estimated" in found.notes[-1]


# --- sums -----------------------------------------------------------------------------------------

USAGES = st.builds(Usage, st.just(5), st.just(0), st.integers(1, 50_000), st.integers(0, 50_000))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 8),
    st.booleans(),
    st.lists(USAGES, max_size=5),
    st.lists(st.floats(0.1, 100), max_size=3),
    st.integers(1, 3),
)
def test_low_is_never_above_high_and_sums_are_those_of_the_definitions(
    task: Task,
    rounds: int,
    improving: bool,
    usages: list[Usage],
    seconds: list[float],
    count: int,
) -> None:
    asking = Asking("gpt-5", Goal(rounds, improving), price=Price(1.0, 2.0))
    found = estimate([task] * count, asking, [answered(*usages), judged(*seconds)])
    for one in (*found.definitions, found):
        for span in (one.requests, one.prompt_tokens, one.completion_tokens):
            assert 0 < span.low <= span.high
        assert one.cost_usd is not None
        assert one.cost_usd.low <= one.cost_usd.high
        assert (one.judge_s is None) is (not seconds)
    first, cost = found.definitions[0], found.cost_usd
    assert found.prompt_tokens.high == count * first.prompt_tokens.high
    assert found.requests.low == count * first.requests.low
    assert cost is not None
    assert first.cost_usd is not None
    assert cost.high == pytest.approx(count * first.cost_usd.high)


def test_one_definition_that_was_never_judged_leaves_the_sum_of_time_open(task: Task) -> None:
    assert estimate([task, task], GPT).judge_s is None


def test_a_batch_costs_what_its_provider_asks_for_it(task: Task) -> None:
    whole, batched = estimate([task], GPT), estimate([task], replace(GPT, batch=True))
    assert whole.cost_usd is not None
    assert batched.cost_usd is not None
    assert batched.cost_usd.high == pytest.approx(whole.cost_usd.high / 2)
    assert any("a reply of a batch costs 50% of that" in note for note in batched.notes)
    stated = Asking("some/model", Goal(2), base_url="http://127.0.0.1:1/v1", price=Price(2, 10))
    assert estimate([task], replace(stated, batch=True)) == estimate([task], stated)
