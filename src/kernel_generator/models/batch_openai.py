"""OpenAI's Batch API: requests are uploaded as a file, results come as files.

What a request says and how an answer is read is the dialect's, as where it is asked at once. The
batch's metadata carry the key.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
from openai.types import Batch as SdkBatch
from openai.types import FileObject

from kernel_generator.domain.errors import InvalidInput
from kernel_generator.models.answer import Answer, BrokenAnswer, NotAnApi, parsed
from kernel_generator.models.batch import CLOCKS_DIFFER_S, Batch, Draft
from kernel_generator.models.batch_window import BatchWindow
from kernel_generator.models.endpoint_model import speak
from kernel_generator.models.faults import raise_for_body
from kernel_generator.models.protocol import Patience

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kernel_generator.domain.conversation import Sampling
    from kernel_generator.models.batch import BatchRequest, Result, Sought
    from kernel_generator.models.credentials import Endpoint

_KEY = "kernel-generator"
"""The field of a batch's metadata that holds the caller's key."""
_NO_SUCH_API = {404, 405, 501}
_OVER = {"completed", "failed", "expired", "cancelled"}


class OpenAIDesk:
    """A `BatchDesk` at an endpoint that speaks OpenAI's API."""

    def __init__(self, endpoint: Endpoint, patience: Patience | None = None) -> None:
        patience = patience or Patience()
        self._endpoint = endpoint
        self._window = BatchWindow(endpoint, patience)
        self._dialect = speak(endpoint, stream=False, answer_s=patience.answer_s)

    @property
    def model(self) -> str:
        """The model as the user named it."""
        return self._endpoint.model

    async def check(self, sampling: Sampling) -> None:
        """Raises `InvalidInput` where the endpoint has no Batch API."""
        async with self._window.asking() as client:
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

    async def prepare(self, requests: Sequence[BatchRequest], key: str) -> Draft:
        """Uploads a file of requests."""
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
        async with self._window.asking() as client:
            file = ("requests.jsonl", content, "application/jsonl")
            made = parsed(await client.files.create(file=file, purpose="batch"), FileObject)
            return Draft(key, made.id)

    async def create(self, draft: Draft) -> Batch:
        """Have a file answered. Whatever is raised, `find` says whether it is."""
        # A repeated request whose first answer was lost would be a second batch.
        async with self._window.asking(retries=0) as client:
            made = await client.batches.create(
                input_file_id=draft.content,
                endpoint=self._dialect.path,
                completion_window="24h",
                metadata={_KEY: draft.key},
            )
            return _batch(parsed(made, SdkBatch))

    async def find(self, sought: Sought) -> Batch | None:
        """The batch with that key, if it was made at all."""
        async with self._window.asking() as client:
            async for one in client.batches.list(limit=100):
                if (one.metadata or {}).get(_KEY) == sought.key:
                    return _batch(one)
                if one.created_at < sought.since - CLOCKS_DIFFER_S:  # the newest come first
                    return None
        return None

    async def look_up(self, batch_id: str) -> Batch:
        """What has become of a batch."""
        async with self._window.asking() as client:
            try:
                return _batch(parsed(await client.batches.retrieve(batch_id), SdkBatch))
            except openai.NotFoundError:
                raise self._window.unknown(batch_id) from None

    async def results(self, batch: Batch) -> list[Result]:
        """What a batch that is over came to, in no particular order; some may be missing."""
        found: list[Result] = []
        async with self._window.asking() as client:
            for file_id in batch.files:
                try:
                    content = (await client.files.content(file_id)).content
                except openai.NotFoundError:  # providers delete them after a while
                    continue
                found += self.read(content, batch.seconds)
        return found

    def read(self, content: bytes, seconds: float) -> list[Result]:
        """A file of results; `seconds` is what the batch took. Asks nobody."""
        return self._window.read(
            content, seconds, lambda entry: str(entry["custom_id"]), self._answer
        )

    def _answer(self, entry: Mapping[str, Any]) -> Answer:
        raise_for_body(entry)
        response = entry.get("response") or {}
        status, body = response.get("status_code"), response.get("body")
        if status == 200 and body:
            return self._dialect.read(body)
        raise_for_body(body)
        raise BrokenAnswer(f"the provider answered this request with status {status}")


def _batch(found: SdkBatch) -> Batch:
    counts = found.request_counts
    problems = (found.errors.data or []) if found.errors else []
    ended = found.completed_at or found.expired_at or found.cancelled_at or found.failed_at
    return Batch(
        batch_id=found.id,
        status=found.status,
        is_over=found.status in _OVER,
        done=(counts.completed or 0) + (counts.failed or 0) if counts else 0,
        total=(counts.total or 0) if counts else 0,
        seconds=float(max(0, ended - found.created_at)) if ended else 0.0,
        problem="; ".join(one.message or one.code or "" for one in problems[:3]),
        files=tuple(f for f in (found.output_file_id, found.error_file_id) if f),
    )
