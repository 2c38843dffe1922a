"""What a worker answered becomes an outcome and a sentence."""

from __future__ import annotations

import pytest

from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation.outcomes import last_line, of_build, of_run
from kernel_generator.sandbox.orders import Died, Failed, TimedOut
from kernel_generator.sandbox.wire import Fault


@pytest.mark.parametrize("fault", list(Fault))
def test_every_fault_that_a_child_can_report_is_an_outcome_that_is_no_result(fault: Fault) -> None:
    outcome, message = of_run(Failed(fault, "why"))
    assert not outcome.is_result
    assert message == "why"


@pytest.mark.parametrize(
    ("returncode", "outcome", "says"),
    [
        (-11, Outcome.CRASHED, "SIGSEGV"),
        (-6, Outcome.CRASHED, "SIGABRT"),
        (0, Outcome.CRASHED, "status 0"),
        (3, Outcome.CRASHED, "status 3"),
        (None, Outcome.CRASHED, "closed its channel"),
        (-9, Outcome.RESOURCE_LIMIT, "SIGKILL"),
    ],
)
def test_how_a_child_died_is_told(returncode: int | None, outcome: Outcome, says: str) -> None:
    for judged in (of_run, of_build):
        found, message = judged(Died(returncode))
        assert found is outcome
        assert says in message


def test_a_time_limit_is_named_with_what_took_too_long() -> None:
    assert of_build(TimedOut(300.0)) == (Outcome.TIMEOUT, "building took longer than 300 s")
    assert of_run(TimedOut(0.5)) == (Outcome.TIMEOUT, "a call took longer than 0.5 s")


def test_the_last_line_of_a_traceback_tells_the_most() -> None:
    assert (
        last_line(Failed(Fault.RUN, "Traceback\n  File x\nValueError: no\n\n")) == "ValueError: no"
    )
