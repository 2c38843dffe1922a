"""OpenAI's Batch API: many requests in one file, answered together within a day.

What a request says and how an answer is read is the dialect's, as where it is asked at once. A
batch carries a key of the caller's, by which it is found again where the caller did not live to
note its id; creating one is therefore never repeated here.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import openai
from openai.types import Batch as SdkBatch
from openai.types import FileObject

from kernel_generator.domain.conversation import Finish
from kernel_generator.domain.errors import InvalidInput, ProviderRefused, ProviderUnavailable
from kernel_generator.models.answer import (
    Answer,
    BrokenAnswer,
    Declined,
    NotAnApi,
    parsed,
    reading,
)
from kernel_generator.models.endpoint_model import reply_of, speak
from kernel_generator.models.faults import (
    FinalError,
    failure,
    not_an_api,
    quotable,
    raise_for_body,
    rejected,
)
from kernel_generator.models.protocol import Patience
from kernel_generator.models.transport import open_client

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from kernel_generator.domain.conversation import Message, Reply, Sampling
    from kernel_generator.models.credentials import Endpoint

_KEY = "kernel-generator"
"""The field of a batch's metadata that holds the caller's key."""
_NO_SUCH_API = {404, 405, 501}
_OVER = {"completed", "failed", "expired", "cancelled"}
_CLOCKS_DIFFER_S = 86_400.0
"""The provider's clock and this machine's differ by less."""


@dataclass(frozen=True)
class BatchRequest:
    """One line of what is submitted."""

    custom_id: str
    messages: tuple[Message, ...]
    sampling: Sampling


@dataclass(frozen=True)
class Batch:
    """What the provider says of a batch."""

    batch_id: str
    status: str
    """In the provider's word."""
    done: int
    """Requests that were answered or failed."""
    total: int
    seconds: float
    """From its making to its end; 0 where it has not ended."""
    problem: str
    """Why all of it failed; empty where it did not."""
    files: tuple[str, ...]
    """Ids of the files that hold results."""

    @property
    def is_over(self) -> bool:
        """True where no further result will come."""
        return self.status in _OVER


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


