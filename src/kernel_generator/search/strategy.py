"""What a search strategy is: a function from history to the next proposal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_generator.domain.attempt import Attempt
    from kernel_generator.domain.proposal import Proposal


class Strategy(Protocol):
    """Decides what to ask for next. Does no I/O and holds no hidden state."""

    @property
    def name(self) -> str:
        """The name it is chosen by."""
        ...

    def propose(self, history: Sequence[Attempt]) -> Proposal:
        """The next proposal after this history, oldest attempt first."""
        ...
