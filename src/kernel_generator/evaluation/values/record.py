"""What a trial's inputs are: a variant of the floats, and the values themselves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from kernel_generator.evaluation.values.sequences import Batch


class Variant(StrEnum):
    """What the floats of a trial look like. Roles that a variant would make meaningless (weights,
    block scales, decay gates, normalised keys) keep their ordinary values."""

    RANDOM = "random"
    """FlashInfer-Bench's own distributions."""
    TINY = "tiny"
    """A thousandth of the ordinary size, or what the format still resolves."""
    HUGE = "huge"
    """700 times the ordinary size, or what format and operation bear."""
    OUTLIERS = "outliers"
    """A few channels (tokens, experts) 100 times as large as the others."""
    EQUAL = "equal"
    """One value everywhere in a tensor."""
    ALTERNATING = "alternating"
    """Signs alternate along the last axis."""
    DENORMAL = "denormal"
    """Every eighth channel holds subnormal numbers: they must do no harm, though hardware may
    flush them to zero, so the ordinary channels beside them carry the result."""


class Profile(StrEnum):
    """How work is shared out among sequences and experts where no captured input says so."""

    RANDOM = "random"
    EVEN = "even"
    SKEWED = "skewed"
    """One sequence has most of the tokens, a few experts most of the tokens."""
    EMPTY = "empty"
    """Some sequences have nothing, some slots are padding, no token is for a local expert."""
    SINGLE = "single"
    """One token or page for each sequence, where the axes are so."""


@dataclass(frozen=True)
class Where:
    """Where tensors are made and stay, and how."""

    device: torch.device
    pooled: bool
    """True: large tensors are filled from a pool of new numbers, which is quicker where making
    numbers costs more than moving them. False: every number is new."""

    @staticmethod
    def on(device: str | torch.device) -> Where:
        """The quicker way on this device."""
        chosen = torch.device(device)
        return Where(chosen, pooled=chosen.type == "cpu")


CPU = Where.on("cpu")


@dataclass(frozen=True)
class Values:
    """One set of inputs for a workload."""

    tensors: dict[str, torch.Tensor]
    """By input name, on `where.device`, contiguous, of exactly the declared shape and dtype."""
    scalars: dict[str, int | float | bool]
    """By input name, what a caller passes as a Python number."""
    synthetic: tuple[str, ...] = ()
    """Inputs whose captured values are missing here and that were generated instead."""
    unvaried: tuple[str, ...] = ()
    """Sentences about inputs that are the same in every trial for want of knowing their meaning."""
    variant: Variant = Variant.RANDOM
    where: Where = CPU
    batch: Batch | None = None
    """The sequences that the tensors describe, for varying them; None where there are none."""

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(t.nbytes for t in self.tensors.values())
