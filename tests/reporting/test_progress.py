"""Progress: plain lines from events, in which nothing that a model said is interpreted."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from kernel_generator.domain.attempt import Attempt
from kernel_generator.domain.conversation import Finish, Reply, Usage
from kernel_generator.domain.events import (
    Attempted,
    Notice,
    Replied,
    RunFinished,
    RunStarted,
    SampleRead,
    SamplingStarted,
)
from kernel_generator.domain.outcome import Outcome
from kernel_generator.domain.proposal import Proposal, Purpose
from kernel_generator.reporting.progress import Progress
from tests.runs.sets import an_attempt

DRAFT = Proposal(Purpose.DRAFT, 1)


def shown(*events: object) -> str:
    text = io.StringIO()
    progress = Progress(Console(file=text, width=400))
    for event in events:
        progress(event)
    return text.getvalue()


def a_reply(**changed: object) -> Reply:
    return replace(Reply("text", Finish.COMPLETE, "m", Usage(prompt=10, completion=5)), **changed)


def test_a_run_tells_what_is_asked_of_whom_for_what() -> None:
    line = shown(RunStarted("id1", "d", "gpt-5", "triton", "H100", 5, 4, 2))
    assert "gpt-5 writes triton for H100; 4 workloads searched, 2 held out (run id1)" in line


def test_a_passed_attempt_tells_speedup_tokens_cost_and_time() -> None:
    attempt = replace(an_attempt(), reply=a_reply(cost_usd=0.5, seconds=3.0))
    line = shown(Attempted("r", attempt, is_best=True))
    assert "round 1 draft: PASSED; 2.00x [2.00, 2.00] the reference" in line
    assert "10 + 5 tokens; $0.5000; answered in 3.0 s; judged in" in line
    assert line.rstrip().endswith("<- best")


def test_a_failed_attempt_tells_the_line_that_names_the_error() -> None:
    message = "Traceback (most recent call last):\n  File 'main.py'\nValueError: no such size"
    attempt = Attempt(DRAFT, None, Outcome.RUNTIME_ERROR, message)
    assert "RUNTIME_ERROR; ValueError: no such size" in shown(Attempted("r", attempt, False))


def test_what_a_model_said_is_text_and_never_markup() -> None:
    attempt = Attempt(DRAFT, None, Outcome.MALFORMED_REPLY, "[bold]x[/bold] [/] [red")
    assert "[bold]x[/bold] [/] [red" in shown(Attempted("r", attempt, False))


def test_a_notice_is_told_once() -> None:
    assert shown(Notice("mind the gap"), Notice("mind the gap")).count("mind the gap") == 1


def test_the_same_notice_of_two_runs_is_told_twice() -> None:
    text = shown(Notice("mind the gap", "r1"), Notice("mind the gap", "r2"))
    assert text.count("mind the gap") == 2


def test_why_a_run_ended_is_told() -> None:
    assert "a version passed" in shown(RunFinished("id1", "a version passed", None))


def test_one_unknown_price_makes_the_total_unknown() -> None:
    progress = Progress(Console(file=io.StringIO()))
    progress(Replied("r", DRAFT, a_reply(cost_usd=0.25)))
    assert progress.cost_usd == 0.25
    progress(Replied("r", DRAFT, a_reply(cost_usd=None)))
    progress(Replied("r", DRAFT, a_reply(cost_usd=0.25)))
    assert progress.cost_usd is None
    assert progress.usage == Usage(prompt=30, completion=15)


def test_a_result_tells_which_workloads_it_leaves_open() -> None:
    attempt = an_attempt()
    assert attempt.evaluation is not None
    told = "1 of 2 workloads cannot be run here: its blob is missing"
    evaluation = attempt.evaluation.model_copy(update={"message": told})
    line = shown(Attempted("r", replace(attempt, evaluation=evaluation), is_best=True))
    assert f"2.00x [2.00, 2.00] the reference; {told}" in line


def test_samples_are_told_by_number_with_what_each_took() -> None:
    sample = Proposal(Purpose.DRAFT, 1, sample=1)
    unread = Attempt(sample, None, Outcome.EMPTY_REPLY, "")
    text = shown(
        SamplingStarted("id1", "d", "gpt-5", "triton", "H100", 2),
        Attempted("r", unread, is_best=False),
        SampleRead("r", sample, a_reply(cost_usd=0.5, seconds=3.0), "d_gpt-5"),
    )
    assert "gpt-5 writes triton for H100; 2 independent samples, not evaluated (run id1)" in text
    assert "sample 2, round 1 draft: EMPTY_REPLY" in text
    assert "sample 2: read d_gpt-5; 10 + 5 tokens; $0.5000; answered in 3.0 s" in text
