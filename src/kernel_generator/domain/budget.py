"""What runs may spend, and what a token costs where no table says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernel_generator.domain.conversation import Usage

_MILLION = 1e6


@dataclass(frozen=True)
class Budget:
    """Limits of all runs that share it. None: no limit."""

    usd: float | None = None
    tokens: int | None = None
    """Prompt and completion together."""
    device_s: float | None = None
    """Seconds in which the judge had a candidate."""
    wall_s: float | None = None


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens."""

    prompt: float
    completion: float

    def of(self, usage: Usage) -> float:
        """US dollars of a reply; cached tokens at the full price."""
        return (usage.prompt * self.prompt + usage.completion * self.completion) / _MILLION
