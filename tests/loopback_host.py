"""What the imitations of batch APIs have in common: a real HTTP server on this machine that
answers, refuses, hesitates and loses what it answered."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from collections.abc import Mapping

Line: TypeAlias = dict[str, Any]
"""A JSON document, such as a line of a file of requests or of results."""


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    """Without what follows a '?'."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Given:
    """One answer; status 0 is none at all."""

    status: int
    body: bytes = b""
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self.rfile.read(int(self.headers["Content-Length"])))

    def _serve(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        asked = Asked(self.command, path, dict(parse_qsl(query)), self.headers, body)  # type: ignore[arg-type]
        given = self.server.owner.serve(asked)
        if given.status == 0:
            return
        self.send_response(given.status)
        headers = {"Content-Type": given.kind, "Content-Length": str(len(given.body))}
        for name, value in (headers | dict(given.headers)).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(given.body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are recorded, not logged."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, owner: Host) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)


class Host:
    """A provider at `base_url`; use as a context manager."""

    key_header: ClassVar[str]
    key_prefix: ClassVar[str] = ""
    root: ClassVar[str]
    """The path of `base_url`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        """'GET /v1/batches' and so on, without what follows a '?'."""
        self.headers: list[Mapping[str, str]] = []
        """Of each request, names in lower case."""
        self.keys: set[str] = set()
        self.refusal: int | None = None
        """A status that everything is answered with, if any."""
        self.hiccups: list[int] = []
        """Statuses that the next requests are answered with."""
        self.is_a_web_page = False
        """Whether it is no API at all."""
        self.loses: int | None = None
        """How the making of a batch ends, though it was made: a status, 0 for no answer at all."""
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes."""
        return self.origin + self.root

    def serve(self, asked: Asked) -> Given:
        """Answer one request."""
        self.asked.append(f"{asked.method} {asked.path}")
        self.headers.append({name.lower(): value for name, value in asked.headers.items()})
        shown = asked.headers.get(self.key_header) or ""
        self.keys.add(shown.removeprefix(self.key_prefix))
        if self.refusal is not None:
            return document({"error": {"message": f"no, {shown}", "code": None}}, self.refusal)
        if self.hiccups:
            return document({"error": {"message": "not now"}}, self.hiccups.pop(0))
        if self.is_a_web_page:
            return Given(200, b"<!doctype html><p>Welcome!</p>", "text/html")
        return self.answer(asked) or document({"error": {"message": "not found"}}, 404)

    def answer(self, asked: Asked) -> Given | None:
        """The API's answer; None for what it does not know."""
        raise NotImplementedError

    def lost(self, given: Given) -> Given:
        """The answer to the making of a batch, where it is not lost."""
        return given if self.loses is None else Given(self.loses, b"{}")


def document(found: object, status: int = 200) -> Given:
    """An answer that is JSON."""
    return Given(status, json.dumps(found).encode())
