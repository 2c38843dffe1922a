"""A reference in double precision: what its operations give, and what is refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional

from kernel_generator.sandbox.upcast import NotUpcast, run_upcast, undecided, upcast
from tests.sandbox.upcasting import agree, ints, randn

if TYPE_CHECKING:
    from collections.abc import Callable

BF16, F32, F64 = torch.bfloat16, torch.float32, torch.float64
E4M3 = torch.float8_e4m3fn


# -- single operations -----------------------------------------------------------------------------

X = randn(4, 8)
B = randn(4, 8).to(BF16)
ONES = torch.tensor([1, 1])

OPERATIONS: dict[str, tuple[Callable[..., Any], torch.Tensor, torch.Tensor]] = {
    "to float32": (lambda x: x.to(torch.float32) / 3, X, X.double() / 3),
    "float()": (lambda x: (x / 3).float(), X, X.double() / 3),
    "half()": (lambda x: (x.float() / 3).half(), B, B.double() / 3),
    "type_as": (lambda x: (x.float() / 3).type_as(x), B, B.double() / 3),
    "a literal": (lambda x: x * torch.tensor(0.1), X, X.double() * 0.1),
    "a literal with a dtype": (
        lambda x: x * torch.tensor([0.1], dtype=torch.float32),
        X,
        X.double() * 0.1,
    ),
    "full": (lambda x: x + torch.full((8,), 0.1, dtype=torch.float32), X, X.double() + 0.1),
    "new_full": (lambda x: x + x.new_full((8,), 0.1), X, X.double() + 0.1),
    "arange": (
        lambda x: x * torch.arange(8, dtype=x.dtype) / 3,
        X,
        X.double() * torch.arange(8) / 3,
    ),
    "quotient of integers": (
        lambda x: x * (torch.arange(8) / 3),
        X,
        X.double() * torch.arange(8) / 3,
    ),
    "in place": (lambda x: x.clone().div_(3).mul_(x), X, X.double() ** 2 / 3),
    "out=": (lambda x: torch.div(x, 3, out=torch.empty_like(x)), X, X.double() / 3),
    "cumsum": (lambda x: x.cumsum(-1, dtype=torch.float32), B, B.double().cumsum(-1)),
    "sum with a dtype": (lambda x: x.sum(-1, dtype=torch.float32), B, B.double().sum(-1)),
    "softmax with a dtype": (
        lambda x: functional.softmax(x, dim=-1, dtype=torch.float32),
        B,
        B.double().softmax(-1),
    ),
    "exp2 and log2": (lambda x: torch.log2(1 + torch.exp2(x)), X, (1 + 2 ** X.double()).log2()),
    "einsum": (lambda x: torch.einsum("ij,kj->ik", x, x), B, B.double() @ B.double().T),
    "attention": (
        lambda x: functional.scaled_dot_product_attention(x[None], x[None], x[None])[0],
        B,
        (B.double() @ B.double().T / math.sqrt(8)).softmax(-1) @ B.double(),
    ),
    "rms_norm without eps": (
        lambda x: functional.rms_norm(x, (8,)),
        X * 1e-3,
        (y := (X * 1e-3).double()) / (y.square().mean(-1, True) + 2.0**-23).sqrt(),
    ),
    "index_put_": (
        lambda x: torch.zeros_like(x).index_put_(
            (torch.tensor([1, 1]),), x[:2] / 3, accumulate=True
        ),
        X,
        torch.zeros(4, 8, dtype=F64).index_add_(0, ONES, X[:2].double() / 3),
    ),
    "a view of the bits": (
        lambda x: (x.view(torch.int16).to(torch.int32) << 16).view(torch.float32) / 3,
        B,
        B.double() / 3,
    ),
    "complex rotation": (
        lambda x: torch.view_as_real(
            torch.view_as_complex(x.reshape(4, 4, 2)) * torch.polar(x[:, :4].abs(), x[:, 4:])
        ),
        X,
        torch.view_as_real(
            torch.view_as_complex(X.double().reshape(4, 4, 2))
            * torch.polar(X[:, :4].double().abs(), X[:, 4:].double())
        ),
    ),
    "inference mode": (
        torch.inference_mode()(lambda x: (x.float() / 3).to(x.dtype)),
        B,
        B.double() / 3,
    ),
    "autocast": (torch.autocast("cpu", BF16)(lambda x: x @ x.T), B, B.double() @ B.double().T),
    "a number": (lambda x: float((x / 3).sum()), X, (X.double() / 3).sum()),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_compute_in_double_precision(name: str) -> None:
    function, given, by_hand = OPERATIONS[name]
    agree(run_upcast(function, [given]), [by_hand])


def test_a_cast_to_an_8_bit_float_rounds_to_its_grid() -> None:
    def quantise(x: torch.Tensor) -> torch.Tensor:
        scale = x.float().abs().amax(dim=-1, keepdim=True) / 448.0
        return (x.float() / scale).to(torch.float8_e4m3fn).float() * scale

    scale = B.double().abs().amax(dim=-1, keepdim=True) / 448
    agree(run_upcast(quantise, [B]), [(B.double() / scale).to(E4M3).double() * scale])


def test_values_kept_in_an_8_bit_buffer_round_to_its_grid() -> None:
    def quantise(x: torch.Tensor) -> torch.Tensor:
        kept = torch.empty(x.shape, dtype=torch.float8_e4m3fn)
        kept[:] = x.float() / 3
        return kept.float() / 7

    agree(run_upcast(quantise, [B]), [(B.double() / 3).to(E4M3).double() / 7])


def test_a_cast_to_16_bits_is_kept_only_where_all_inputs_are_wider() -> None:
    def narrowed(x: torch.Tensor) -> torch.Tensor:
        return (x.float() / 3).to(torch.bfloat16).float() * 3

    agree(run_upcast(narrowed, [B]), [B.double()])
    agree(run_upcast(narrowed, [X]), [(X.double() / 3).to(BF16).double() * 3])


def test_choices_are_those_of_double_precision() -> None:
    def last(x: torch.Tensor) -> torch.Tensor:
        # Equal in float32.
        return (x + torch.tensor([0.0, 1e-9])).argmax(dim=-1)

    assert run_upcast(last, [torch.ones(1, 2)])[0].item() == 1
    assert last(torch.ones(1, 2)).item() == 0


def test_integers_and_booleans_are_returned_as_they_are() -> None:
    found = run_upcast(lambda x: (x > 0, (x * 4).to(torch.int8), 3), [X])
    assert [t.dtype for t in found] == [torch.bool, torch.int8, torch.int64]


def test_dtypes_of_inputs_are_as_declared() -> None:
    def checked(x: torch.Tensor) -> torch.Tensor:
        assert x.dtype == torch.bfloat16
        return torch.zeros(2, dtype=x.dtype) + 0.1

    agree(run_upcast(checked, [B]), [torch.full((2,), 0.1, dtype=F64)])


def test_inputs_and_the_default_dtype_are_left_alone() -> None:
    before = X.clone()
    run_upcast(lambda x: x.clone().mul_(2), [X])
    assert torch.equal(X, before)
    assert torch.get_default_dtype() == F32


# -- ties ------------------------------------------------------------------------------------------


class TestTies:
    SCORES = torch.tensor([[5.0, 4.0, 4.0 + 1e-6, 1.0, 3.0], [5.0, 4.0, 2.0, 1.0, 3.0]])

    @pytest.mark.parametrize("is_sorted", [True, False])
    def test_within_float32_rounding_leave_the_index_open(self, is_sorted: bool) -> None:
        def top(x: torch.Tensor) -> torch.Tensor:
            return torch.topk(x, 4, dim=-1, sorted=is_sorted).indices.to(torch.int32)

        (found,) = run_upcast(top, [self.SCORES])
        anything = undecided(torch.int32)
        assert sorted(found[0].tolist()) == [anything, anything, 0, 4]
        assert sorted(found[1].tolist()) == [0, 1, 2, 4]

    def test_with_what_is_not_chosen_leave_it_open_too(self) -> None:
        found = upcast(lambda x: torch.topk(x, 2, dim=-1).indices, [self.SCORES])
        assert found.outputs[0].tolist() == [[0, undecided(torch.int64)], [0, 1]]
        assert found.near_ties == 1

    def test_in_a_ranking_leave_it_open(self) -> None:
        (found,) = run_upcast(lambda x: x.argsort(dim=0), [self.SCORES.T.contiguous()])
        assert found[:, 1].tolist() == [3, 2, 4, 1, 0]
        assert (found[:, 0] == undecided(torch.int64)).sum() == 2


# -- what defeats it -------------------------------------------------------------------------------


def own_operation(x: torch.Tensor) -> torch.Tensor:
    return torch.ops.upcast_test.twice(x)


@pytest.fixture(scope="module", autouse=True)
def _an_operation_of_its_own() -> None:
    torch.library.custom_op(
        "upcast_test::twice", lambda x: x * 2, mutates_args=(), schema="(Tensor x) -> Tensor"
    )


def checks_what_it_computed(x: torch.Tensor) -> torch.Tensor:
    y = x.float() * 2
    assert y.dtype == torch.float32
    return y


DEFEATS: dict[str, tuple[Callable[..., Any], str]] = {
    "an operation of its own": (own_operation, "not torch's own"),
    "numpy": (lambda x: torch.from_numpy((x * 2).numpy()), "numpy"),
    "a pointer": (lambda x: x.data_ptr() and x, "data_ptr"),
    "dlpack": (lambda x: torch.from_dlpack((x * 2).__dlpack__()), "dlpack"),
    "a check of a dtype": (checks_what_it_computed, "AssertionError"),
    "a write into an input": (lambda x: x.mul_(2), "writes into"),
    "bits of what it computed": (lambda x: (x * 2).view(torch.int32), "bits"),
    "something else returned": (lambda x: {"y": x}, "returns a dict"),
}


@pytest.mark.parametrize("name", DEFEATS)
def test_what_cannot_be_trusted_is_refused_with_a_reason(name: str) -> None:
    function, says = DEFEATS[name]
    with pytest.raises(NotUpcast, match=says):
        run_upcast(function, [X.clone()])


def test_integers_may_leave_torch() -> None:
    (found,) = run_upcast(lambda x, n: x[: int(n.cpu().numpy()[0])] / 3, [X, ints(2)])
    agree([found], [X[:2].double() / 3])
