"""What all desks do alike: asking a provider under one classification of what goes wrong, and
reading lines of results.

Nothing is asked at another origin than the endpoint's own, whatever address a provider names.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx2
import openai

from kernel_generator.domain.conversation import Finish, Usage
from kernel_generator.domain.errors import ProviderRefused, ProviderUnavailable
from kernel_generator.models.address import Origin, shown
from kernel_generator.models.answer import (
    Answer,
    BrokenAnswer,
    Declined,
    Limited,
    NotAnApi,
    reading,
)
from kernel_generator.models.batch import Answered, Unanswered
from kernel_generator.models.endpoint_model import reply_of
from kernel_generator.models.faults import (
    FinalError,
    failure,
    not_an_api,
    out_of_patience,
    quotable,
    rejected,
)
from kernel_generator.models.price import cost_usd
from kernel_generator.models.transport import BEARER, open_client
from kernel_generator.models.wire import document

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from kernel_generator.domain.conversation import Reply
    from kernel_generator.models.batch import Result
    from kernel_generator.models.credentials import Endpoint
    from kernel_generator.models.protocol import Patience
    from kernel_generator.models.transport import Manner
    from kernel_generator.models.wire import W


class BatchWindow:
    """The way to one endpoint's desk."""

    def __init__(self, endpoint: Endpoint, patience: Patience, manner: Manner = BEARER) -> None:
        self.endpoint = endpoint
        self._patience, self._manner = patience, manner

    @asynccontextmanager
    async def asking(self, retries: int | None = None) -> AsyncGenerator[openai.AsyncOpenAI]:
        """The boundary where everything that escapes an exchange is classified."""
        tries = self._patience.max_retries if retries is None else retries
        patience = replace(self._patience, max_retries=tries)
        endpoint = self.endpoint
        try:
            try:
                async with open_client(
                    endpoint, patience, None, stream=True, manner=self._manner
                ) as client:
                    with reading():
                        yield client
            except openai.APIError as error:
                raise failure(error, endpoint, tries) from None
        except NotAnApi as error:
            raise not_an_api(str(error), endpoint) from None
        except (FinalError, Declined) as error:
            raise rejected(str(error), endpoint) from None
        except Limited as limit:
            raise out_of_patience(limit, endpoint, tries) from None
        except BrokenAnswer as error:
            raise ProviderUnavailable(
                f"{endpoint.origin.host} cannot be understood: "
                f"{quotable(str(error), endpoint)}. Try again later"
            ) from None

    def unknown(self, batch_id: str) -> ProviderRefused:
        """For a provider that knows no such batch."""
        return ProviderRefused(
            f"{self.endpoint.base_url} knows no batch {batch_id} (404): give the key and the base "
            "URL that it was submitted with"
        )

    async def get(
        self, client: openai.AsyncOpenAI, path: str, kind: type[W], **query: str | int
    ) -> W:
        """A JSON document."""
        found = await client.get(path, cast_to=object, options={"params": query})
        return document(found, kind)

    async def content(self, client: openai.AsyncOpenAI, address: str) -> bytes:
        """What is at an address that the provider named."""
        own = self.own(address)
        return (await client.get(own, cast_to=openai.HttpxBinaryResponseContent)).content

    def own(self, address: str) -> str:
        """The address, where it is the endpoint's own. Raises `ProviderRefused`."""
        try:
            if (
                Origin.of(str(httpx2.URL(self.endpoint.base_url).join(address)))
                == self.endpoint.origin
            ):
                return address
        except httpx2.InvalidURL:
            pass
        raise ProviderRefused(
            f"{self.endpoint.origin.host} names {quotable(shown(address), self.endpoint)} as the "
            "place to go on at, which is another host: the key is not sent there"
        )

    def read(
        self,
        content: bytes,
        seconds: float,
        name_of: Callable[[Mapping[str, Any]], str],
        answer_of: Callable[[Mapping[str, Any]], Answer],
    ) -> list[Result]:
        """A file of results, a JSON document a line; `seconds` is what the batch took. Both
        functions may raise what reading an answer does. Asks nobody."""

        def result(line: str) -> Result:
            custom_id = ""
            try:
                with reading():
                    entry = json.loads(line)
                    custom_id = name_of(entry)
                    answer = answer_of(entry)
            except Declined as error:
                said = quotable(str(error), self.endpoint)
                answer = Answer(text="", finish=Finish.REFUSED, detail=said)
            except (BrokenAnswer, NotAnApi, FinalError) as error:
                return Unanswered(custom_id, quotable(str(error), self.endpoint))
            return Answered(custom_id, self._priced(reply_of(answer, self.endpoint, seconds)))

        return [result(line) for line in lines_of(content)]

    def _priced(self, reply: Reply) -> Reply:
        """A reply at what it costs in a batch."""
        share, cached_share = self.endpoint.batch_share, self.endpoint.batch_cached_share
        if reply.cost_usd is None or share is None:
            return replace(reply, cost_usd=None)
        cost = reply.cost_usd * share
        if cached_share is not None and reply.usage is not None and reply.usage.cached:
            cached = Usage(prompt=reply.usage.cached, cached=reply.usage.cached)
            listed = cost_usd(cached, reply.model, self.endpoint.base_url) or 0.0
            cost += listed * (cached_share - share)
        return replace(reply, cost_usd=cost)


def lines_of(content: bytes) -> list[str]:
    """The lines of a file that are not blank."""
    # Not splitlines: an answer may hold other ends of lines.
    return [line for line in content.decode("utf-8", "replace").split("\n") if line.strip()]
