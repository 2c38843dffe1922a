"""What a comparison accepts and says: special values, exact types, wider references, notes.

What the table's entries accept of each family of operations is in `test_mutants`.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernel_generator.evaluation.compare import compare
from kernel_generator.evaluation.tolerance import tolerance_for
from kernel_generator.sandbox.upcast import undecided

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2

ENTRIES = [
    # output, inputs
    (F32, F32),
    (F32, BF16),
    (F32, F16),
    (BF16, BF16),
    (F16, F16),
    (E4M3, BF16),
    (E5M2, BF16),
    (BF16, E4M3),
]
HALF_ENTRIES = [e for e in ENTRIES if e[0] in (BF16, F16) and e[1] in (BF16, F16)]
NAMES = [f"{o}-from-{i}".replace("torch.", "") for o, i in ENTRIES]
HALF_NAMES = [f"{o}-from-{i}".replace("torch.", "") for o, i in HALF_ENTRIES]


def accepted(got: torch.Tensor, expected: torch.Tensor, inputs: torch.dtype) -> bool:
    tolerance = tolerance_for(expected.dtype, {inputs})
    return compare("y", got, expected, tolerance).mismatch is None


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def values(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Operands of a product, float32 that the inputs' dtype can hold."""
    a, b = random(96, 256), random(256, 128, seed=1)
    return a.clamp(-4, 4).to(dtype).float(), b.clamp(-4, 4).to(dtype).float()


def product(output: torch.dtype, inputs: torch.dtype) -> torch.Tensor:
    a, b = values(inputs)
    return (a @ b / 16).to(output)


def in_tf32(x: torch.Tensor) -> torch.Tensor:
    """Ten bits of mantissa, rounded to nearest."""
    bits = x.view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize(("output", "inputs"), ENTRIES, ids=NAMES)
class TestEveryEntry:
    def test_accepts_the_reference_itself(self, output: torch.dtype, inputs: torch.dtype) -> None:
        expected = product(output, inputs)
        assert accepted(expected.clone(), expected, inputs)

    def test_accepts_a_sum_in_another_order(self, output: torch.dtype, inputs: torch.dtype) -> None:
        a, b = values(inputs)
        order = torch.randperm(256, generator=torch.Generator().manual_seed(2))
        parts = [a[:, p] @ b[p] for p in order.split(32)]
        got = (torch.stack(parts).sum(dim=0) / 16).to(output)
        assert accepted(got, product(output, inputs), inputs)

    def test_rejects_zeros(self, output: torch.dtype, inputs: torch.dtype) -> None:
        expected = product(output, inputs)
        assert not accepted(torch.zeros_like(expected), expected, inputs)

    def test_rejects_outputs_that_were_never_written(
        self, output: torch.dtype, inputs: torch.dtype
    ) -> None:
        expected = product(output, inputs)
        poisoned = torch.full_like(expected.view(torch.uint8), 0xFF).view(output)
        tolerance = tolerance_for(output, {inputs})
        mismatch = compare("y", poisoned, expected, tolerance).mismatch
        assert mismatch is not None
        assert mismatch.note == "never written"

    @pytest.mark.parametrize("filler", [0.0, math.nan])
    def test_rejects_a_missing_last_tile_of_a_row(
        self, output: torch.dtype, inputs: torch.dtype, filler: float
    ) -> None:
        expected = product(output, inputs)
        got = expected.clone()
        got[-1, -16:] = filler
        assert not accepted(got, expected, inputs)

    def test_rejects_a_missing_last_tile_of_the_sum(
        self, output: torch.dtype, inputs: torch.dtype
    ) -> None:
        a, b = values(inputs)
        got = (a[:, :-32] @ b[:-32] / 16).to(output)
        assert not accepted(got, product(output, inputs), inputs)

    def test_rejects_a_row_shifted_by_one(self, output: torch.dtype, inputs: torch.dtype) -> None:
        expected = product(output, inputs)
        assert not accepted(expected.roll(1, dims=-1), expected, inputs)

    def test_rejects_a_mask_that_is_off_by_one(
        self, output: torch.dtype, inputs: torch.dtype
    ) -> None:
        # Causal softmax over 128 keys: the mutant looks one key too far.
        scores, keys = values(inputs)[0][:, :128], values(inputs)[1][:128]

        def attend(offset: int) -> torch.Tensor:
            mask = torch.ones(96, 128).tril(offset).bool()
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return (weights @ keys).to(output)

        assert accepted(attend(0), attend(0), inputs)
        assert not accepted(attend(1), attend(0), inputs)

    def test_rejects_one_dropped_expert(self, output: torch.dtype, inputs: torch.dtype) -> None:
        a, b = values(inputs)
        experts = torch.stack([a @ b.roll(i, dims=0) / 64 for i in range(8)])
        expected = experts.sum(dim=0).to(output)
        assert not accepted(experts[:-1].sum(dim=0).to(output), expected, inputs)


