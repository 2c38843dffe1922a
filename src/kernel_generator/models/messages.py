"""Anthropic's Messages API, as a batch asks over it: what a request says, how an answer is read.

What a model takes is asked of the Models API, since a wrong setting would show in a batch's results
only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from kernel_generator.domain.conversation import Finish, Role, Usage
from kernel_generator.domain.errors import InvalidInput
from kernel_generator.models.answer import Answer, BrokenAnswer, finish_of
from kernel_generator.models.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kernel_generator.domain.conversation import Message, Sampling

_SAFE_MAX_TOKENS = 32_000
"""Every Claude since version 4 may answer with as many."""
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
"""https://platform.claude.com/docs/en/build-with-claude/effort"""
_WHOLE = {"end_turn", "stop_sequence"}
_CUTS = {"max_tokens", "model_context_window_exceeded", "pause_turn"}


class _Support(Wire):
    supported: bool = True


class _Thinking(Wire):
    types: dict[str, _Support] = Field(default_factory=dict[str, _Support])


class _Capabilities(Wire):
    batch: _Support | None = None
    effort: dict[str, _Support | bool | None] | None = None
    """By level; whether there are any under 'supported'."""
    thinking: _Thinking | None = None


class ModelInfo(Wire):
    """What Anthropic says of a model."""

    id: str
    max_tokens: int | None = None
    """Of one answer, thinking among them."""
    capabilities: _Capabilities | None = None

    def settings(self, sampling: Sampling) -> dict[str, object]:
        """The fields of a request but for what is said. Raises `InvalidInput` for what the model
        cannot be asked."""
        told = self.capabilities or _Capabilities()
        if told.batch is not None and not told.batch.supported:
            raise InvalidInput(f"model '{self.id}' is not asked in batches: leave --batch out")
        # The API wants a bound, other dialects leave it out: the highest that the model takes.
        found: dict[str, object] = {"max_tokens": self.max_tokens or _SAFE_MAX_TOKENS}
        effort = sampling.reasoning_effort
        if effort is None:
            return found
        taken = self._efforts(told.effort)
        if effort not in taken:
            which = f"one of {', '.join(taken)}, or leave it out" if taken else "leave it out"
            raise InvalidInput(f"model '{self.id}' takes no reasoning_effort '{effort}': {which}")
        found["output_config"] = {"effort": effort}
        adaptive = told.thinking.types.get("adaptive") if told.thinking else None
        if adaptive is not None and adaptive.supported:
            found["thinking"] = {"type": "adaptive"}
        return found

    def _efforts(self, told: Mapping[str, _Support | bool | None] | None) -> list[str]:
        if told is None:
            return list(_EFFORTS)
        if told.get("supported") is False:
            return []
        support = {level: told.get(level) for level in _EFFORTS}
        return [
            level
            for level, one in support.items()
            if one is not None and not (isinstance(one, _Support) and not one.supported)
        ]


class _Block(Wire):
    type: str
    text: str = ""


class _Thought(Wire):
    thinking_tokens: int = 0


class _Usage(Wire):
    input_tokens: int = 0
    """Without those that were written to or read from a cache."""
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int = 0
    output_tokens_details: _Thought | None = None

    def usage(self) -> Usage:
        cached = self.cache_read_input_tokens or 0
        thought = self.output_tokens_details
        return Usage(
            prompt=self.input_tokens + (self.cache_creation_input_tokens or 0) + cached,
            cached=cached,
            completion=self.output_tokens,
            reasoning=thought.thinking_tokens if thought else 0,
        )


class _StopDetails(Wire):
    category: str | None = None
    explanation: str | None = None


class _Message(Wire):
    content: tuple[_Block, ...]
    stop_reason: str | None = None
    stop_details: _StopDetails | None = None
    model: str = ""
    usage: _Usage | None = None


def params(
    model: str, messages: tuple[Message, ...], settings: Mapping[str, object]
) -> dict[str, object]:
    """One request; `settings` are those of `ModelInfo.settings`."""
    system = "\n\n".join(m.text for m in messages if m.role is Role.SYSTEM)
    turns = [
        {"role": "user" if m.role is Role.USER else "assistant", "content": m.text}
        for m in messages
        if m.role is not Role.SYSTEM
    ]
    said: dict[str, object] = {"system": system} if system else {}
    return {"model": model, **settings, **said, "messages": turns}


def read_message(body: Mapping[str, Any]) -> Answer:
    """An answer out of its JSON; what was thought is no part of it. Raises what reading one
    does."""
    message = _Message.model_validate(body)
    text = "".join(block.text for block in message.content if block.type == "text")
    usage = message.usage.usage() if message.usage else None
    reason = message.stop_reason
    if reason is None:
        raise BrokenAnswer("the answer does not say that it ended")
    finish, detail = Finish.COMPLETE, "" if reason in _WHOLE else f"stop_reason: {reason}"
    if reason in _CUTS:
        finish = Finish.LENGTH
    elif reason == "refusal":
        finish, told = Finish.REFUSED, message.stop_details or _StopDetails()
        detail = told.explanation or (f"refused: {told.category}" if told.category else detail)
    return Answer(text, finish_of(text, finish), message.model, usage, detail)
