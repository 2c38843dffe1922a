"""When a run ends."""

from __future__ import annotations

from dataclasses import dataclass

from kernel_generator.domain.errors import InvalidInput


@dataclass(frozen=True)
class Goal:
    """When a run ends."""

    rounds: int = 5
    """Most versions asked for."""
    keep_improving: bool = False
    """Use the remaining rounds after the first version that passes."""
    target_speedup: float | None = None
    """Go on until the speedup over the reference reaches this."""

    @property
    def improves(self) -> bool:
        """True where passing alone does not end the run."""
        return self.keep_improving or self.target_speedup is not None


def check_goal(goal: Goal) -> Goal:
    """The goal as it is. Raises `InvalidInput` where it cannot be worked towards."""
    if goal.rounds < 1:
        raise InvalidInput(f"rounds is {goal.rounds}: give at least 1")
    if goal.target_speedup is not None and not goal.target_speedup > 0:
        raise InvalidInput(f"target_speedup is {goal.target_speedup}: give more than 0")
    return goal
