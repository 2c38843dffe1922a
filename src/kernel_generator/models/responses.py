"""OpenAI's Responses API: what its reasoning models are asked over."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from openai import omit
from openai.types.responses import Response

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
from kernel_generator.models.faults import raise_for_body, raise_for_code

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openai import AsyncOpenAI, AsyncStream, Omit
    from openai.types import ReasoningEffort
    from openai.types.responses import (
        EasyInputMessageParam,
        ResponseInputParam,
        ResponseStreamEvent,
        ResponseUsage,
    )
    from openai.types.shared_params import Reasoning

    from kernel_generator.domain.conversation import Message, Request, Sampling

_CUTS = {"max_output_tokens": Finish.LENGTH, "content_filter": Finish.REFUSED}


class ResponsesDialect:
    """Asks over `/responses`."""

    path: ApiPath = "/v1/responses"

    def __init__(self, model: str, *, stream: bool, answer_s: float) -> None:
        self._model = model
        self._stream = stream
        self._answer_s = answer_s

    async def answer(self, client: AsyncOpenAI, request: Request) -> Answer:
        """Asks once."""
        if self._stream:
            stream = await client.responses.create(
                model=self._model,
                instructions=_instructions(request.messages),
                input=_input(request.messages),
                stream=True,
                reasoning=_reasoning(request.sampling),
            )
            return await self._read(stream)
        with decoding():
            response = await client.responses.create(
                model=self._model,
                instructions=_instructions(request.messages),
                input=_input(request.messages),
                stream=False,
                reasoning=_reasoning(request.sampling),
            )
        with reading():
            return _read_whole(parsed(response, Response), "")

    def body(self, messages: tuple[Message, ...], sampling: Sampling) -> Mapping[str, object]:
        """What would be sent, not streamed."""
        fields = {
            "instructions": _instructions(messages),
            "input": _input(messages),
            "reasoning": _reasoning(sampling),
        }
        return {"model": self._model} | {k: v for k, v in fields.items() if v is not omit}

    def read(self, body: Mapping[str, Any]) -> Answer:
        """A response out of its JSON."""
        with reading():
            return _read_whole(Response.construct(**body), "")

    async def _read(self, stream: AsyncStream[ResponseStreamEvent]) -> Answer:
        kind, events, pieces = media_type(stream), 0, list[str]()
        async with streaming(stream, self._answer_s):
            if kind == "text/html":
                raise NotAnApi("a web page")
            if kind.endswith("json"):  # an endpoint that does not stream, and does not say so
                return self.read(json.loads(await stream.response.aread()))
            async for event in stream:
                events += 1
                match event.type:
                    case "response.output_text.delta":
                        pieces.append(event.delta)
                    case "response.completed" | "response.incomplete" | "response.failed":
                        return _read_whole(event.response, "".join(pieces))
                    case "error":
                        raise_for_code(event.code, None, event.message)
                    case _:
                        pass
        if events == 0 and kind != "text/event-stream":
            raise NotAnApi("text that is not an event stream")
        raise BrokenAnswer("the stream ended before the answer did")


def _read_whole(response: Response, streamed: str) -> Answer:
    """`streamed` is the text seen on the way, for endpoints whose last event repeats none."""
    text, refusal = "", ""
    for item in response.output or []:
        if item.type == "message":
            for part in item.content:
                if part.type == "output_text":
                    text += part.text
                else:
                    refusal += part.refusal
    text = text or streamed
    finish, detail = Finish.COMPLETE, ""
    match response.status:
        case "completed":
            pass
        case "incomplete":
            cut = response.incomplete_details
            reason = str(cut.reason) if cut else "no reason given"
            finish, detail = _CUTS.get(reason, Finish.LENGTH), f"incomplete: {reason}"
        case _:
            if response.error is not None:
                raise_for_code(response.error.code, None, response.error.message)
            raise_for_body(response.model_extra)
            raise BrokenAnswer(f"the answer ended with status '{response.status}'")
    if refusal:
        finish, detail = Finish.REFUSED, refusal
    return Answer(
        text, finish_of(text, finish), response.model or "", _usage(response.usage), detail
    )


def _usage(usage: ResponseUsage | None) -> Usage | None:
    if usage is None:
        return None
    given, made = usage.input_tokens_details, usage.output_tokens_details
    return Usage(
        prompt=usage.input_tokens or 0,
        cached=(given.cached_tokens or 0) if given else 0,
        completion=usage.output_tokens or 0,
        reasoning=(made.reasoning_tokens or 0) if made else 0,
    )


def _instructions(messages: tuple[Message, ...]) -> str | Omit:
    system = [m.text for m in messages if m.role is Role.SYSTEM]
    return "\n\n".join(system) if system else omit


def _input(messages: tuple[Message, ...]) -> ResponseInputParam:
    turns: ResponseInputParam = []
    for message in messages:
        if message.role is Role.SYSTEM:
            continue
        turn: EasyInputMessageParam = {
            "role": "user" if message.role is Role.USER else "assistant",
            "content": message.text,
        }
        turns.append(turn)
    return turns


def _reasoning(sampling: Sampling) -> Reasoning | Omit:
    effort = sampling.reasoning_effort
    # The SDK lists today's efforts; the provider decides which it takes.
    return omit if effort is None else {"effort": cast("ReasoningEffort", effort)}
