"""Gemini's own `generateContent`, as a batch asks over it: what a request says, how an answer is
read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic import Field

from kernel_generator.domain.conversation import Finish, Role, Usage
from kernel_generator.domain.errors import InvalidInput
from kernel_generator.models.answer import Answer, BrokenAnswer, Declined, finish_of
from kernel_generator.models.wire import CamelWire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kernel_generator.domain.conversation import Message, Sampling

_BUDGETS = {"none": 0, "minimal": 1_024, "low": 1_024, "medium": 8_192, "high": 24_576}
"""Tokens of thought, as Google's OpenAI-compatible endpoint has it for Gemini 2.5:
https://ai.google.dev/gemini-api/docs/openai#thinking"""
_LEVELS = ("minimal", "low", "medium", "high")
"""Of Gemini 3 and later; which of them a model takes is the provider's to say."""
_REFUSALS = {
    "BLOCKLIST",
    "IMAGE_SAFETY",
    "LANGUAGE",
    "PROHIBITED_CONTENT",
    "RECITATION",
    "SAFETY",
    "SPII",
}


class _Part(CamelWire):
    text: str = ""
    thought: bool = False


class _Content(CamelWire):
    parts: tuple[_Part, ...] = ()


class _Candidate(CamelWire):
    content: _Content = Field(default_factory=_Content)
    finish_reason: str = ""
    finish_message: str = ""


class _Feedback(CamelWire):
    block_reason: str = ""
    block_reason_message: str = ""


class _UsageMetadata(CamelWire):
    prompt_token_count: int = 0
    cached_content_token_count: int = 0
    candidates_token_count: int = 0
    """Without what was thought."""
    thoughts_token_count: int = 0

    def usage(self) -> Usage:
        return Usage(
            prompt=self.prompt_token_count,
            cached=self.cached_content_token_count,
            completion=self.candidates_token_count + self.thoughts_token_count,
            reasoning=self.thoughts_token_count,
        )


class _Response(CamelWire):
    candidates: tuple[_Candidate, ...] = ()
    prompt_feedback: _Feedback = Field(default_factory=_Feedback)
    usage_metadata: _UsageMetadata | None = None
    model_version: str = ""


def thinking_config(model: str, sampling: Sampling) -> dict[str, object]:
    """How much a model is to think; empty where nothing is asked. Raises `InvalidInput` for what
    the API has no word for."""
    effort = sampling.reasoning_effort
    if effort is None:
        return {}
    if re.match(r"gemini-(1\.|2\.0)", model.lower()):
        raise InvalidInput(f"model '{model}' takes no reasoning_effort: leave it out")
    budgeted = re.match(r"gemini-2\.", model.lower()) is not None
    taken = tuple(_BUDGETS) if budgeted else _LEVELS
    if effort not in taken:
        raise InvalidInput(
            f"model '{model}' takes no reasoning_effort '{effort}' in a batch: give one of "
            f"{', '.join(taken)}, or leave it out"
        )
    return {"thinkingBudget": _BUDGETS[effort]} if budgeted else {"thinkingLevel": effort}


def content_request(
    model: str, messages: tuple[Message, ...], sampling: Sampling
) -> dict[str, object]:
    """One request, but for the model's name. Raises `InvalidInput`."""
    thinking = thinking_config(model, sampling)
    system = [{"text": m.text} for m in messages if m.role is Role.SYSTEM]
    turns = [
        {"role": "user" if m.role is Role.USER else "model", "parts": [{"text": m.text}]}
        for m in messages
        if m.role is not Role.SYSTEM
    ]
    said: dict[str, object] = {"contents": turns}
    if system:
        said["systemInstruction"] = {"parts": system}
    if thinking:
        said["generationConfig"] = {"thinkingConfig": thinking}
    return said


def read_response(body: Mapping[str, Any]) -> Answer:
    """An answer out of its JSON; what was thought is no part of it. Raises what reading one
    does."""
    response = _Response.model_validate(body)
    usage = response.usage_metadata.usage() if response.usage_metadata else None
    if not response.candidates:
        blocked = response.prompt_feedback
        if blocked.block_reason:
            raise Declined(blocked.block_reason_message or f"blocked: {blocked.block_reason}")
        raise BrokenAnswer("the answer holds no candidate")
    candidate = response.candidates[0]
    text = "".join(part.text for part in candidate.content.parts if not part.thought)
    reason = candidate.finish_reason
    if not reason:
        raise BrokenAnswer("the answer does not say that it ended")
    if reason == "STOP":
        finish, detail = Finish.COMPLETE, ""
    else:
        finish = Finish.REFUSED if reason in _REFUSALS else Finish.LENGTH
        detail = candidate.finish_message or f"finishReason: {reason}"
    return Answer(text, finish_of(text, finish), response.model_version, usage, detail)