@pytest.mark.parametrize(("output", "inputs"), HALF_ENTRIES, ids=HALF_NAMES)
class TestSixteenBitFloats:
    def test_intermediates_rounded_to_the_inputs_format_are_accepted(
        self, output: torch.dtype, inputs: torch.dtype
    ) -> None:
        # As flash attention does: probabilities are rounded before the second product.
        a, b = values(inputs)
        weights = a[:, :128].softmax(dim=-1)
        expected = (weights @ b[:128]).to(output)
        got = (weights.to(inputs).float() @ b[:128]).to(output)
        assert accepted(got, expected, inputs)

    @pytest.mark.parametrize("eight_bit", [E4M3, E5M2])
    def test_computing_in_fp8_is_rejected(
        self, output: torch.dtype, inputs: torch.dtype, eight_bit: torch.dtype
    ) -> None:
        a, b = values(inputs)
        got = (a.to(eight_bit).float() @ b.to(eight_bit).float() / 16).to(output)
        assert not accepted(got, product(output, inputs), inputs)

    def test_one_operand_in_fp8_is_rejected(self, output: torch.dtype, inputs: torch.dtype) -> None:
        a, b = values(inputs)
        got = (a @ b.to(E4M3).float() / 16).to(output)
        assert not accepted(got, product(output, inputs), inputs)

    def test_a_float32_output_may_have_intermediates_of_the_inputs_format(
        self, output: torch.dtype, inputs: torch.dtype
    ) -> None:
        del output
        a, b = values(inputs)
        weights = a[:, :128].softmax(dim=-1)
        assert accepted(weights.to(inputs).float() @ b[:128], weights @ b[:128], inputs)


def test_tf32_is_rejected_where_inputs_and_outputs_are_float32() -> None:
    a, b = values(F32)
    assert not accepted(in_tf32(a) @ in_tf32(b) / 16, product(F32, F32), F32)


def test_bf16_is_rejected_where_inputs_and_outputs_are_float32() -> None:
    a, b = values(F32)
    assert not accepted(a.to(BF16).float() @ b.to(BF16).float() / 16, product(F32, F32), F32)


def test_double_precision_is_accepted_for_float32() -> None:
    a, b = values(F32)
    assert accepted((a.double() @ b.double() / 16).float(), product(F32, F32), F32)


def test_four_bit_floats_are_rejected_for_fp8_outputs() -> None:
    expected = product(E4M3, BF16)
    grid = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    wide = expected.float()
    nearest = (wide.abs().unsqueeze(-1) - grid).abs().argmin(dim=-1)
    assert not accepted((grid[nearest] * wide.sign()).to(E4M3), expected, BF16)


class TestSpecialValues:
    SPECIAL = (math.nan, math.inf, -math.inf)

    @pytest.mark.parametrize("special", SPECIAL)
    def test_stand_where_the_reference_has_them(self, special: float) -> None:
        expected = random(4, 8)
        expected[1, 3] = special
        assert accepted(expected.clone(), expected, F32)

    @pytest.mark.parametrize("special", SPECIAL)
    @pytest.mark.parametrize("instead", [0.0, 1e30, *SPECIAL])
    def test_nothing_else_stands_there(self, special: float, instead: float) -> None:
        expected, got = random(4, 8), random(4, 8)
        expected[1, 3], got[1, 3] = special, instead
        same = special == instead or (math.isnan(special) and math.isnan(instead))
        assert accepted(got, expected, F32) is same

    @pytest.mark.parametrize("special", SPECIAL)
    def test_are_rejected_where_the_reference_is_finite(self, special: float) -> None:
        expected = random(4, 8)
        got = expected.clone()
        got[2, 5] = special
        mismatch = compare("y", got, expected, tolerance_for(F32, {F32})).mismatch
        assert mismatch is not None
        assert (mismatch.wrong, mismatch.first_index, mismatch.worst_index) == (1, (2, 5), (2, 5))

    def test_do_not_hide_an_error_elsewhere_in_their_row(self) -> None:
        expected = random(1, 8)
        expected[0, 0] = math.inf
        got = expected.clone()
        got[0, 7] += 1.0
        assert not accepted(got, expected, F32)

    def test_that_agree_leave_the_reported_errors_finite(self) -> None:
        expected = torch.tensor([[math.nan, math.inf, -math.inf, 1.0]])
        found = compare("y", expected.clone(), expected, tolerance_for(F32, {F32}))
        assert (found.max_absolute_error, found.max_relative_error) == (0.0, 0.0)


