"""Constraints between axes, solved with the least change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_generator.evaluation.values.constraints import satisfied


@given(st.integers(0, 500))
def test_an_equation_gives_its_left_side(batch: int) -> None:
    axes = satisfied({"batch": batch, "n": 1}, ["n", "batch"], ["n == batch + 1"])
    assert axes == {"batch": batch, "n": batch + 1}


@given(st.integers(1, 300), st.integers(1, 64))
def test_a_multiple_is_rounded_up(length: int, chunk: int) -> None:
    axes = satisfied({"length": length, "c": chunk}, ["length"], ["length % c == 0"])
    assert axes == {"length": -(-length // chunk) * chunk, "c": chunk}


def test_a_bound_raises_the_first_free_axis_that_can_meet_it() -> None:
    assert satisfied({"k": 100, "pages": 1}, ["pages"], ["k <= pages * 8"]) == {
        "k": 100,
        "pages": 13,
    }


@pytest.mark.parametrize(
    "constraint", ["n == x[-1].item()", "x.shape[0] == n", "f(n)", "1 == n // zero"]
)
def test_what_speaks_of_tensors_is_left_alone(constraint: str) -> None:
    assert satisfied({"n": 3, "zero": 0}, ["n"], [constraint]) == {"n": 3, "zero": 0}


def test_a_contradiction_has_no_solution() -> None:
    assert satisfied({"n": 3, "c": 4}, ["n"], ["c == 5"]) is None
