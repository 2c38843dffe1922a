"""What a dialect reads out of one exchange, and the ways an exchange ends without an answer.

The four exceptions here never leave this room: `EndpointModel` turns each into a retry, a reply
or an error of `domain.errors`.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

import openai

from kernel_generator.domain.conversation import Finish

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping

    from kernel_generator.domain.conversation import Message, Request, Sampling, Usage

T = TypeVar("T")
ApiPath: TypeAlias = Literal["/v1/chat/completions", "/v1/responses"]
"""Where a dialect asks, as OpenAI's own endpoint has it."""


class BrokenAnswer(Exception):
    """An answer that stopped, stalled or cannot be read; asking again may help."""


class Limited(BrokenAnswer):
    """The provider limits the rate; asking again will help, later."""

    def __init__(self, said: str, told_as: str, after_s: float | None = None) -> None:
        """`told_as`: the status or code that it was told by."""
        super().__init__(said)
        self.told_as, self.after_s = told_as, after_s


class NotAnApi(Exception):
    """Something answered, but not an API: a web page, or plain text."""


class Declined(Exception):
    """The provider's rules, not the model, refused the question. Says so in its own words."""


@dataclass(frozen=True)
class Answer:
    """One whole answer, whatever the dialect."""

    text: str
    finish: Finish
    model: str = ""
    """As the provider names it; empty where it does not."""
    usage: Usage | None = None
    detail: str = ""


class Dialect(Protocol):
    """Puts one request into a provider's words and reads its answer."""

    async def answer(self, client: openai.AsyncOpenAI, request: Request) -> Answer:
        """Asks once. Raises what `openai` raises, and the exceptions of this module."""
        ...

    @property
    def path(self) -> ApiPath:
        """Where it asks."""
        ...

    def body(self, messages: tuple[Message, ...], sampling: Sampling) -> Mapping[str, object]:
        """What it would send for these messages, to be answered whole."""
        ...

    def read(self, body: Mapping[str, Any]) -> Answer:
        """A whole answer out of its JSON. Raises the exceptions of this room."""
        ...


def finish_of(text: str, finish: Finish) -> Finish:
    """A finished answer without a visible character is an empty one."""
    return Finish.EMPTY if finish is Finish.COMPLETE and not text.strip() else finish


@contextmanager
def decoding() -> Generator[None]:
    """Tells a body that is no JSON from one that says no."""
    try:
        yield
    except json.JSONDecodeError as error:
        if error.doc.lstrip().startswith("<"):
            raise NotAnApi("a web page") from error
        raise BrokenAnswer(f"the answer is not valid JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise BrokenAnswer("the answer is not valid UTF-8") from error


@contextmanager
def reading() -> Generator[None]:
    """Tells an answer of another shape from one that says no.

    The SDK does not validate what it parses, so an answer of another shape shows up as a missing
    attribute or a wrong type while it is being read.
    """
    try:
        with decoding():
            yield
    except (AttributeError, TypeError, ValueError, LookupError) as error:
        raise BrokenAnswer(f"the answer has an unexpected shape ({error})") from error


@asynccontextmanager
async def streaming(stream: openai.AsyncStream[T], answer_s: float) -> AsyncGenerator[None]:
    """Reads a stream to its end, closes it, and calls whatever breaks it a `BrokenAnswer`."""
    try:
        with reading():
            async with stream, asyncio.timeout(answer_s):
                yield
    except TimeoutError as error:
        raise BrokenAnswer(f"the answer was not finished after {answer_s:g} s") from error
    except openai.APITimeoutError as error:
        raise BrokenAnswer("the stream stalled") from error
    except openai.APIConnectionError as error:
        raise BrokenAnswer(f"the stream broke off ({error.__cause__ or error})") from error


def media_type(stream: openai.AsyncStream[T]) -> str:
    """What the provider says its body is, without parameters."""
    return stream.response.headers.get("content-type", "").partition(";")[0].strip().lower()


def parsed(value: object, kind: type[T]) -> T:
    """What the SDK made of a body; it hands back the bare text where a body is no JSON."""
    if isinstance(value, kind):
        return value
    if isinstance(value, str):
        page = value.lstrip().startswith("<")
        raise NotAnApi("a web page" if page else "text that is not JSON")
    raise BrokenAnswer("the answer is JSON of another kind")
