"""When a run ends."""

from __future__ import annotations

from dataclasses import dataclass


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
