"""A real HTTP server on this machine that imitates OpenAI's Files and Batch APIs.

Batches stay in progress until the test says how they end.
"""

from __future__ import annotations

import email
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, TypeAlias

from tests.loopback import REPORTED_MODEL
from tests.loopback_wire import Said

if TYPE_CHECKING:
    from collections.abc import Callable

Line: TypeAlias = dict[str, Any]
"""A line of a file of requests or of results."""


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


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.owner.serve(self, b"")

    def do_POST(self) -> None:
        self.server.owner.serve(self, self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, format: str, *args: object) -> None:
        """Requests are recorded, not logged."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, owner: BatchServer) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)


class BatchServer:
    """Files and batches at `base_url`; use as a context manager."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Line] = {}
        """By id, the oldest first."""
        self.asked: list[str] = []
        """'GET /v1/batches' and so on, without what follows a '?'."""
        self.keys: set[str] = set()
        self.refusal: int | None = None
        """A status that everything is answered with, if any."""
        self.is_a_web_page = False
        """Whether it is no API at all."""
        self.loses: int | None = None
        """How the making of a batch ends, though it was made: a status, 0 for no answer at all."""
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> BatchServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1/"

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

    def serve(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """Answer one request."""
        path = handler.path.partition("?")[0]
        self.asked.append(f"{handler.command} {path}")
        self.keys.add(handler.headers.get("Authorization", "").removeprefix("Bearer "))
        if self.refusal is not None:
            error = {"message": f"no, {handler.headers['Authorization']}", "code": None}
            return _send(handler, self.refusal, json.dumps({"error": error}).encode())
        if self.is_a_web_page:
            return _send(handler, 200, b"<!doctype html><p>Welcome!</p>", "text/html")
        match path.removeprefix("/v1/").split("/"):
            case ["files"]:
                name = self._keep(_uploaded(handler.headers["Content-Type"], body))
                found: object = {"id": name, "object": "file", "purpose": "batch"}
            case ["files", name, "content"] if name in self.files:
                return _send(handler, 200, self.files[name])
            case ["batches"] if handler.command == "POST":
                found = self._make(json.loads(body))
                if self.loses is not None:
                    return _send(handler, self.loses, b"{}") if self.loses else None
            case ["batches"]:
                found = {
                    "object": "list",
                    "data": list(reversed(self.batches.values())),
                    "has_more": False,
                }
            case ["batches", name] if name in self.batches:
                found = self.batches[name]
            case _:
                return _send(handler, 404, b'{"error": {"message": "not found"}}')
        return _send(handler, 200, json.dumps(found).encode())

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


def _send(
    handler: BaseHTTPRequestHandler, status: int, data: bytes, kind: str = "application/json"
) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)
