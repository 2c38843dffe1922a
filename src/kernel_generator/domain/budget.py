"""What runs may spend, what asks for it, and what a token costs where no table says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

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


class Permit(Protocol):
    """Whether something may begin that waits for its turn: asked when the turn has come."""

    @property
    def left_s(self) -> float | None:
        """How much longer there is any use in waiting; None where nothing limits it."""
        ...

    def check(self) -> None:
        """Raises `BudgetSpent` where it may not begin any more."""
        ...


class Unlimited:
    """A `Permit` for whatever no budget is about."""

    left_s = None

    def check(self) -> None:
        """It may always begin."""


UNLIMITED = Unlimited()


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens."""

    prompt: float
    completion: float

    def of(self, usage: Usage) -> float:
        """US dollars of a reply; cached tokens at the full price."""
        return (usage.prompt * self.prompt + usage.completion * self.completion) / _MILLION
