"""Chat Completions: what nearly every endpoint speaks."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import openai
from openai import omit
from openai.types.chat import ChatCompletion

from kernel_generator.domain.conversation import Finish, Role, Usage
from kernel_generator.models.answer import (
    Answer,
    ApiPath,
    BrokenAnswer,
    NotAnApi,
    decoding,
    finish_of,
    media_type,
    parsed,
    reading,
    streaming,
)
from kernel_generator.models.faults import raise_for_body

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openai import AsyncOpenAI, AsyncStream, Omit
    from openai.types import CompletionUsage, ReasoningEffort
    from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

    from kernel_generator.domain.conversation import Message, Request, Sampling

_FINISHES = {"length": Finish.LENGTH, "content_filter": Finish.REFUSED}


@dataclass
class _Draft:
    """What has arrived so far."""

    text: list[str] = field(default_factory=list[str])
    refusal: list[str] = field(default_factory=list[str])
    reason: str | None = None
    model: str = ""
    usage: Usage | None = None
    events: int = 0

    def answer(self) -> Answer:
        """The whole answer. Raises `BrokenAnswer` where no end has arrived."""
        if self.reason is None:
            raise BrokenAnswer("the stream ended before the answer did")
        if self.reason == "error":
            raise BrokenAnswer("the provider broke the answer off")
        text, refusal = "".join(self.text), "".join(self.refusal)
        finish = Finish.REFUSED if refusal else _FINISHES.get(self.reason, Finish.COMPLETE)
        detail = refusal or ("" if self.reason == "stop" else f"finish_reason: {self.reason}")
        return Answer(text, finish_of(text, finish), self.model, self.usage, detail)


class ChatDialect:
    """Asks over `/chat/completions`."""

    path: ApiPath = "/v1/chat/completions"

    def __init__(self, model: str, *, stream: bool, answer_s: float) -> None:
        self._model = model
        self._stream = stream
        self._answer_s = answer_s
        self._ask_usage = True

    async def answer(self, client: AsyncOpenAI, request: Request) -> Answer:
        """Asks once; a second time where the endpoint knows no `stream_options`."""
        if not self._stream:
            return await self._ask_whole(client, request)
        try:
            stream = await self._open(client, request)
        except openai.BadRequestError as error:
            if not self._ask_usage or "stream_options" not in str(error):
                raise
            self._ask_usage = False
            stream = await self._open(client, request)
        return await self._read(stream)

    def body(self, messages: tuple[Message, ...], sampling: Sampling) -> Mapping[str, object]:
        """What would be sent, not streamed."""
        fields = {"messages": _messages(messages), "reasoning_effort": _effort(sampling)}
        return {"model": self._model} | {k: v for k, v in fields.items() if v is not omit}

    def read(self, body: Mapping[str, Any]) -> Answer:
        """A completion out of its JSON."""
        with reading():
            return _read_whole(ChatCompletion.construct(**body))

    async def _ask_whole(self, client: AsyncOpenAI, request: Request) -> Answer:
        with decoding():
            completion = await client.chat.completions.create(
                model=self._model,
                messages=_messages(request.messages),
                stream=False,
                reasoning_effort=_effort(request.sampling),
            )
        with reading():
            return _read_whole(parsed(completion, ChatCompletion))

    async def _open(
        self, client: AsyncOpenAI, request: Request
    ) -> AsyncStream[ChatCompletionChunk]:
        return await client.chat.completions.create(
            model=self._model,
            messages=_messages(request.messages),
            stream=True,
            stream_options={"include_usage": True} if self._ask_usage else omit,
            reasoning_effort=_effort(request.sampling),
        )

    async def _read(self, stream: AsyncStream[ChatCompletionChunk]) -> Answer:
        kind, draft = media_type(stream), _Draft()
        try:
            async with streaming(stream, self._answer_s):
                if kind == "text/html":
                    raise NotAnApi("a web page")
                if kind.endswith("json"):  # an endpoint that does not stream, and does not say so
                    return self.read(json.loads(await stream.response.aread()))
                async for chunk in stream:
                    _add(draft, chunk)
        except BrokenAnswer:
            # Whatever breaks after the last word costs the usage, not the answer.
            if draft.reason is None:
                raise
        if draft.events == 0 and kind != "text/event-stream":
            raise NotAnApi("text that is not an event stream")
        return draft.answer()


def _add(draft: _Draft, chunk: ChatCompletionChunk) -> None:
    draft.events += 1
    draft.model = chunk.model or draft.model
    draft.usage = _usage(chunk.usage) or draft.usage
    for choice in (chunk.choices or [])[:1]:
        draft.text.append(choice.delta.content or "")
        draft.refusal.append(choice.delta.refusal or "")
        draft.reason = choice.finish_reason or draft.reason


def _read_whole(completion: ChatCompletion) -> Answer:
    if not completion.choices:
        raise_for_body(completion.model_extra)
        raise BrokenAnswer("the answer holds no choice")
    choice = completion.choices[0]
    return _Draft(
        text=[choice.message.content or ""],
        refusal=[choice.message.refusal or ""],
        # Whole answers arrive whole, so a missing reason means nothing was cut.
        reason=choice.finish_reason or "stop",
        model=completion.model or "",
        usage=_usage(completion.usage),
    ).answer()


def _usage(usage: CompletionUsage | None) -> Usage | None:
    if usage is None:
        return None
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return Usage(
        prompt=usage.prompt_tokens or 0,
        cached=(prompt.cached_tokens or 0) if prompt else 0,
        completion=usage.completion_tokens or 0,
        reasoning=(completion.reasoning_tokens or 0) if completion else 0,
    )


def _messages(messages: tuple[Message, ...]) -> list[ChatCompletionMessageParam]:
    turns: list[ChatCompletionMessageParam] = []
    for message in messages:
        match message.role:
            case Role.SYSTEM:
                turns.append({"role": "system", "content": message.text})
            case Role.USER:
                turns.append({"role": "user", "content": message.text})
            case Role.ASSISTANT:
                turns.append({"role": "assistant", "content": message.text})
    return turns


def _effort(sampling: Sampling) -> ReasoningEffort | Omit:
    effort = sampling.reasoning_effort
    # The SDK lists today's efforts; the provider decides which it takes.
    return omit if effort is None else cast("ReasoningEffort", effort)
