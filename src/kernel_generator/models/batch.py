"""Requests that a provider answers together, within a day or so, for less: what is handed in and
what comes back, in nobody's dialect.

Each provider's own API is a `BatchDesk` (`batch_openai`, `batch_anthropic`, `batch_gemini`). A
batch carries a key of the caller's, by which it is found again where the caller did not live to
note its id; making one is therefore never repeated by a desk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_generator.domain.conversation import Message, Reply, Sampling

CLOCKS_DIFFER_S = 86_400.0
"""The provider's clock and this machine's differ by less."""


@dataclass(frozen=True)
class BatchRequest:
    """One request of what is submitted."""

    custom_id: str
    messages: tuple[Message, ...]
    sampling: Sampling


@dataclass(frozen=True)
class Draft:
    """Requests that are ready to be made a batch of; nobody answers them yet."""

    key: str
    """What the batch will be found again by."""
    content: str
    """In the desk's words: all that is sent, or the name of a file that was uploaded."""


@dataclass(frozen=True)
class Sought:
    """A batch that may have been made, as far as it is known."""

    key: str
    since: float
    """It was made after this, if at all, in seconds since 1970."""
    count: int
    """Requests in it."""
    others: frozenset[str] = frozenset()
    """Ids of batches that are known to be others."""


@dataclass(frozen=True)
class Unclear:
    """The provider does not tell before these batches end whether the one sought was made."""

    batch_ids: tuple[str, ...]
    """Any of them may be the one."""


@dataclass(frozen=True)
class Batch:
    """What the provider says of a batch."""

    batch_id: str
    status: str
    """In the provider's word."""
    is_over: bool
    """True where no further result will come."""
    done: int
    """Requests that were answered or failed."""
    total: int
    seconds: float
    """From its making to its end; 0 where it has not ended."""
    problem: str
    """Why there are no results; empty where nothing is said."""
    files: tuple[str, ...]
    """Where results are, in the provider's words."""


@dataclass(frozen=True)
class Answered:
    """A result that holds an answer."""

    custom_id: str
    reply: Reply


@dataclass(frozen=True)
class Unanswered:
    """A result that says why there is no answer."""

    custom_id: str
    """Empty for a line that does not tell."""
    reason: str


Result: TypeAlias = Answered | Unanswered


class BatchDesk(Protocol):
    """Where batches for one model are handed in and fetched. Methods that ask the provider raise
    `ProviderRefused` and `ProviderUnavailable`."""

    @property
    def model(self) -> str:
        """The model as the user named it."""
        ...

    async def check(self, sampling: Sampling) -> None:
        """Raises `InvalidInput` where the model cannot be asked in batches, or not so."""
        ...

    async def prepare(self, requests: Sequence[BatchRequest], key: str) -> Draft:
        """Requests in the provider's words, uploaded where it wants that beforehand. Raises
        `InvalidInput` for what it cannot be asked."""
        ...

    async def create(self, draft: Draft) -> Batch:
        """Have a draft answered. Whatever is raised, `find` says whether it is."""
        ...

    async def find(self, sought: Sought) -> Batch | Unclear | None:
        """The batch with that key, if it was made at all."""
        ...

    async def look_up(self, batch_id: str) -> Batch:
        """What has become of a batch."""
        ...

    async def results(self, batch: Batch) -> list[Result]:
        """What a batch that is over came to, in no particular order; some may be missing."""
        ...
