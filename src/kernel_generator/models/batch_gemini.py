"""Google's batches for Gemini (`batchGenerateContent`): requests are uploaded as a file, where each
has a name that its result shows again, and results come as a file.

Requests could be handed in with the batch as well; but then results have been seen without their
names and in another order. The batch's `displayName` carries the key.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx2
import openai
from pydantic import Field

from kernel_generator.models.answer import Answer, BrokenAnswer
from kernel_generator.models.batch import Batch, Draft
from kernel_generator.models.batch_window import BatchWindow
from kernel_generator.models.contents import content_request, read_response, thinking_config
from kernel_generator.models.faults import raise_for_body
from kernel_generator.models.protocol import Patience
from kernel_generator.models.transport import Manner
from kernel_generator.models.wire import CamelWire, document

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from kernel_generator.domain.conversation import Sampling
    from kernel_generator.models.batch import BatchRequest, Result, Sought
    from kernel_generator.models.credentials import Endpoint

_MANNER = Manner("x-goog-api-key", "", allowed=("x-goog-upload-",))
_COMPATIBLE = "openai/"
"""What the address of the OpenAI-compatible endpoint ends in, beside the API's own."""
_OVER = {"succeeded", "partially_succeeded", "failed", "cancelled", "expired"}
_PAGE = 100
"""Has to be given: without it the list has been seen empty."""


class _Stats(CamelWire):
    request_count: int = 0
    successful_request_count: int = 0
    failed_request_count: int = 0


class _Inlined(CamelWire):
    inlined_responses: tuple[dict[str, Any], ...] = ()


class _Output(CamelWire):
    responses_file: str = ""
    inlined_responses: _Inlined = Field(default_factory=_Inlined)


class _Metadata(CamelWire):
    display_name: str = ""
    state: str = ""
    create_time: datetime | None = None
    end_time: datetime | None = None
    batch_stats: _Stats = Field(default_factory=_Stats)
    output: _Output = Field(default_factory=_Output)


class _Status(CamelWire):
    message: str = ""


class _Operation(CamelWire):
    name: str
    metadata: _Metadata = Field(default_factory=_Metadata)
    done: bool = False
    error: _Status | None = None
    response: _Output | None = None

    @property
    def output(self) -> _Output:
        return self.response or self.metadata.output

    def batch(self) -> Batch:
        told, stats = self.metadata, self.metadata.batch_stats
        # Both beginnings are documented.
        state = told.state.removeprefix("JOB_STATE_").removeprefix("BATCH_STATE_").lower()
        is_over = self.done or state in _OVER
        spanned = is_over and told.create_time is not None and told.end_time is not None
        seconds = (told.end_time - told.create_time).total_seconds() if spanned else 0.0  # type: ignore[operator]
        file = self.output.responses_file
        return Batch(
            batch_id=self.name,
            status=state or ("done" if self.done else "not begun"),
            is_over=is_over,
            done=stats.successful_request_count + stats.failed_request_count,
            total=stats.request_count,
            seconds=max(0.0, seconds),
            problem=self.error.message if self.error else "",
            files=(file,) if file else (),
        )


class _Page(CamelWire):
    operations: tuple[_Operation, ...] = ()
    next_page_token: str = ""


class _File(CamelWire):
    name: str


class _Uploaded(CamelWire):
    file: _File


class _Model(CamelWire):
    name: str


