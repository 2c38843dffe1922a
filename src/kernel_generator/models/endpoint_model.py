"""A language model behind an OpenAI-compatible endpoint: asks, asks again, prices, and classifies.

Retries are never stacked: the SDK repeats what fails before a stream has begun (statuses,
connections), this module what fails after (a stream that stalls, breaks or ends early) and what
the provider's rate limits put off, for which everybody waits (`pace`).

What is raised here has no cause: a provider's own words may echo the key, and a traceback prints
the words of every cause. The message quotes them with the key blotted out.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import openai

from kernel_generator.domain.conversation import Finish, Reply
from kernel_generator.domain.errors import ProviderUnavailable
from kernel_generator.models.answer import Answer, BrokenAnswer, Declined, Limited, NotAnApi
from kernel_generator.models.chat import ChatDialect
from kernel_generator.models.faults import (
    FinalError,
    failure,
    not_an_api,
    out_of_patience,
    quotable,
    rejected,
)
from kernel_generator.models.pace import LONGEST_BACKOFF_S, pace_of
from kernel_generator.models.price import cost_usd
from kernel_generator.models.protocol import Patience
from kernel_generator.models.responses import ResponsesDialect
from kernel_generator.models.transport import NotBegun, open_client, permitted_by

if TYPE_CHECKING:
    from kernel_generator.domain.conversation import Request
    from kernel_generator.models.answer import Dialect
    from kernel_generator.models.credentials import Endpoint
    from kernel_generator.models.pace import Turn


class EndpointModel:
    """A `LanguageModel` at an `Endpoint`. May be used from several event loops."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        patience: Patience | None = None,
        stream: bool = True,
    ) -> None:
        self._endpoint = endpoint
        self._patience = patience or Patience()
        self._stream = stream
        self._pace = pace_of(endpoint)
        self._dialect = speak(endpoint, stream, self._patience.answer_s)
        # Connections belong to the loop they were opened in; a synchronous caller starts many.
        self._clients = WeakKeyDictionary[asyncio.AbstractEventLoop, openai.AsyncOpenAI]()

    @property
    def name(self) -> str:
        """The model as the user named it."""
        return self._endpoint.model

    async def ask(self, request: Request) -> Reply:
        """See `LanguageModel.ask`."""
        started = time.perf_counter()
        answer = await self._persist(request)
        return reply_of(answer, self._endpoint, time.perf_counter() - started)

    async def close(self) -> None:
        """Closes the connections of the running event loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()

    async def _persist(self, request: Request) -> Answer:
        turn = self._pace.turn(self._patience, request.permit)
        pause = self._patience.backoff_s
        retries = self._patience.max_retries
        for left in range(retries, -1, -1):
            try:
                return await self._ask_in_turn(request, turn)
            except BrokenAnswer as error:
                if left == 0:
                    host = self._endpoint.origin.host
                    raise ProviderUnavailable(
                        f"{host} gave no whole answer in {retries + 1} tries, lastly: "
                        f"{quotable(str(error), self._endpoint)}. Try again later"
                    ) from None
            left_s = request.permit.left_s
            await asyncio.sleep(
                min(pause, LONGEST_BACKOFF_S, math.inf if left_s is None else left_s)
            )
            pause *= 2
        raise AssertionError("the last try returns or raises")

    async def _ask_in_turn(self, request: Request, turn: Turn) -> Answer:
        """One exchange that the provider's rate limits let through."""
        while True:
            try:
                async with turn:
                    return await self._ask_once(request)
            except Limited as limit:
                if turn.is_over:
                    retries = turn.times_limited - 1
                    raise out_of_patience(limit, self._endpoint, retries) from None

    async def _ask_once(self, request: Request) -> Answer:
        """One exchange. The boundary where everything that escapes it is classified."""
        try:
            try:
                with permitted_by(request.permit):
                    return await self._dialect.answer(self._client(), request)
            except NotBegun as stopped:
                raise stopped.reason from None
            except openai.APIError as error:
                raise failure(error, self._endpoint, self._patience.max_retries) from None
        except Declined as error:
            said = quotable(str(error), self._endpoint)
            return Answer(text="", finish=Finish.REFUSED, detail=said)
        except NotAnApi as error:
            raise not_an_api(str(error), self._endpoint) from None
        except FinalError as error:
            raise rejected(str(error), self._endpoint, error.is_closed) from None

    def _client(self) -> openai.AsyncOpenAI:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = open_client(
                self._endpoint, self._patience, self._pace, stream=self._stream
            )
        return self._clients[loop]


def reply_of(answer: Answer, endpoint: Endpoint, seconds: float) -> Reply:
    """An endpoint's answer with its cost, by the name that the provider gives, else by the one that
    was asked for."""
    cost = cost_usd(answer.usage, answer.model or endpoint.model, endpoint.base_url)
    if cost is None:
        cost = cost_usd(answer.usage, endpoint.model, endpoint.base_url)
    return Reply(
        text=answer.text,
        finish=answer.finish,
        model=answer.model or endpoint.model,
        usage=answer.usage,
        cost_usd=cost,
        seconds=seconds,
        detail=answer.detail,
    )


def speak(endpoint: Endpoint, stream: bool, answer_s: float) -> Dialect:
    """The dialect of an endpoint."""
    if endpoint.dialect == "responses":
        return ResponsesDialect(endpoint.model, stream=stream, answer_s=answer_s)
    return ChatDialect(endpoint.model, stream=stream, answer_s=answer_s)
