"""Models that are asked elsewhere: requests wait in the store until somebody brings the replies."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from kernel_generator.domain.errors import ReplyPending

if TYPE_CHECKING:
    from kernel_generator.domain.conversation import Request

OFFLINE = "offline"
"""The name that it is chosen by."""


class OfflineModel:
    """A `LanguageModel` that answers nothing by itself."""

    @property
    def name(self) -> str:
        """'offline'."""
        return OFFLINE

    async def ask(self, request: Request) -> NoReturn:
        """Raises `ReplyPending`, always."""
        raise ReplyPending(
            f"round {request.proposal.round} waits for a reply; the request is in the store"
        )

    async def close(self) -> None:
        """Nothing to close."""


class BatchedModel(OfflineModel):
    """A provider's model whose requests are sent together, once every run has stored its own."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        """The model as the user named it."""
        return self._name
