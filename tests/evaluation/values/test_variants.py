"""What floats look like, per dtype and variant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from flashinfer_bench.bench.utils import gen_inputs

from kernel_generator.evaluation.values import CPU, Variant, Where, draw, variants, vary
from tests.evaluation.values import attention, checks, defining, families

if TYPE_CHECKING:
    from flashinfer_bench import Definition

FLOATS = ["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
INTEGERS = ["int64", "int32", "int16", "int8", "bool"]


def one_input(dtype: str, name: str = "x", columns: int = 64) -> Definition:
    return defining.defined(
        "one",
        "normalisation",
        {"rows": None, "columns": columns},
        {name: f"{dtype} rows columns"},
        {"y": "float32 rows"},
        f"\ndef run({name}):\n    return {name}\n",
    )


def drawn(
    dtype: str,
    variant: Variant = Variant.RANDOM,
    rows: int = 400,
    varied: bool = False,
    where: Where = CPU,
) -> torch.Tensor:
    definition = one_input(dtype)
    which = defining.workload(definition, rows=rows)
    values = draw(definition, which, None, torch.Generator().manual_seed(3), variant, where)
    if varied:
        values = vary(definition, which, values, torch.Generator().manual_seed(4))
    return values.tensors["x"]


BOTH = pytest.mark.parametrize("varied", [False, True], ids=["drawn", "varied"])
ANY_FLOAT = pytest.mark.parametrize("dtype", FLOATS)


@defining.EITHER_WAY
@BOTH
@ANY_FLOAT
def test_random_floats_have_the_distribution_of_flashinfer_bench(
    dtype: str, varied: bool, where: Where
) -> None:
    definition = one_input(dtype)
    which = defining.workload(definition, rows=400)
    theirs = gen_inputs(definition, which, "cpu")[0].float()
    mine = drawn(dtype, varied=varied, where=where).float()
    assert mine.mean().abs() < 0.03
    assert mine.std() == pytest.approx(float(theirs.std()), rel=0.03)
    assert mine.abs().max() == pytest.approx(float(theirs.abs().max()), rel=0.4)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_unknown_integers_have_the_range_of_flashinfer_bench(dtype: str) -> None:
    definition = one_input(dtype)
    which = defining.workload(definition, rows=400)
    theirs = gen_inputs(definition, which, "cpu")[0].long()
    mine = drawn(dtype).long()
    assert int(mine.min()) == pytest.approx(int(theirs.min()), abs=4)
    assert int(mine.max()) == pytest.approx(int(theirs.max()), abs=4)


@defining.EITHER_WAY
@BOTH
def test_packed_fp4_holds_clipped_normal_numbers(varied: bool, where: Where) -> None:
    data = drawn("float4_e2m1", varied=varied, where=where).view(torch.uint8)
    codes = torch.stack([data & 15, data >> 4]).long()
    value = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])[codes & 7]
    signed = torch.where(codes > 7, -value, value)
    assert signed.mean().abs() < 0.03
    assert signed.std() == pytest.approx(0.95, abs=0.08)
    assert signed.abs().max() == 2.0


@defining.EITHER_WAY
@BOTH
@ANY_FLOAT
def test_tiny_and_huge_are_far_from_ordinary_and_still_resolved(
    dtype: str, varied: bool, where: Where
) -> None:
    tiny = drawn(dtype, Variant.TINY, varied=varied, where=where).float()
    huge = drawn(dtype, Variant.HUGE, varied=varied, where=where).float()
    assert tiny.abs().max() < 0.05
    assert tiny.unique().numel() > 10
    assert huge.isfinite().all()
    assert huge.std() > 10.0


@defining.EITHER_WAY
@BOTH
@ANY_FLOAT
def test_outliers_stand_in_a_few_channels(dtype: str, varied: bool, where: Where) -> None:
    size = drawn(dtype, Variant.OUTLIERS, varied=varied, where=where).float().abs().mean(dim=0)
    assert 1 <= int((size > 20.0).sum()) <= 3


@defining.EITHER_WAY
@BOTH
@ANY_FLOAT
def test_equal_is_one_value_and_not_zero(dtype: str, varied: bool, where: Where) -> None:
    values = drawn(dtype, Variant.EQUAL, varied=varied, where=where).float().unique()
    assert values.numel() == 1
    assert values.item() != 0.0


@defining.EITHER_WAY
@BOTH
@ANY_FLOAT
def test_alternating_changes_its_sign_with_each_channel(
    dtype: str, varied: bool, where: Where
) -> None:
    values = drawn(dtype, Variant.ALTERNATING, varied=varied, where=where).float()
    assert bool((values[:, ::2] >= 0).all())
    assert bool((values[:, 1::2] <= 0).all())


@defining.EITHER_WAY
@BOTH
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_denormal_numbers_stand_beside_ordinary_ones(
    dtype: str, varied: bool, where: Where
) -> None:
    values = drawn(dtype, Variant.DENORMAL, varied=varied, where=where)
    small = (values != 0) & (values.abs() < torch.finfo(values.dtype).tiny)
    assert small.float().mean() == pytest.approx(1 / 8, abs=0.03)
    assert values.float().std() > 0.8


@defining.EITHER_WAY
@BOTH
def test_a_large_tensor_keeps_its_variant_and_repeats_no_row(varied: bool, where: Where) -> None:
    values = drawn("bfloat16", Variant.ALTERNATING, rows=40_000, varied=varied, where=where)
    assert bool((values[:, ::2] >= 0).all())
    first = values[0].expand(40_000, 64)
    assert int((values == first).all(dim=1).sum()) < 40


@defining.EITHER_WAY
def test_a_variation_of_a_large_tensor_consists_of_new_numbers(where: Where) -> None:
    before, after = (drawn("float32", rows=40_000, varied=v, where=where) for v in (False, True))
    assert torch.isin(after, before).float().mean() < 0.05
    assert after.std() == pytest.approx(1.0, abs=0.02)


def test_products_of_huge_fp16_stay_in_range() -> None:
    which = defining.workload(families.GEMM, M=129)
    values = draw(families.GEMM, which, None, torch.Generator().manual_seed(0), Variant.HUGE)
    assert checks.run_reference(families.GEMM, values)["C"].isfinite().all()
    assert values.tensors["A"].float().std() > 100
    assert values.tensors["B"].float().std() == pytest.approx(1.0, abs=0.05)


def test_block_scales_are_positive_in_every_variant() -> None:
    which = defining.workload(families.MOE, seq_len=9)
    for variant in variants(families.MOE):
        values = draw(families.MOE, which, None, torch.Generator().manual_seed(0), variant)
        scales = [t for n, t in values.tensors.items() if n.endswith("scale")]
        assert len(scales) == 3
        assert all(bool((s > 0).all()) for s in scales)


def test_keys_of_a_delta_rule_have_unit_length() -> None:
    which = defining.workload(families.GDN_PREFILL, total_seq_len=50, num_seqs=2, len_cu_seqlens=3)
    values = draw(families.GDN_PREFILL, which, None, torch.Generator().manual_seed(0))
    length = values.tensors["k"].float().norm(dim=-1)
    assert torch.allclose(length, torch.ones_like(length), atol=0.01)


def test_top_k_reaches_both_ends() -> None:
    which = defining.workload(families.SAMPLING, batch_size=20)
    top_k = draw(families.SAMPLING, which, None, torch.Generator().manual_seed(0)).tensors["top_k"]
    assert {int(top_k.min()), int(top_k.max())} == {1, 500}


@pytest.mark.parametrize(
    ("definition", "axes", "expected"),
    [
        (attention.TABLED, {"batch_size": 1, "max_pages_per_seq": 1, "num_pages": 1}, 0.25),
        (families.GDN_DECODE, {"batch_size": 1}, 0.25),
    ],
    ids=["attention", "gdn"],
)
def test_a_softmax_scale_that_nobody_gave_follows_from_the_head(
    definition: Definition, axes: dict[str, int], expected: float
) -> None:
    values = draw(definition, defining.workload(definition, **axes), None, torch.Generator())
    assert list(values.scalars.values()) == [expected]


@pytest.mark.parametrize("name", ["x", "weight", "gate_up"])
@ANY_FLOAT
def test_no_row_of_a_large_tensor_comes_again(dtype: str, name: str) -> None:
    # Filled from a pool of 512 rows of this width.
    definition = one_input(dtype, name, columns=1024)
    which = defining.workload(definition, rows=2048)
    values = draw(definition, which, None, torch.Generator().manual_seed(3))
    found = vary(definition, which, values, torch.Generator().manual_seed(4)).tensors[name]
    rows = found.double()

    def however_rotated(row: torch.Tensor) -> torch.Tensor:
        return (row * row.roll(8, dims=1)).sum(dim=1) + (row * row.roll(16, dims=1)).sum(dim=1) / 3

    assert len(however_rotated(rows).unique()) > 2040
    assert len(however_rotated(rows.abs()).round(decimals=6).unique()) <= 512
    assert 0.45 < float((rows < 0).double().mean()) < 0.55
