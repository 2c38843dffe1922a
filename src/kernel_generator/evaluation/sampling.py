"""Judging samplers: exact support, and a chi-square test of the draws' distribution.

Target: keep the k most probable tokens, renormalise, then keep the smallest set whose mass reaches
p, renormalise (FlashInfer's "top-k first" order); each filter only where its input is declared.
For every draw s with distribution function F, u = F(s - 1) + v (F(s) - F(s - 1)), v uniform, is
uniform on [0, 1] iff the sampler is right (randomised probability integral transform), so draws
from different rows pool into one test. Tokens are put in two orders: by number, where a missing
tile shows, and by probability, where flattened or sharpened weights do.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flashinfer_bench import Definition

BUCKETS = 64
ENOUGH_DRAWS = 1024
"""16 expected draws a bucket."""
LEAST_DRAWS = 64
"""However slow the sampler: with fewer the test says little."""
TELLING_DRAWS = 32
"""With fewer there are two buckets at most, and nothing can be so uneven that it is found wrong."""
_DRAWS_A_BUCKET = 8
"""Fewer expected draws than this, and neighbouring buckets are merged."""
_TIE = 1e-6
"""Relative margin within which a token at the edge of a filter may be kept or dropped."""
_NORMAL_QUANTILE = 4.75
"""Of 1 - 1e-6: an honest sampler is turned away about once in a million tests."""


def is_sampler(definition: Definition) -> bool:
    """True for definitions that draw tokens from `probs` and are judged by distribution."""
    outputs = list(definition.outputs.values())
    return (
        definition.op_type == "sampling"
        and "probs" in definition.inputs
        and set(definition.inputs) <= {"probs", "top_k", "top_p"}
        and len(outputs) == 1
        and outputs[0].dtype.value in ("int64", "int32")
    )


@dataclass(frozen=True)
class Distribution:
    """What a sampler may draw, per row. float64 [rows, vocabulary]."""

    probabilities: torch.Tensor
    allowed: torch.Tensor
    """bool: tokens inside the filters, those within a tie of an edge included."""

    @cached_property
    def cumulative(self) -> torch.Tensor:
        """F of each token with the tokens in order of number and of probability, [2, ...]."""
        ordered, order = self.probabilities.sort(dim=-1, descending=True, stable=True)
        by_probability = torch.empty_like(ordered).scatter_(-1, order, ordered.cumsum(dim=-1))
        return torch.stack([self.probabilities.cumsum(dim=-1), by_probability])


def target_distribution(inputs: Mapping[str, torch.Tensor | float]) -> Distribution:
    """The distribution that `probs`, `top_k` and `top_p` describe; a scalar holds for every row."""
    mass = torch.as_tensor(inputs["probs"]).to(torch.float64)
    mass = mass / mass.sum(dim=-1, keepdim=True)
    allowed = mass > 0
    vocabulary = mass.shape[-1]
    if "top_k" in inputs:
        k = _for_each_row(inputs["top_k"], mass).to(torch.int64)
        k = torch.where((k <= 0) | (k > vocabulary), vocabulary, k)
        ordered = mass.sort(dim=-1, descending=True).values
        edge = ordered.gather(-1, (k - 1).unsqueeze(-1))
        allowed = allowed & (mass >= edge * (1 - _TIE))
        mass = torch.where(mass >= edge, mass, 0.0)
        mass = mass / mass.sum(dim=-1, keepdim=True)
    if "top_p" in inputs:
        p = _for_each_row(inputs["top_p"], mass).to(torch.float64).unsqueeze(-1)
        ordered, order = mass.sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered
        inside = torch.zeros(mass.shape, dtype=torch.bool, device=mass.device)
        near = torch.zeros_like(inside)
        inside.scatter_(-1, order, (before < p) | (p >= 1))
        near.scatter_(-1, order, (before < p + _TIE) | (p >= 1))
        allowed = allowed & near
        mass = torch.where(inside, mass, 0.0)
        mass = mass / mass.sum(dim=-1, keepdim=True)
    return Distribution(mass, allowed)


def _for_each_row(value: torch.Tensor | float, mass: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(value, device=mass.device).reshape(-1).expand(len(mass))


def outside_support(draws: torch.Tensor, distribution: Distribution) -> str | None:
    """A sentence naming the first draw that is no token, or one that is filtered out."""
    rows, vocabulary = distribution.allowed.shape
    tokens = draws.to(torch.int64).reshape(-1)
    bad_range = (tokens < 0) | (tokens >= vocabulary)
    if bool(bad_range.any()):
        row = int(bad_range.to(torch.uint8).argmax())
        return f"row {row}: sample {int(tokens[row])} is not a token (vocabulary {vocabulary})"
    allowed = distribution.allowed[torch.arange(rows, device=tokens.device), tokens]
    if not bool(allowed.all()):
        row = int((~allowed).to(torch.uint8).argmax())
        return (
            f"row {row}: token {int(tokens[row])} was drawn, which the filters exclude "
            f"(probability {float(distribution.probabilities[row, tokens[row]]):.3g})"
        )
    return None


class DrawCounter:
    """Pools draws and tests their distribution."""

    def __init__(self) -> None:
        self._counts = np.zeros((2, BUCKETS))
        self._rng = np.random.default_rng()

    @property
    def draws(self) -> int:
        """How many were counted."""
        return int(self._counts[0].sum())

    def add(self, draws: torch.Tensor, distribution: Distribution) -> None:
        """Count one call's draws, int [rows]; all of them inside the support."""
        tokens = draws.to(torch.int64).reshape(-1)
        rows = torch.arange(len(tokens), device=tokens.device)
        width = distribution.probabilities[rows, tokens].cpu().numpy()
        for order, cumulative in enumerate(distribution.cumulative):
            u = cumulative[rows, tokens].cpu().numpy() - self._rng.random(len(width)) * width
            buckets = np.clip((u * BUCKETS).astype(int), 0, BUCKETS - 1)
            self._counts[order] += np.bincount(buckets, minlength=BUCKETS)

    def verdict(self) -> str | None:
        """A sentence where the draws do not follow the target; None where they may.

        Few draws can be tested, too: an honest sampler is turned away less than twice in a million
        tests from 1 to 64 draws (exact sums over the multinomial distribution).
        """
        buckets = BUCKETS
        while buckets > 2 and self.draws < buckets * _DRAWS_A_BUCKET:
            buckets //= 2
        counts = self._counts.reshape(2, buckets, -1).sum(axis=2)
        expected = self.draws / buckets
        statistic = float(((counts - expected) ** 2 / expected).sum(axis=1).max())
        limit = _chi_square_limit(buckets - 1)
        if statistic <= limit:
            return None
        return (
            f"{self.draws} draws do not follow the filtered distribution: chi-square "
            f"{statistic:.0f} over {buckets} buckets of equal mass, at most {limit:.0f} is accepted"
        )


def _chi_square_limit(degrees: int) -> float:
    """The quantile by Wilson and Hilferty's approximation (PNAS 17:684, 1931)."""
    spread = 2.0 / (9.0 * degrees)
    return degrees * (1.0 - spread + _NORMAL_QUANTILE * spread**0.5) ** 3
