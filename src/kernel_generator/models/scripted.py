"""A model that answers from a list or a function: for tests, demonstrations and replays."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeAlias

from kernel_generator.domain.conversation import Finish, Reply
from kernel_generator.domain.errors import ScriptExhausted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kernel_generator.domain.conversation import Request

Line: TypeAlias = "str | Reply | Exception"
"""What is said next; an exception is raised."""


class ScriptedModel:
    """A `LanguageModel` whose answers are known beforehand."""

    def __init__(
        self, replies: Sequence[Line] | Callable[[Request], Line], *, name: str = "scripted"
    ) -> None:
        """`replies`: used up in order, or a function that is called with each request."""
        self._answer: Callable[[Request], Line]
        self._answer = replies if callable(replies) else _from_list(replies)
        self._name = name
        self.asked: list[Request] = []
        """Every request so far, oldest first."""

    @property
    def name(self) -> str:
        """'scripted' unless named otherwise."""
        return self._name

    async def ask(self, request: Request) -> Reply:
        """The next answer. Raises what the script holds, and `ScriptExhausted` at its end."""
        self.asked.append(request)
        line = self._answer(request)
        if isinstance(line, Exception):
            raise line
        if isinstance(line, Reply):
            return line
        finish = Finish.COMPLETE if line.strip() else Finish.EMPTY
        return Reply(text=line, finish=finish, model=self._name)

    async def close(self) -> None:
        """Nothing to close."""


def _from_list(replies: Sequence[Line]) -> Callable[[Request], Line]:
    left = deque(replies)

    def following(request: Request) -> Line:
        if not left:
            raise ScriptExhausted(
                f"the script has {len(replies)} replies, and one more was asked for: add replies"
            )
        return left.popleft()

    return following
