"""What to ask for next: the purpose of a request and the attempts it builds on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Purpose(StrEnum):
    """What a request wants from the model."""

    DRAFT = "draft"
    REPAIR = "repair"
    IMPROVE = "improve"


@dataclass(frozen=True)
class Proposal:
    """One decision of a search strategy."""

    purpose: Purpose
    round: int
    """1-based."""
    parent: int | None = None
    """Index into the history of the attempt to repair or improve; None for a draft."""
    sample: int = 0
    """0-based index among independent samples of the same round."""