class TestExactTypes:
    @given(
        st.sampled_from([torch.int8, torch.int16, torch.int32, torch.int64]),
        st.lists(st.integers(-100, 100), min_size=1, max_size=20),
        st.integers(0, 19),
        st.sampled_from([-1, 1]),
    )
    def test_integers_are_equal_or_wrong(
        self, dtype: torch.dtype, items: list[int], at: int, off: int
    ) -> None:
        expected = torch.tensor(items, dtype=dtype)
        assert accepted(expected.clone(), expected, F32)
        got = expected.clone()
        got[at % len(items)] += off
        assert not accepted(got, expected, F32)

    def test_large_integers_are_not_compared_as_floats(self) -> None:
        expected = torch.tensor([2**62], dtype=torch.int64)
        assert not accepted(expected + 1, expected, F32)

    def test_booleans_are_equal_or_wrong(self) -> None:
        expected = torch.tensor([True, False])
        assert accepted(expected.clone(), expected, F32)
        assert not accepted(~expected, expected, F32)


@given(st.integers(0, 2**32), st.sampled_from([1e-3, 1.0, 700.0]), st.sampled_from(ENTRIES[:5]))
def test_scaling_both_sides_changes_nothing(
    seed: int, scale: float, entry: tuple[torch.dtype, torch.dtype]
) -> None:
    output, inputs = entry
    right = random(4, 32, seed=seed % 2**31)
    wrong = right * (1 + 0.3 * random(4, 32, seed=(seed + 1) % 2**31))
    assert accepted((right * scale).to(output), (right * scale).to(output), inputs)
    assert not accepted((wrong * scale).to(output), (right * scale).to(output), inputs)


@given(st.lists(st.integers(0, 4), min_size=0, max_size=4))
def test_every_shape_is_compared(shape: list[int]) -> None:
    expected = torch.full(shape, 2.0)
    assert accepted(expected.clone(), expected, F32)
    assert accepted(expected + 1, expected, F32) is (expected.numel() == 0)


def test_a_small_error_everywhere_fails_by_the_error_of_the_whole() -> None:
    expected = random(64, 64)
    mismatch = compare("y", expected * 1.0001, expected, tolerance_for(F32, {F32})).mismatch
    assert mismatch is not None
    assert mismatch.wrong == 0
    assert "error of the whole" in mismatch.note


class TestNotes:
    """What a mismatch says of itself."""

    def note(self, got: torch.Tensor, expected: torch.Tensor) -> str:
        mismatch = compare("y", got, expected, tolerance_for(F32, {F32})).mismatch
        assert mismatch is not None
        return mismatch.note

    def test_all_zeros(self) -> None:
        assert self.note(torch.zeros(8, 8), random(8, 8)) == "all zeros"

    def test_a_few_rows(self) -> None:
        got = random(8, 8)
        got[3] += 1
        assert self.note(got, random(8, 8)) == "only 1 of 8 rows are affected"

    def test_the_last_columns(self) -> None:
        got = random(8, 8)
        got[:, 6:] += 1
        assert self.note(got, random(8, 8)).endswith("columns are affected, from column 6 on")

    def test_the_first_and_the_worst_element(self) -> None:
        expected = random(4, 8)
        got = expected.clone()
        got[1, 2] += 1
        got[3, 4] -= 9
        mismatch = compare("y", got, expected, tolerance_for(F32, {F32})).mismatch
        assert mismatch is not None
        assert (mismatch.first_index, mismatch.worst_index) == ((1, 2), (3, 4))
        assert mismatch.worst_got == pytest.approx(mismatch.worst_expected - 9)
        assert (mismatch.wrong, mismatch.total) == (2, 32)


WIDE_SCALES = [1e-45, 1e-9, 1e-7, 1e-3, 1.0, 700.0, 3e4, 1e6]


