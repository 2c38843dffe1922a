"""What goes over the wire of the loopback server: requests, means of answering, both dialects."""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import threading
    from http.server import BaseHTTPRequestHandler

USAGE = {"prompt": 100, "cached": 40, "completion": 20, "reasoning": 5}
"""What every answer reports to have used."""


@dataclass(frozen=True)
class Recorded:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: dict[str, Any]
    port: int

    @property
    def key(self) -> str:
        """What was sent as the API key."""
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    @property
    def streams(self) -> bool:
        """True where the client asked for a stream."""
        return bool(self.body.get("stream"))

    @property
    def speaks_responses(self) -> bool:
        """True for the Responses API."""
        return self.path.endswith("/responses")

    @property
    def prompt(self) -> str:
        """All text of the conversation, system text included."""
        turns = self.body.get("messages") or self.body.get("input") or []
        said = [self.body.get("instructions") or "", *(turn["content"] for turn in turns)]
        return "\n".join(said)


class Exchange:
    """One request and the means to answer it, or not to."""

    def __init__(
        self,
        handler: BaseHTTPRequestHandler,
        request: Recorded,
        released: threading.Event,
        *,
        keep_alive: bool,
    ) -> None:
        self.request = request
        self.headers: dict[str, str] = {}
        """Sent along with any answer."""
        self._handler = handler
        self._released = released
        self._connection = "keep-alive" if keep_alive else "close"

    def whole(self, status: int, body: str, kind: str = "application/json", **headers: str) -> None:
        """A complete response."""
        data = body.encode()
        self._start(status, kind, headers | {"Content-Length": str(len(data))})
        self._handler.wfile.write(data)

    def start_stream(self, kind: str = "text/event-stream") -> None:
        """Headers of a chunked stream."""
        self._start(200, kind, {"Transfer-Encoding": "chunked"})

    def raw(self, text: str) -> None:
        """One chunk of a stream, as it is."""
        data = text.encode()
        self._handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self._handler.wfile.flush()

    def event(self, payload: dict[str, Any]) -> None:
        """One server-sent event."""
        name = f"event: {payload['type']}\n" if "type" in payload else ""
        self.raw(f"{name}data: {json.dumps(payload)}\n\n")

    def end_stream(self) -> None:
        """The proper end of a chunked body."""
        self._handler.wfile.write(b"0\r\n\r\n")

    def hold(self) -> None:
        """Says nothing until the server is closed."""
        self._released.wait()

    def drip(self, text: str, every_s: float) -> None:
        """Repeats one chunk until the client has gone or the server is closed."""
        while not self._released.wait(every_s):
            self.raw(text)

    def reset(self) -> None:
        """Ends the connection with a TCP reset."""
        linger = struct.pack("ii", 1, 0)
        self._handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._handler.server.abandon(self._handler.connection)  # type: ignore[attr-defined]

    def _start(self, status: int, kind: str, headers: dict[str, str]) -> None:
        self._handler.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Connection": self._connection,
            **self.headers,
            **headers,
        }.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.end_headers()


@dataclass(frozen=True)
class Said:
    """What the model says. `finish` is 'stop', 'length' or 'content_filter'."""

    text: str
    finish: str
    refusal: str
    with_usage: bool
    model: str

    def completion(self) -> dict[str, Any]:
        """Chat Completions, whole."""
        message = {"role": "assistant", "content": self.text, "refusal": self.refusal or None}
        choice = {"index": 0, "message": message, "finish_reason": self.finish}
        body = self._chat_head("chat.completion") | {"choices": [choice]}
        return body | ({"usage": _chat_usage()} if self.with_usage else {})

    def response(self, status: str | None = None) -> dict[str, Any]:
        """Responses API, whole."""
        cut = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(self.finish)
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "model": self.model,
            "status": status or ("incomplete" if cut else "completed"),
            "incomplete_details": {"reason": cut} if cut else None,
            "error": None,
            "output": [{"type": "reasoning", "id": "rs_1", "summary": []}, *self._parts()],
            "usage": _responses_usage() if self.with_usage else None,
            "tools": [],
            "tool_choice": "auto",
            "parallel_tool_calls": False,
            "metadata": {},
        }

    def _parts(self) -> list[dict[str, Any]]:
        part = (
            {"type": "refusal", "refusal": self.refusal}
            if self.refusal
            else {"type": "output_text", "text": self.text, "annotations": []}
        )
        message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
        return [message | {"content": [part]}]

    def _chat_head(self, kind: str) -> dict[str, Any]:
        return {"id": "c1", "object": kind, "created": 1, "model": self.model}

    def completion_events(self, usage_wanted: bool) -> list[dict[str, Any]]:
        """Chat Completions, streamed; usage only where it was asked for."""
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": piece} for piece in _pieces(self.text)]
        if self.refusal:
            deltas.append({"refusal": self.refusal})
        head = self._chat_head("chat.completion.chunk")
        choices = [{"index": 0, "delta": d, "finish_reason": None} for d in deltas]
        choices.append({"index": 0, "delta": {}, "finish_reason": self.finish})
        events = [head | {"choices": [choice]} for choice in choices]
        if self.with_usage and usage_wanted:
            events.append(head | {"choices": [], "usage": _chat_usage()})
        return events

    def response_events(self) -> list[dict[str, Any]]:
        """Responses API, streamed."""
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": self.response("in_progress")},
        ]
        where = {"item_id": "msg_1", "output_index": 1, "content_index": 0, "logprobs": []}
        events += [
            {"type": "response.output_text.delta", "delta": piece} | where
            for piece in _pieces(self.text)
        ]
        last = self.response()
        events.append({"type": f"response.{last['status']}", "response": last})
        return [event | {"sequence_number": n} for n, event in enumerate(events)]


def _pieces(text: str) -> list[str]:
    third = max(1, len(text) // 3)
    return [text[i : i + third] for i in range(0, len(text), third)]


def _chat_usage() -> dict[str, Any]:
    return {
        "prompt_tokens": USAGE["prompt"],
        "completion_tokens": USAGE["completion"],
        "total_tokens": USAGE["prompt"] + USAGE["completion"],
        "prompt_tokens_details": {"cached_tokens": USAGE["cached"]},
        "completion_tokens_details": {"reasoning_tokens": USAGE["reasoning"]},
    }


def _responses_usage() -> dict[str, Any]:
    return {
        "input_tokens": USAGE["prompt"],
        "output_tokens": USAGE["completion"],
        "total_tokens": USAGE["prompt"] + USAGE["completion"],
        "input_tokens_details": {"cached_tokens": USAGE["cached"]},
        "output_tokens_details": {"reasoning_tokens": USAGE["reasoning"]},
    }
