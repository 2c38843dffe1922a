"""A real HTTP server on this machine that imitates OpenAI's Files and Batch APIs.

Batches stay in progress until the test says how they end.
"""

from __future__ import annotations

import email
import json
from typing import TYPE_CHECKING

from tests.loopback import REPORTED_MODEL
from tests.loopback_host import Given, Host, document
from tests.loopback_wire import Said

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.loopback_host import Asked, Line


def answered(request: Line, text: str, *, finish: str = "stop", refusal: str = "") -> Line:
    """A request's line with an answer."""
    said = Said(text, finish, refusal, True, REPORTED_MODEL)
    chat = request["url"] == "/v1/chat/completions"
    return replied(request, 200, said.completion() if chat else said.response())


def replied(request: Line, status: int, body: object) -> Line:
    """A request's line with an HTTP answer."""
    response = {"status_code": status, "request_id": "r", "body": body}
    return {"id": "b", "custom_id": request["custom_id"], "response": response, "error": None}


def rejected(request: Line, message: str, code: str, status: int = 400) -> Line:
    """A request's line with an error that the model's API gave."""
    error = {"message": message, "code": code, "type": "invalid_request_error", "param": None}
    return replied(request, status, {"error": error})


def too_late(request: Line) -> Line:
    """A request's line where the batch expired before."""
    told = "This request could not be executed before the completion window expired."
    error = {"code": "batch_expired", "message": told}
    return {"id": "b", "custom_id": request["custom_id"], "response": None, "error": error}


class BatchServer(Host):
    """Files and batches at `base_url`."""

    key_header, key_prefix = "Authorization", "Bearer "
    root = "/v1/"

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Line] = {}
        """By id, the oldest first."""

    def requests(self, batch_id: str | None = None) -> list[Line]:
        """The lines that were handed in with a batch; with the last one unless told otherwise."""
        batch = self.batches[batch_id or list(self.batches)[-1]]
        lines = self.files[batch["input_file_id"]].decode().split("\n")
        return [json.loads(line) for line in lines if line]

    def end(
        self,
        result: Callable[[Line], Line | None],
        *more: Line,
        status: str = "completed",
        batch_id: str | None = None,
    ) -> None:
        """A batch is over (the last one unless told otherwise), with a result for each request,
        the last request's first, and `more` lines. What failed goes to the other file."""
        batch = self.batches[batch_id or list(self.batches)[-1]]
        lines = [*(result(request) for request in reversed(self.requests(batch["id"]))), *more]
        good = [one for one in lines if one and (one["response"] or {}).get("status_code") == 200]
        bad = [one for one in lines if one and one not in good]
        for name, those in (("output_file_id", good), ("error_file_id", bad)):
            if those:
                batch[name] = self._keep("".join(f"{json.dumps(one)}\n" for one in those).encode())
        batch |= {"status": status, f"{status}_at": batch["created_at"] + 90}
        batch["request_counts"] |= {"completed": len(good), "failed": len(bad)}

    def fail(self, message: str) -> None:
        """The last batch is not even begun."""
        batch = self.batches[list(self.batches)[-1]]
        batch["errors"] = {"object": "list", "data": [{"code": "planted", "message": message}]}
        batch["status"] = "failed"

    def answer(self, asked: Asked) -> Given | None:
        """Answer one request."""
        match asked.path.removeprefix(self.root).split("/"):
            case ["files"]:
                name = self._keep(_uploaded(asked.headers["Content-Type"], asked.body))
                return document({"id": name, "object": "file", "purpose": "batch"})
            case ["files", name, "content"] if name in self.files:
                return Given(200, self.files[name])
            case ["batches"] if asked.method == "POST":
                return self.lost(document(self._make(json.loads(asked.body))))
            case ["batches"]:
                found = list(reversed(self.batches.values()))
                return document({"object": "list", "data": found, "has_more": False})
            case ["batches", name] if name in self.batches:
                return document(self.batches[name])
            case _:
                return None

    def _make(self, wanted: Line) -> Line:
        name = f"batch_{len(self.batches) + 1}"
        self.batches[name] = made = {
            "id": name,
            "object": "batch",
            "status": "in_progress",
            "created_at": 2_000_000_000 + len(self.batches),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            **wanted,
        }
        made["request_counts"]["total"] = len(self.requests(name))
        return made

    def _keep(self, content: bytes) -> str:
        name = f"file-{len(self.files) + 1}"
        self.files[name] = content
        return name


def _uploaded(kind: str, body: bytes) -> bytes:
    parts = email.message_from_bytes(f"Content-Type: {kind}\n\n".encode() + body).walk()
    [content] = [p.get_payload(decode=True) for p in parts if p.get_filename()]
    assert isinstance(content, bytes)
    return content