class TestAReferenceInDoublePrecision:
    @pytest.mark.parametrize("scale", WIDE_SCALES)
    @pytest.mark.parametrize("output", [F32, BF16, F16, E5M2])
    def test_may_be_rounded_to_the_outputs_dtype(self, output: torch.dtype, scale: float) -> None:
        # Also where that is infinity, or zero.
        expected = random(16, 64).double() * scale
        tolerance = tolerance_for(output, {output})
        assert compare("y", expected.to(output), expected, tolerance).mismatch is None

    def test_may_overflow_only_where_it_does(self) -> None:
        expected = torch.tensor([[1e6, 1.0], [6e4, 1.0]], dtype=torch.float64)
        tolerance = tolerance_for(F16, {F16})
        for at, value, right in (
            ((0, 0), math.inf, True),
            ((0, 0), -math.inf, False),
            ((0, 0), 65504.0, False),
            ((1, 0), math.inf, False),
            ((0, 1), math.inf, False),
        ):
            got = expected.to(F16)
            got[at] = value
            assert (compare("y", got, expected, tolerance).mismatch is None) is right

    def test_that_overflows_does_not_hide_the_rest_of_its_row(self) -> None:
        expected = torch.tensor([[1e9, 100.0]], dtype=torch.float64)
        got = torch.tensor([[math.inf, 900.0]], dtype=F16)
        assert compare("y", got, expected, tolerance_for(F16, {F16})).mismatch is not None

    @pytest.mark.parametrize("output", [F32, BF16])
    def test_is_matched_by_subnormals_flushed_to_zero(self, output: torch.dtype) -> None:
        expected = torch.full((2, 4), 1e-39, dtype=torch.float64)
        tolerance = tolerance_for(output, {output})
        zeros = torch.zeros(2, 4, dtype=output)
        assert compare("y", zeros, expected, tolerance).mismatch is None
        assert compare("y", zeros, expected * 1e3, tolerance).mismatch is not None

    @pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
    def test_is_judged_alike_at_scales_whose_squares_float32_cannot_hold(
        self, scale: float
    ) -> None:
        right, tolerance = random(8, 64).double(), tolerance_for(BF16, {BF16})
        wrong = right.clone()
        wrong[3, 3] += 0.2
        expected = right * scale
        assert compare("y", expected.to(BF16), expected, tolerance).mismatch is None
        assert compare("y", (wrong * scale).to(BF16), expected, tolerance).mismatch is not None

    def test_leaves_flashinfer_benchs_figures_to_the_ordinary_reference(self) -> None:
        expected = torch.tensor([1.001, 2.0], dtype=torch.float64)
        ordinary = expected.to(BF16)
        got = torch.tensor([1.0, 2.015625], dtype=BF16)
        found = compare("y", got, expected, tolerance_for(BF16, {BF16}), ordinary)
        assert found.max_absolute_error == 0.015625
        assert found.max_relative_error == pytest.approx(0.0078125)


class TestUndecidedIndices:
    @pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
    def test_may_be_any(self, dtype: torch.dtype) -> None:
        expected = torch.tensor([[3, undecided(dtype), undecided(dtype), 7]], dtype=dtype)
        tolerance = tolerance_for(dtype, {F32})
        either = torch.tensor([[3, 5, 1, 7]], dtype=dtype)
        assert compare("y", either, expected, tolerance).mismatch is None
        assert compare("y", either + 1, expected, tolerance).mismatch is not None


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("columns", [1, 7, 1 << 14, 1 << 15, 40000])
def test_a_single_wrong_element_is_found_wherever_it_is(rows: int, columns: int) -> None:
    # Rows are looked at some at a time.
    expected = torch.ones(rows, columns)
    for flat in (0, rows * columns - 1):
        got = expected.clone()
        got.view(-1)[flat] += 0.01
        mismatch = compare("y", got, expected, tolerance_for(F32, {F32})).mismatch
        assert mismatch is not None
        assert mismatch.worst_index == (flat // columns, flat % columns)


@pytest.mark.gpu
def test_tensors_on_a_gpu_are_judged_as_on_the_cpu() -> None:
    expected = random(700, 300).double()
    got = expected.to(BF16)
    wrong = got.clone()
    wrong[600, 200] += 1
    tolerance = tolerance_for(BF16, {BF16})
    for output in (got, wrong):
        there = compare("y", output.cuda(), expected.cuda(), tolerance, got.cuda())
        assert there == compare("y", output, expected, tolerance, got)
