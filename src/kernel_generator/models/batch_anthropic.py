"""Anthropic's Message Batches API: requests are handed in with the batch, results come as one file.

Its batches have no name and no metadata, so the key stands before each request's own name in
`custom_id`, which only results show. A batch that was made and not noted can therefore be told from
others with as many requests only once those have ended; until then `find` says `Unclear`.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import openai

from kernel_generator.domain.errors import InvalidInput
from kernel_generator.models.answer import Answer, BrokenAnswer
from kernel_generator.models.batch import CLOCKS_DIFFER_S, Batch, Draft, Unclear
from kernel_generator.models.batch_window import BatchWindow, lines_of
from kernel_generator.models.faults import raise_for_body
from kernel_generator.models.messages import ModelInfo, params, read_message
from kernel_generator.models.protocol import Patience
from kernel_generator.models.transport import Manner
from kernel_generator.models.wire import Wire, document

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from kernel_generator.domain.conversation import Sampling
    from kernel_generator.models.batch import BatchRequest, Result, Sought
    from kernel_generator.models.credentials import Endpoint

_MANNER = Manner("x-api-key", "", (("anthropic-version", "2023-06-01"),))
_BATCHES = "messages/batches"
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""What may be a `custom_id`."""
_PAGE = 100
_UNANSWERED = {
    "expired": "the batch expired before this request was answered",
    "canceled": "the batch was cancelled before this request was answered",
}


class _Counts(Wire):
    processing: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0

    @property
    def done(self) -> int:
        return self.succeeded + self.errored + self.canceled + self.expired

    @property
    def total(self) -> int:
        return self.processing + self.done


class _MessageBatch(Wire):
    id: str
    processing_status: str
    request_counts: _Counts
    created_at: datetime
    ended_at: datetime | None = None
    archived_at: datetime | None = None
    results_url: str | None = None

    def batch(self) -> Batch:
        is_over = self.processing_status == "ended"
        ended = self.ended_at if is_over else None
        gone = is_over and self.results_url is None
        return Batch(
            batch_id=self.id,
            status=self.processing_status,
            is_over=is_over,
            done=self.request_counts.done,
            total=self.request_counts.total,
            seconds=max(0.0, (ended - self.created_at).total_seconds()) if ended else 0.0,
            problem="its results are no longer kept" if gone else "",
            files=(self.results_url,) if self.results_url else (),
        )


class _Page(Wire):
    data: tuple[_MessageBatch, ...]
    has_more: bool = False
    last_id: str | None = None


class AnthropicDesk:
    """A `BatchDesk` at Anthropic's own endpoint."""

    def __init__(self, endpoint: Endpoint, patience: Patience | None = None) -> None:
        self._endpoint = endpoint
        self._window = BatchWindow(endpoint, patience or Patience(), _MANNER)

    @property
    def model(self) -> str:
        """The model as the user named it."""
        return self._endpoint.model

    async def check(self, sampling: Sampling) -> None:
        """Raises `InvalidInput` where the model cannot be asked in batches, or not so."""
        async with self._window.asking() as client:
            await self._window.get(client, _BATCHES, _Page, limit=1)
        (await self._told()).settings(sampling)

    async def prepare(self, requests: Sequence[BatchRequest], key: str) -> Draft:
        """All that will be sent. Raises `InvalidInput`."""
        told = await self._told()
        entries = [
            {
                "custom_id": _named(key, request.custom_id),
                "params": params(
                    self._endpoint.model, request.messages, told.settings(request.sampling)
                ),
            }
            for request in requests
        ]
        return Draft(key, json.dumps({"requests": entries}))

    async def create(self, draft: Draft) -> Batch:
        """Have requests answered. Whatever is raised, `find` says whether they are, in the end."""
        # A repeated request whose first answer was lost would be a second batch.
        async with self._window.asking(retries=0) as client:
            made = await client.post(
                _BATCHES,
                content=draft.content.encode(),
                cast_to=object,
                options={"headers": {"Content-Type": "application/json"}},
            )
            return document(made, _MessageBatch).batch()

    async def find(self, sought: Sought) -> Batch | Unclear | None:
        """The batch with that key, if it was made at all, as far as that can be told by now."""
        may_be: list[str] = []
        async with self._window.asking() as client:
            async for one in self._listed(client, sought.since):
                if one.id in sought.others or one.request_counts.total != sought.count:
                    continue
                if one.created_at.timestamp() > sought.since + CLOCKS_DIFFER_S:
                    continue
                batch = one.batch()
                if not batch.is_over:
                    may_be.append(one.id)
                elif await self._carries(client, batch, sought.key):
                    return batch
        return Unclear(tuple(may_be)) if may_be else None

    async def look_up(self, batch_id: str) -> Batch:
        """What has become of a batch."""
        async with self._window.asking() as client:
            try:
                path = f"{_BATCHES}/{quote(batch_id, safe='')}"
                return (await self._window.get(client, path, _MessageBatch)).batch()
            except openai.NotFoundError:
                raise self._window.unknown(batch_id) from None

    async def results(self, batch: Batch) -> list[Result]:
        """What a batch that is over came to, in no particular order; some may be missing."""
        async with self._window.asking() as client:
            return self.read(await self._content(client, batch), batch.seconds)

    def read(self, content: bytes, seconds: float) -> list[Result]:
        """A file of results; `seconds` is what the batch took. Asks nobody."""
        return self._window.read(content, seconds, _own_name, _answer)

    async def _told(self) -> ModelInfo:
        async with self._window.asking() as client:
            path = f"models/{quote(self._endpoint.model, safe='')}"
            return await self._window.get(client, path, ModelInfo)

    async def _listed(
        self, client: openai.AsyncOpenAI, since: float
    ) -> AsyncGenerator[_MessageBatch]:
        """Those that were made after `since` or not long before, the newest first."""
        after: dict[str, str] = {}
        while True:
            page = await self._window.get(client, _BATCHES, _Page, limit=_PAGE, **after)
            for one in page.data:
                if one.created_at.timestamp() < since - CLOCKS_DIFFER_S:
                    return
                yield one
            if not page.has_more or page.last_id is None:
                return
            after = {"after_id": page.last_id}

    async def _carries(self, client: openai.AsyncOpenAI, batch: Batch, key: str) -> bool:
        """Whether a batch's results name the key; False where none are kept, since then nothing is
        to be had of it."""
        lines = lines_of(await self._content(client, batch))
        return any(f'"{key}_' in line for line in lines)

    async def _content(self, client: openai.AsyncOpenAI, batch: Batch) -> bytes:
        try:
            files = [await self._window.content(client, address) for address in batch.files]
        except openai.NotFoundError:  # they are kept for 29 days
            return b""
        return b"\n".join(files)


def _named(key: str, custom_id: str) -> str:
    name = f"{key}_{custom_id}"
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"'{name}' cannot name a request at Anthropic, which takes 64 letters, digits, '_' and "
            "'-': leave --batch out"
        )
    return name


def _own_name(entry: Mapping[str, Any]) -> str:
    """A request's name without the key before it."""
    return str(entry["custom_id"]).partition("_")[2]


def _answer(entry: Mapping[str, Any]) -> Answer:
    result = entry["result"]
    match kind := result["type"]:
        case "succeeded":
            return read_message(result["message"])
        case "errored":
            raise_for_body(result["error"])
        case _:
            pass
    raise BrokenAnswer(_UNANSWERED.get(kind, f"the provider answered this request with '{kind}'"))
