"""What timed calls left is judged call by call, although several are compared together."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation import compare
from kernel_generator.evaluation.case import Case, Errors, Subject
from kernel_generator.evaluation.compare import find_mismatch, find_wrong_call
from kernel_generator.evaluation.findings import Findings
from kernel_generator.evaluation.rounds import Looked
from kernel_generator.evaluation.tolerance import tolerance_for
from kernel_generator.evaluation.trials import Trials
from kernel_generator.evaluation.wrong import Wrong
from kernel_generator.sandbox.arena import Arena, view
from tests.evaluation.judging import CORRECTNESS, DOUBLE, TINY, task, workload

if TYPE_CHECKING:
    from kernel_generator.sandbox.worker import Worker

CALLS = 8
TOLERANCE = tolerance_for(torch.float32, {torch.float32})
SLIGHTLY_OFF = 1.0 + 2.4 * TOLERANCE.relative_l2
"""Of one call alone too much, of eight together not: that is less than the root of eight."""


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("wrong", [0, 3, CALLS - 1])
@pytest.mark.parametrize("shape", [(40, 30), (7,), (2, 3, 5)], ids=str)
@pytest.mark.parametrize("chunk", [16, 1 << 15])
def test_a_call_whose_error_others_would_hide_is_found(
    wrong: int, shape: tuple[int, ...], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(compare._CHUNK, "cpu", chunk)  # type: ignore[reportPrivateUsage]
    expected = random(CALLS, *shape)
    assert find_wrong_call("y", expected.clone(), expected, TOLERANCE) is None
    got = expected.clone()
    got[wrong] *= SLIGHTLY_OFF
    assert find_mismatch("y", got, expected, TOLERANCE) is None
    alone = find_mismatch("y", got[wrong], expected[wrong], TOLERANCE)
    assert alone is not None
    assert find_wrong_call("y", got, expected, TOLERANCE) == alone


def test_a_single_value_is_held_against_its_own_call() -> None:
    expected = torch.tensor([1e6, 1.0, -1e6])
    got = torch.tensor([1e6, 1.5, -1e6])
    assert find_mismatch("y", got, expected, TOLERANCE) is None
    mismatch = find_wrong_call("y", got, expected, TOLERANCE)
    assert mismatch is not None
    assert (mismatch.worst_got, mismatch.worst_expected, mismatch.total) == (1.5, 1.0, 1)


@settings(max_examples=60, deadline=None)
@given(
    calls=st.integers(1, 4),
    shape=st.lists(st.integers(0, 4), max_size=3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.int64]),
    special=st.sampled_from([0.0, 1e-3, 1.0, float("nan"), float("inf")]),
    data=st.data(),
)
def test_calls_are_found_as_each_would_be_alone(
    calls: int, shape: list[int], dtype: torch.dtype, special: float, data: st.DataObject
) -> None:
    expected = (random(calls, *shape) * 8).to(dtype)
    got = expected.clone()
    if got.numel() and (dtype.is_floating_point or special == 1.0):
        at = data.draw(st.integers(0, got.numel() - 1))
        got.view(-1)[at] = got.view(-1)[at].item() + special
    alone = [find_mismatch("y", got[n], expected[n], TOLERANCE) for n in range(calls)]
    first = next((mismatch for mismatch in alone if mismatch is not None), None)
    # NaN is not itself.
    assert repr(find_wrong_call("y", got, expected, TOLERANCE)) == repr(first)


def test_one_timed_call_of_many_that_is_slightly_off_is_wrong() -> None:
    which = workload()
    nobody = cast("Worker", None)
    trials = Trials(task(), "cpu", TINY, nobody, seed=1, revive=lambda: None)
    layout = trials.plan(which).layout(0, CALLS)
    arena = Arena.create(layout)
    for index in range(CALLS):
        view(arena.sets[index], layout.inputs[0]).copy_(random(5, 64, seed=index))
        view(arena.sets[index], layout.outputs[0]).copy_(random(5, 64, seed=index) * 2)
    before, reference = arena.sets.clone(), arena.sets.clone()
    case = Case(
        Subject("candidate", nobody, stores=False), which, arena, CORRECTNESS, Errors(), before
    )
    findings = Findings(DOUBLE, trials)
    findings.of_timed(case, Looked(before, arena.sets.clone(), reference))
    # Twice as much is allowed where the reference rounds, too.
    view(arena.sets[4], layout.outputs[0]).mul_(2 * SLIGHTLY_OFF - 1.0)
    with pytest.raises(Wrong, match="of a timed call") as found:
        findings.of_timed(case, Looked(before, arena.sets.clone(), reference))
    assert found.value.outcome is Outcome.WRONG_VALUES
    arena.close()