class GeminiDesk:
    """A `BatchDesk` at Google's own endpoint, whose base URL may be that of its OpenAI-compatible
    one."""

    def __init__(self, endpoint: Endpoint, patience: Patience | None = None) -> None:
        url = endpoint.base_url.rstrip("/") + "/"
        self._endpoint = replace(endpoint, base_url=url.removesuffix(_COMPATIBLE))
        self._window = BatchWindow(self._endpoint, patience or Patience(), _MANNER)

    @property
    def model(self) -> str:
        """The model as the user named it."""
        return self._endpoint.model

    async def check(self, sampling: Sampling) -> None:
        """Raises `InvalidInput` where the model cannot be asked so."""
        thinking_config(self.model, sampling)
        async with self._window.asking() as client:
            await self._window.get(client, "batches", _Page, pageSize=1)
            await self._window.get(client, self._model, _Model)

    async def prepare(self, requests: Sequence[BatchRequest], key: str) -> Draft:
        """Uploads a file of requests, which Google keeps for two days. Raises `InvalidInput`."""
        lines = [
            {
                "key": request.custom_id,
                "request": content_request(self.model, request.messages, request.sampling),
            }
            for request in requests
        ]
        content = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
        async with self._window.asking() as client:
            begun = await client.post(
                self._beside("upload", "files"),
                body={"file": {"displayName": key}},
                cast_to=openai.HttpxBinaryResponseContent,
                options={
                    "headers": {
                        "X-Goog-Upload-Protocol": "resumable",
                        "X-Goog-Upload-Command": "start",
                        "X-Goog-Upload-Header-Content-Length": str(len(content)),
                        "X-Goog-Upload-Header-Content-Type": "application/jsonl",
                    }
                },
            )
            address = begun.response.headers.get("x-goog-upload-url")
            if not address:
                raise BrokenAnswer("it does not say where to upload to")
            uploaded = await client.post(
                self._window.own(address),
                content=content,
                cast_to=object,
                options={
                    "headers": {
                        "Content-Type": "application/jsonl",
                        "X-Goog-Upload-Offset": "0",
                        "X-Goog-Upload-Command": "upload, finalize",
                    }
                },
            )
            return Draft(key, document(uploaded, _Uploaded).file.name)

    async def create(self, draft: Draft) -> Batch:
        """Have a file answered. Whatever is raised, `find` says whether it is."""
        # A repeated request whose first answer was lost would be a second batch.
        async with self._window.asking(retries=0) as client:
            made = await client.post(
                f"{self._model}:batchGenerateContent",
                body={
                    "batch": {
                        "displayName": draft.key,
                        "inputConfig": {"fileName": draft.content},
                    }
                },
                cast_to=object,
            )
            return document(made, _Operation).batch()

    async def find(self, sought: Sought) -> Batch | None:
        """The batch with that key, if it was made at all."""
        async with self._window.asking() as client:
            async for one in self._listed(client):
                if one.metadata.display_name == sought.key:
                    return one.batch()
        return None

    async def look_up(self, batch_id: str) -> Batch:
        """What has become of a batch."""
        return (await self._operation(batch_id)).batch()

    async def results(self, batch: Batch) -> list[Result]:
        """What a batch that is over came to, in no particular order; some may be missing."""
        if not batch.files:
            # Small batches have been seen to be answered in the batch itself.
            inlined = (await self._operation(batch.batch_id)).output.inlined_responses
            lines = [json.dumps(one) for one in inlined.inlined_responses]
            return self.read("\n".join(lines).encode(), batch.seconds)
        async with self._window.asking() as client:
            try:
                [name] = batch.files
                address = self._beside("download", f"{quote(name)}:download?alt=media")
                content = await self._window.content(client, address)
            except openai.NotFoundError:  # files are kept for two days
                return []
        return self.read(content, batch.seconds)

    def read(self, content: bytes, seconds: float) -> list[Result]:
        """A file of results; `seconds` is what the batch took. Asks nobody."""
        return self._window.read(content, seconds, _name, _answer)

    @property
    def _model(self) -> str:
        return f"models/{quote(self.model, safe='')}"

    def _beside(self, what: str, path: str) -> str:
        """An address in another tree of the same API: '/upload/v1beta/…' beside '/v1beta/…'."""
        base = httpx2.URL(self._endpoint.base_url)
        root = str(base.copy_with(path="/"))
        return f"{root}{what}{base.path}{path}"

    async def _operation(self, batch_id: str) -> _Operation:
        async with self._window.asking() as client:
            try:
                return await self._window.get(client, quote(batch_id), _Operation)
            except openai.NotFoundError:
                raise self._window.unknown(batch_id) from None

    async def _listed(self, client: openai.AsyncOpenAI) -> AsyncGenerator[_Operation]:
        """All there are: their order is not documented."""
        page, more = None, dict[str, str]()
        while page is None or page.next_page_token:
            page = await self._window.get(client, "batches", _Page, pageSize=_PAGE, **more)
            for one in page.operations:
                yield one
            more = {"pageToken": page.next_page_token}


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry["key"] if "key" in entry else entry["metadata"]["key"])


def _answer(entry: Mapping[str, Any]) -> Answer:
    raise_for_body(entry)
    response = entry.get("response")
    if not response:
        raise BrokenAnswer("the provider answered this request with nothing")
    return read_response(response)
