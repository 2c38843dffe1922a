"""Samplers are judged by their support and by the distribution of their draws."""

from __future__ import annotations

import pytest
import torch
from flashinfer_bench.data import Definition
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_generator.evaluation.sampling import (
    ENOUGH_DRAWS,
    DrawCounter,
    is_sampler,
    outside_support,
    target_distribution,
)


def probabilities(rows: int, vocabulary: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(torch.randn(rows, vocabulary, generator=generator), dim=-1)


def verdict(
    probs: torch.Tensor, drawn_from: torch.Tensor, draws: int = ENOUGH_DRAWS, **filters: object
) -> str | None:
    """Draw from one distribution, test against another."""
    target = target_distribution({"probs": probs, **filters})  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(7)
    counter = DrawCounter()
    while counter.draws < draws:
        tokens = torch.multinomial(drawn_from, 1, generator=generator).squeeze(-1)
        reason = outside_support(tokens, target)
        if reason is not None:
            return reason
        counter.add(tokens, target)
    return counter.verdict()


class TestTarget:
    def test_without_filters_is_what_is_given(self) -> None:
        probs = probabilities(3, 10)
        found = target_distribution({"probs": probs})
        assert torch.allclose(found.probabilities, probs.double())
        assert bool(found.allowed.all())

    def test_top_k_keeps_the_k_most_probable(self) -> None:
        probs = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
        found = target_distribution({"probs": probs, "top_k": torch.tensor([2])})
        assert found.allowed.tolist() == [[False, True, False, True]]
        assert found.probabilities[0].tolist() == pytest.approx([0, 4 / 7, 0, 3 / 7])

    def test_top_p_keeps_the_smallest_set_that_reaches_p(self) -> None:
        probs = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
        found = target_distribution({"probs": probs, "top_p": torch.tensor([0.6])})
        assert found.allowed.tolist() == [[False, True, False, True]]

    def test_applies_top_k_before_top_p(self) -> None:
        # Among the two that top-k leaves, the first alone reaches 0.55.
        probs = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
        filters = {"top_k": torch.tensor([2]), "top_p": torch.tensor([0.55])}
        found = target_distribution({"probs": probs, **filters})
        assert found.allowed.tolist() == [[False, True, False, False]]

    def test_takes_a_scalar_filter_for_every_row(self) -> None:
        probs = probabilities(4, 10)
        each = target_distribution({"probs": probs, "top_k": torch.full((4,), 3)})
        scalar = target_distribution({"probs": probs, "top_k": 3})
        assert torch.equal(each.probabilities, scalar.probabilities)

    @pytest.mark.parametrize("k", [0, -1, 10, 11])
    def test_with_k_out_of_range_does_not_filter(self, k: int) -> None:
        found = target_distribution({"probs": probabilities(2, 10), "top_k": torch.full((2,), k)})
        assert bool(found.allowed.all())

    def test_allows_either_of_two_tokens_that_tie_at_the_edge(self) -> None:
        probs = torch.tensor([[0.5, 0.25, 0.25]])
        found = target_distribution({"probs": probs, "top_k": torch.tensor([2])})
        assert bool(found.allowed.all())

    @given(st.integers(1, 5), st.integers(2, 30), st.integers(1, 30), st.floats(0.01, 1.0))
    @settings(max_examples=50)
    def test_is_a_distribution_on_allowed_tokens(
        self, rows: int, vocabulary: int, k: int, p: float
    ) -> None:
        found = target_distribution(
            {"probs": probabilities(rows, vocabulary), "top_k": k, "top_p": p}
        )
        assert found.probabilities.sum(dim=-1).tolist() == pytest.approx([1.0] * rows)
        assert bool((found.allowed | (found.probabilities == 0)).all())


class TestSupport:
    TARGET = target_distribution({"probs": torch.tensor([[0.7, 0.3, 0.0]] * 2)})

    @pytest.mark.parametrize("token", [-1, 3, 2**40])
    def test_what_is_no_token_is_named(self, token: int) -> None:
        said = outside_support(torch.tensor([0, token]), self.TARGET)
        assert said is not None
        assert said.startswith(f"row 1: sample {token} is not a token")

    def test_an_excluded_token_is_named(self) -> None:
        said = outside_support(torch.tensor([2, 0]), self.TARGET)
        assert said is not None
        assert "row 0: token 2" in said

    def test_allowed_tokens_are_fine(self) -> None:
        assert outside_support(torch.tensor([1, 0]), self.TARGET) is None


class TestDraws:
    @given(st.integers(0, 1000), st.integers(2, 200), st.integers(1, 64))
    @settings(max_examples=25, deadline=None)
    def test_of_a_right_sampler_pass(self, seed: int, vocabulary: int, rows: int) -> None:
        probs = probabilities(rows, vocabulary, seed)
        assert verdict(probs, probs) is None

    @pytest.mark.parametrize("draws", [32, 40, 64, 100, 300, 1024])
    def test_that_are_always_the_most_probable_fail(self, draws: int) -> None:
        probs = probabilities(8, 1000)
        greedy = torch.nn.functional.one_hot(probs.argmax(dim=-1), 1000).double()
        assert verdict(probs, greedy, draws) is not None

    @pytest.mark.parametrize("draws", [16, 40, 100, 300, 1024])
    def test_of_a_right_sampler_pass_however_few(self, draws: int) -> None:
        probs = probabilities(8, 1000)
        assert verdict(probs, probs, draws) is None

    def test_from_uniform_weights_fail(self) -> None:
        probs = torch.softmax(3 * torch.randn(8, 100, generator=torch.Generator()), dim=-1)
        assert verdict(probs, torch.ones(8, 100)) is not None

    @pytest.mark.parametrize("sharper", [0.0, 0.5, 2.0], ids=["uniform", "flatter", "sharper"])
    def test_with_other_weights_inside_the_filters_fail(self, sharper: float) -> None:
        probs = probabilities(8, 50)
        filters = {"top_k": 20, "top_p": torch.full((8,), 0.7)}
        right = target_distribution({"probs": probs, **filters}).probabilities
        wrong = torch.where(right > 0, right**sharper, 0.0)
        assert verdict(probs, wrong, **filters) is not None

    def test_that_leave_out_the_last_tile_of_the_vocabulary_fail(self) -> None:
        probs = probabilities(8, 1000)
        wrong = probs.clone()
        wrong[:, 900:] = 0
        assert verdict(probs, wrong) is not None

    def test_that_ignore_top_p_fail(self) -> None:
        probs = probabilities(8, 100)
        assert verdict(probs, probs, top_p=torch.full((8,), 0.5)) is not None

    def test_that_forget_to_renormalise_a_temperature_fail(self) -> None:
        probs = probabilities(8, 100)
        assert verdict(probs, probs**2) is not None


def described(op_type: str, output: str = "int64", *, extra: bool = False) -> Definition:
    inputs = {"probs": {"shape": ["n"], "dtype": "float32"}}
    if extra:
        inputs["uniform"] = {"shape": ["n"], "dtype": "float32"}
    return Definition.model_validate(
        {
            "name": "d",
            "op_type": op_type,
            "axes": {"n": {"type": "var"}},
            "inputs": inputs,
            "outputs": {"y": {"shape": ["n"], "dtype": output}},
            "reference": f"def run({', '.join(inputs)}):\n    return probs\n",
        }
    )


def test_only_definitions_that_draw_tokens_are_judged_as_samplers() -> None:
    assert is_sampler(described("sampling"))
    assert is_sampler(described("sampling", "int32"))
    assert not is_sampler(described("sampling", "float32"))
    assert not is_sampler(described("softmax"))
    # With its randomness among the inputs, a sampler is a function like any other.
    assert not is_sampler(described("sampling", extra=True))
