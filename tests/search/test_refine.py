"""The documented loop as a pure function of its history."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_generator.domain.outcome import Outcome
from kernel_generator.domain.proposal import Proposal, Purpose
from kernel_generator.search.ranking import best_index
from kernel_generator.search.refine import MAX_REPAIRS, Refine
from tests.runs.sets import an_attempt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_generator.domain.attempt import Attempt

STRATEGY = Refine()
PASSED, WRONG = Outcome.PASSED, Outcome.WRONG_VALUES


def played(outcomes: Sequence[Outcome], speedups: Sequence[float] = ()) -> list[Attempt]:
    """A history as the engine makes it: each attempt answers what the strategy proposed."""
    history: list[Attempt] = []
    for index, outcome in enumerate(outcomes):
        proposal = STRATEGY.propose(history)
        speedup = speedups[index] if index < len(speedups) else 1.0
        attempt = an_attempt(
            outcome, number=proposal.round, purpose=proposal.purpose, speedup=speedup
        )
        history.append(attempt)
    return history


histories = st.lists(
    st.builds(
        an_attempt,
        st.sampled_from(Outcome),
        number=st.integers(1, 9),
        purpose=st.sampled_from(Purpose),
        speedup=st.floats(0.01, 100.0),
        complete=st.booleans(),
        promoted=st.sampled_from([None, True, False]),
    ),
    max_size=12,
)


@given(histories)
def test_any_history_has_a_next_proposal_that_fits_it(history: list[Attempt]) -> None:
    proposal = STRATEGY.propose(history)
    assert proposal.round == len(history) + 1
    match proposal.purpose:
        case Purpose.DRAFT:
            assert proposal.parent is None
        case Purpose.REPAIR:
            assert proposal.parent is not None
            assert history[proposal.parent].outcome.is_candidates_fault
        case Purpose.IMPROVE:
            assert proposal.parent is not None
            assert history[proposal.parent].outcome.is_result


@given(histories)
def test_the_same_history_gives_the_same_proposal(history: list[Attempt]) -> None:
    assert Refine().propose(history) == Refine().propose(list(history))


@given(st.lists(st.sampled_from(Outcome), max_size=15))
def test_nothing_is_repaired_more_often_in_a_row_than_allowed(outcomes: list[Outcome]) -> None:
    in_a_row = 0
    for attempt in played(outcomes):
        in_a_row = in_a_row + 1 if attempt.proposal.purpose is Purpose.REPAIR else 0
        assert in_a_row <= MAX_REPAIRS


def test_the_first_proposal_is_a_draft() -> None:
    assert STRATEGY.propose([]) == Proposal(Purpose.DRAFT, 1)


def test_what_failed_last_is_repaired_with_its_own_evidence() -> None:
    assert STRATEGY.propose(played([WRONG])) == Proposal(Purpose.REPAIR, 2, parent=0)
    assert STRATEGY.propose(played([PASSED, WRONG])) == Proposal(Purpose.REPAIR, 3, parent=1)


def test_what_passed_is_improved_the_fastest_first() -> None:
    history = played([PASSED, PASSED, PASSED], [1.5, 3.0, 2.0])
    assert STRATEGY.propose(history) == Proposal(Purpose.IMPROVE, 4, parent=1)


def test_after_too_many_repairs_the_loop_goes_back_to_what_passed() -> None:
    history = played([PASSED] + [WRONG] * (MAX_REPAIRS + 1))
    assert STRATEGY.propose(history) == Proposal(Purpose.IMPROVE, MAX_REPAIRS + 3, parent=0)


def test_after_too_many_repairs_of_nothing_that_passed_the_loop_drafts_anew() -> None:
    history = played([WRONG] * (MAX_REPAIRS + 1))
    assert STRATEGY.propose(history) == Proposal(Purpose.DRAFT, MAX_REPAIRS + 2)


def test_what_could_not_be_tried_here_is_not_told_as_a_failure() -> None:
    assert STRATEGY.propose(played([Outcome.NOT_RUN])).purpose is Purpose.DRAFT


# --- ranking ---------------------------------------------------------------------------------


@given(histories)
def test_the_best_is_a_result_or_there_is_none(history: list[Attempt]) -> None:
    best = best_index(history)
    if best is None:
        assert not any(a.outcome.is_result for a in history)
    else:
        assert history[best].outcome.is_result


@given(histories)
def test_nothing_incomplete_beats_what_passed_everywhere(history: list[Attempt]) -> None:
    best = best_index(history)
    if any(a.evaluation and a.evaluation.complete for a in history):
        assert best is not None
        evaluation = history[best].evaluation
        assert evaluation is not None
        assert evaluation.complete


@pytest.mark.parametrize(("promoted", "best"), [(True, 1), (False, 0)])
def test_what_was_measured_beside_the_incumbent_is_best_where_it_was_promoted(
    promoted: bool, best: int
) -> None:
    # However fast each was beside the reference: that is another measurement.
    faster_then = an_attempt(PASSED, speedup=1.0 if promoted else 9.0, promoted=promoted)
    assert best_index([an_attempt(PASSED, speedup=2.0), faster_then]) == best


@given(histories)
def test_a_promoted_complete_result_is_best_until_another_one_is(history: list[Attempt]) -> None:
    winner = an_attempt(PASSED, promoted=True)
    loser = an_attempt(PASSED, speedup=1000.0, promoted=False)
    assert best_index([*history, winner, loser]) == len(history)


def test_what_the_incumbent_could_not_be_run_beside_is_compared_by_the_reference() -> None:
    history = [an_attempt(PASSED, speedup=s) for s in (2.0, 3.0, 2.5)]
    assert best_index(history) == 1


def test_of_two_equally_fast_the_earlier_is_best() -> None:
    assert best_index(played([PASSED, PASSED], [2.0, 2.0])) == 0


def test_what_was_measured_beats_what_was_not() -> None:
    unmeasured = an_attempt(Outcome.CORRECT_NOT_MEASURED)
    assert best_index([unmeasured, an_attempt(PASSED), unmeasured]) == 1
