"""A real HTTP server on this machine that imitates Anthropic's Message Batches and Models APIs.

Batches stay in progress until the test says how they end.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.loopback_host import Given, Host, document
from tests.loopback_wire import USAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.loopback_host import Asked, Line

REPORTED_MODEL = "claude-reported-1"


def says(text: str, *, stop: str = "end_turn", **more: object) -> Line:
    """The result of a request that was answered, after some thinking."""
    usage = {
        "input_tokens": USAGE["prompt"] - USAGE["cached"],
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": USAGE["cached"],
        "output_tokens": USAGE["completion"],
        "output_tokens_details": {"thinking_tokens": USAGE["reasoning"]},
        "service_tier": "batch",
    }
    thought = [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
    ]
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": REPORTED_MODEL,
        "content": [*thought, *([{"type": "text", "text": text}] if text else [])],
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": usage,
    }
    return {"type": "succeeded", "message": message | more}


def errs(message: str, kind: str = "invalid_request_error") -> Line:
    """The result of a request that could not be answered."""
    error = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "r"}
    return {"type": "errored", "error": error}


EXPIRED: Line = {"type": "expired"}
CANCELED: Line = {"type": "canceled"}


class AnthropicServer(Host):
    """Batches and models at `base_url`."""

    key_header = "x-api-key"
    root = "/v1/"

    def __init__(self) -> None:
        super().__init__()
        self.batches: dict[str, Line] = {}
        """By id, the oldest first; 'requests' are shown to nobody."""
        self.results: dict[str, bytes] = {}
        self.page = 2
        """So many batches a page at most, whatever is asked for."""
        self.max_tokens: int | None = 64_000
        self.capabilities: dict[str, Any] | None = {
            "batch": {"supported": True},
            "effort": {
                "supported": True,
                "low": {"supported": True},
                "medium": {"supported": True},
                "high": {"supported": True},
                "xhigh": None,
                "max": {"supported": False},
            },
            "thinking": {
                "supported": True,
                "types": {"adaptive": {"supported": True}, "enabled": {"supported": False}},
            },
        }

    def requests(self, batch_id: str | None = None) -> list[Line]:
        """What was handed in with a batch; with the last one unless told otherwise."""
        return self.batches[batch_id or list(self.batches)[-1]]["requests"]

    def end(
        self,
        result: Callable[[Line], Line | None],
        *more: bytes,
        batch_id: str | None = None,
    ) -> None:
        """A batch has ended (the last one unless told otherwise), with a result for each request,
        the last request's first, and `more` lines."""
        name = batch_id or list(self.batches)[-1]
        batch = self.batches[name]
        given = [(one["custom_id"], result(one)) for one in reversed(self.requests(name))]
        lines = [
            json.dumps({"custom_id": custom_id, "result": one}).encode()
            for custom_id, one in given
            if one is not None
        ]
        self.results[name] = b"\n".join([*lines, *more]) + b"\n"
        kinds = [one["type"] for _, one in given if one is not None]
        counts = {"succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
        batch |= {
            "processing_status": "ended",
            "ended_at": _later(batch["created_at"], 90),
            "results_url": f"{self.base_url}messages/batches/{name}/results",
            "request_counts": {"processing": 0} | {kind: kinds.count(kind) for kind in counts},
        }

    def archive(self) -> None:
        """The last batch's results are no longer kept."""
        name = list(self.batches)[-1]
        del self.results[name]
        self.batches[name] |= {"archived_at": "2030-01-01T00:00:00Z", "results_url": None}

    def add(self, count: int, age_s: float = 0.0) -> str:
        """A batch that somebody else has made meanwhile; its id."""
        named = [{"custom_id": f"theirs-{n}", "params": {}} for n in range(count)]
        return self._make(named, age_s)["id"]

    def answer(self, asked: Asked) -> Given | None:
        """Answer one request."""
        if asked.headers.get("anthropic-version") != "2023-06-01":
            return document({"error": {"message": "anthropic-version: header is required"}}, 400)
        match asked.path.removeprefix(self.root).split("/"):
            case ["models", name]:
                told = {"max_tokens": self.max_tokens, "capabilities": self.capabilities}
                return document({"id": name, "type": "model"} | told)
            case ["messages", "batches"] if asked.method == "POST":
                made = self._make(json.loads(asked.body)["requests"])
                return self.lost(document(_shown(made)))
            case ["messages", "batches"]:
                return document(self._listed(asked.query.get("after_id")))
            case ["messages", "batches", name, "results"] if name in self.results:
                return Given(200, self.results[name], "application/x-jsonl")
            case ["messages", "batches", name] if name in self.batches:
                return document(_shown(self.batches[name]))
            case _:
                return None

    def _listed(self, after: str | None) -> Line:
        names = list(reversed(self.batches))
        names = names[names.index(after) + 1 :] if after else names
        shown = names[: self.page]
        return {
            "data": [_shown(self.batches[name]) for name in shown],
            "has_more": len(names) > len(shown),
            "first_id": shown[0] if shown else None,
            "last_id": shown[-1] if shown else None,
        }

    def _make(self, requests: list[Line], age_s: float = 0.0) -> Line:
        name = f"msgbatch_{len(self.batches) + 1}"
        created = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
        counts = {"succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
        self.batches[name] = made = {
            "id": name,
            "type": "message_batch",
            "processing_status": "in_progress",
            "request_counts": {"processing": len(requests)} | counts,
            "created_at": created,
            "expires_at": _later(created, 86_400),
            "ended_at": None,
            "archived_at": None,
            "cancel_initiated_at": None,
            "results_url": None,
            "requests": requests,
        }
        return made


def _shown(batch: Line) -> Line:
    return {name: value for name, value in batch.items() if name != "requests"}


def _later(time: str, seconds: float) -> str:
    return (datetime.fromisoformat(time) + timedelta(seconds=seconds)).isoformat()
