"""Inputs as the workload describes them: captured ones untouched, the others drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from kernel_generator.evaluation.inputs import InputsUnavailable
from kernel_generator.evaluation.values import Where, as_described, edge_workloads, vary
from tests.evaluation.values import attention, checks, defining, families
from tests.evaluation.values.capturing import AXES, PAGES, captured, named, sequences

if TYPE_CHECKING:
    from pathlib import Path


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@defining.EITHER_WAY
def test_captured_pages_are_given_bit_by_bit(tmp_path: Path, where: Where) -> None:
    which = captured(attention.MLA_DECODE, tmp_path, PAGES, **AXES)
    values = as_described(attention.MLA_DECODE, which, tmp_path, generator(), where)
    checks.assert_fits(attention.MLA_DECODE, which, values)
    assert all(torch.equal(values.tensors[n], t) for n, t in PAGES.items())
    assert values.synthetic == ()


@defining.EITHER_WAY
def test_captured_floats_are_given_bit_by_bit(tmp_path: Path, where: Where) -> None:
    kept = {"dt_bias": torch.linspace(-7, -3, 4), "state": torch.rand(5, 4, 16, 16)}
    which = captured(families.GDN_DECODE, tmp_path, kept, batch_size=5)
    values = as_described(families.GDN_DECODE, which, tmp_path, generator(), where)
    assert all(torch.equal(values.tensors[n], t) for n, t in kept.items())


@defining.EITHER_WAY
def test_missing_ones_follow_those_that_are_there_and_are_named(
    tmp_path: Path, where: Where
) -> None:
    captured(attention.MLA_DECODE, tmp_path, {"kv_indptr": PAGES["kv_indptr"]}, **AXES)
    which = named(attention.MLA_DECODE, ("kv_indptr",), **AXES)
    lost = named(attention.MLA_DECODE, ("kv_indices",), **AXES).inputs["kv_indices"]
    lost = lost.model_copy(update={"path": "b.safetensors"})
    which = which.model_copy(update={"inputs": {**which.inputs, "kv_indices": lost}})
    values = as_described(attention.MLA_DECODE, which, tmp_path, generator(), where)
    checks.assert_fits(attention.MLA_DECODE, which, values)
    assert torch.equal(values.tensors["kv_indptr"], PAGES["kv_indptr"])
    assert values.synthetic == ("kv_indices",)


@defining.EITHER_WAY
def test_a_variation_keeps_the_lengths_and_leaves_the_original(
    tmp_path: Path, where: Where
) -> None:
    which = captured(attention.MLA_DECODE, tmp_path, PAGES, **AXES)
    values = as_described(attention.MLA_DECODE, which, tmp_path, generator(), where)
    before = {n: checks.raw(t) for n, t in values.tensors.items()}
    other = vary(attention.MLA_DECODE, which, values, generator(2))
    checks.assert_fits(attention.MLA_DECODE, which, other)
    assert sorted(map(len, sequences(other))) == sorted(map(len, sequences(values)))
    assert {n: checks.raw(t) for n, t in values.tensors.items()} == before
    assert {n: checks.raw(t) for n, t in other.tensors.items()} != before


@defining.EITHER_WAY
@pytest.mark.parametrize("name", sorted(families.FAMILIES))
def test_the_reference_answers_what_is_drawn_for_any_family(name: str, where: Where) -> None:
    definition = families.FAMILIES[name]
    for which in edge_workloads(definition, ()):
        values = as_described(definition, which, None, generator(), where)
        checks.assert_fits(definition, which, values)
        for output in checks.run_reference(definition, values).values():
            assert not output.isnan().any(), which.uuid


def test_the_same_generator_gives_the_same_values() -> None:
    which = defining.workload(families.GEMM, M=3)
    first, second, other = (
        as_described(families.GEMM, which, None, generator(seed)) for seed in (5, 5, 6)
    )
    assert checks.raw(first.tensors["A"]) == checks.raw(second.tensors["A"])
    assert checks.raw(first.tensors["A"]) != checks.raw(other.tensors["A"])


def test_a_captured_scalar_is_a_number(tmp_path: Path) -> None:
    which = captured(attention.MLA_DECODE, tmp_path, {"sm_scale": torch.tensor(0.5)}, **AXES)
    values = as_described(attention.MLA_DECODE, which, tmp_path, generator())
    assert values.scalars == {"sm_scale": 0.5}


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    wrong = {**PAGES, "kv_indices": PAGES["kv_indices"][:-1].clone()}
    which = captured(attention.MLA_DECODE, tmp_path, wrong, **AXES)
    with pytest.raises(InputsUnavailable, match=r"'kv_indices' .* says torch.int32 \[6\]"):
        as_described(attention.MLA_DECODE, which, tmp_path, generator())