class BatchDesk:
    """Where batches for one model are handed in and fetched. Methods that ask the provider raise
    `ProviderRefused` and `ProviderUnavailable`."""

    def __init__(self, endpoint: Endpoint, patience: Patience | None = None) -> None:
        self._endpoint = endpoint
        self._patience = patience or Patience()
        self._dialect = speak(endpoint, stream=False, answer_s=self._patience.answer_s)

    @property
    def model(self) -> str:
        """The model as the user named it."""
        return self._endpoint.model

    async def check(self) -> None:
        """Raises `InvalidInput` where the endpoint has no Batch API."""
        async with self._asking() as client:
            try:
                listed = await client.batches.with_raw_response.list(limit=1)
            except openai.APIStatusError as error:
                if error.status_code not in _NO_SUCH_API:
                    raise
                raise InvalidInput(
                    f"{self._endpoint.base_url} has no Batch API ({error.status_code} for "
                    "/batches): leave --batch out, or name an endpoint that has one"
                ) from None
            if "html" in listed.headers.get("content-type", ""):
                raise NotAnApi("a web page")

    async def upload(self, requests: Sequence[BatchRequest]) -> str:
        """The id of a file of requests, which nobody answers yet."""
        lines = [
            {
                "custom_id": request.custom_id,
                "method": "POST",
                "url": self._dialect.path,
                "body": self._dialect.body(request.messages, request.sampling),
            }
            for request in requests
        ]
        content = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
        async with self._asking() as client:
            file = ("requests.jsonl", content, "application/jsonl")
            return parsed(await client.files.create(file=file, purpose="batch"), FileObject).id

    async def create(self, file_id: str, key: str) -> Batch:
        """Have a file answered. Whatever is raised, `find` says whether it is."""
        # A repeated request whose first answer was lost would be a second batch.
        async with self._asking(retries=0) as client:
            made = await client.batches.create(
                input_file_id=file_id,
                endpoint=self._dialect.path,
                completion_window="24h",
                metadata={_KEY: key},
            )
            return _batch(parsed(made, SdkBatch))

    async def find(self, key: str, since: float) -> Batch | None:
        """The batch with that key, which was made after `since` (seconds since 1970), if at all."""
        async with self._asking() as client:
            async for one in client.batches.list(limit=100):
                if (one.metadata or {}).get(_KEY) == key:
                    return _batch(one)
                if one.created_at < since - _CLOCKS_DIFFER_S:  # the newest come first
                    return None
        return None

    async def look_up(self, batch_id: str) -> Batch:
        """What has become of a batch."""
        async with self._asking() as client:
            try:
                return _batch(parsed(await client.batches.retrieve(batch_id), SdkBatch))
            except openai.NotFoundError:
                raise ProviderRefused(
                    f"{self._endpoint.base_url} knows no batch {batch_id} (404): give the key and "
                    "the base URL that it was submitted with"
                ) from None

    async def results(self, batch: Batch) -> list[Result]:
        """What a batch that is over came to, in no particular order; some may be missing."""
        found: list[Result] = []
        async with self._asking() as client:
            for file_id in batch.files:
                try:
                    content = (await client.files.content(file_id)).content
                except openai.NotFoundError:  # providers delete them after a while
                    continue
                found += self.read(content, batch.seconds)
        return found

    def read(self, content: bytes, seconds: float) -> list[Result]:
        """A file of results; `seconds` is what the batch took. Asks nobody."""
        # Not splitlines: an answer may hold other ends of lines.
        lines = content.decode("utf-8", "replace").split("\n")
        return [self._result(line, seconds) for line in lines if line.strip()]

    def _result(self, line: str, seconds: float) -> Result:
        custom_id = ""
        try:
            with reading():
                entry = json.loads(line)
                custom_id = str(entry["custom_id"])
                answer = self._answer(entry)
        except Declined as error:
            said = quotable(str(error), self._endpoint)
            answer = Answer(text="", finish=Finish.REFUSED, detail=said)
        except (BrokenAnswer, NotAnApi, FinalError) as error:
            return Unanswered(custom_id, quotable(str(error), self._endpoint))
        reply, share = reply_of(answer, self._endpoint, seconds), self._endpoint.batch_share
        if reply.cost_usd is None or share is None:
            return Answered(custom_id, replace(reply, cost_usd=None))
        return Answered(custom_id, replace(reply, cost_usd=reply.cost_usd * share))

    def _answer(self, entry: dict[str, Any]) -> Answer:
        raise_for_body(entry)
        response = entry.get("response") or {}
        status, body = response.get("status_code"), response.get("body")
        if status == 200 and body:
            return self._dialect.read(body)
        raise_for_body(body)
        raise BrokenAnswer(f"the provider answered this request with status {status}")

    @asynccontextmanager
    async def _asking(self, retries: int | None = None) -> AsyncGenerator[openai.AsyncOpenAI]:
        """The boundary where everything that escapes an exchange is classified."""
        tries = self._patience.max_retries if retries is None else retries
        patience = replace(self._patience, max_retries=tries)
        try:
            try:
                async with open_client(self._endpoint, patience, None, stream=True) as client:
                    with reading():
                        yield client
            except openai.APIError as error:
                raise failure(error, self._endpoint, tries) from None
        except NotAnApi as error:
            raise not_an_api(str(error), self._endpoint) from None
        except (FinalError, Declined) as error:
            raise rejected(str(error), self._endpoint) from None
        except BrokenAnswer as error:
            raise ProviderUnavailable(
                f"{self._endpoint.origin.host} cannot be understood: "
                f"{quotable(str(error), self._endpoint)}. Try again later"
            ) from None


def _batch(found: SdkBatch) -> Batch:
    counts = found.request_counts
    problems = (found.errors.data or []) if found.errors else []
    ended = found.completed_at or found.expired_at or found.cancelled_at or found.failed_at
    return Batch(
        batch_id=found.id,
        status=found.status,
        done=(counts.completed or 0) + (counts.failed or 0) if counts else 0,
        total=(counts.total or 0) if counts else 0,
        seconds=float(max(0, ended - found.created_at)) if ended else 0.0,
        problem="; ".join(one.message or one.code or "" for one in problems[:3]),
        files=tuple(f for f in (found.output_file_id, found.error_file_id) if f),
    )
