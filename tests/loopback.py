"""A real HTTP server on this machine that speaks both OpenAI APIs, and every way of failing.

It is given a script: one behaviour per request, used up in order. Each behaviour answers in the
dialect of the path it is asked at, streaming where the request says so. Every request is recorded.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from tests.loopback_wire import USAGE, Exchange, Recorded, Said

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["REPORTED_MODEL", "USAGE", "Exchange", "LoopbackServer", "Recorded"]

REPORTED_MODEL = "loopback-1"
"""What the provider calls its model."""


Behaviour: TypeAlias = "Callable[[Exchange], None]"
"""Answers one request, or fails to."""


# --- what a model can say --------------------------------------------------------------------


def says(
    text: str = "",
    *,
    finish: str = "stop",
    refusal: str = "",
    usage: bool = True,
    model: str = REPORTED_MODEL,
) -> Behaviour:
    """An answer. `finish`: 'stop', 'length' or 'content_filter', in either dialect."""
    says_what = Said(text, finish, refusal, usage, model)

    def behave(exchange: Exchange) -> None:
        request = exchange.request
        if not request.streams:
            body = says_what.response() if request.speaks_responses else says_what.completion()
            exchange.whole(200, json.dumps(body))
            return
        exchange.start_stream()
        for payload in _events(says_what, request):
            exchange.event(payload)
        if not request.speaks_responses:
            exchange.raw("data: [DONE]\n\n")
        exchange.end_stream()

    return behave


def refuses(words: str = "I can't help with that.") -> Behaviour:
    """The model refuses in its own words."""
    return says(refusal=words)


def says_nothing() -> Behaviour:
    """A finished answer without text."""
    return says("")


def is_cut(text: str) -> Behaviour:
    """An answer that hit the length limit."""
    return says(text, finish="length")


def is_filtered(text: str = "") -> Behaviour:
    """An answer that a content filter stopped."""
    return says(text, finish="content_filter")


# --- how a provider can fail -----------------------------------------------------------------


def fails(
    status: int,
    message: str = "planted failure",
    *,
    code: str | None = None,
    retry_after_s: float | None = 0.01,
    body: str | None = None,
) -> Behaviour:
    """An HTTP status with OpenAI's error body; by default one that asks for a quick retry."""

    def behave(exchange: Exchange) -> None:
        headers = {} if retry_after_s is None else {"Retry_After": str(retry_after_s)}
        error = {"error": {"message": message, "code": code, "type": None, "param": None}}
        exchange.whole(status, json.dumps(error) if body is None else body, **headers)

    return behave


def redirects(location: str) -> Behaviour:
    """Sends the client elsewhere."""
    return lambda exchange: exchange.whole(307, "", Location=location)


def stalls_before_answering() -> Behaviour:
    """Accepts the request and says nothing, not even headers."""
    return lambda exchange: exchange.hold()


def stalls_midway() -> Behaviour:
    """Begins to stream and falls silent. Not streamed: says nothing at all."""

    def behave(exchange: Exchange) -> None:
        if exchange.request.streams:
            _begin(exchange)
        exchange.hold()

    return behave


def keeps_alive_for(comments: int, then: Behaviour) -> Behaviour:
    """Sends comments, which are bytes but no events, before an answer. Streams only."""

    def behave(exchange: Exchange) -> None:
        exchange.start_stream()
        for _ in range(comments):
            exchange.raw(": still here\n\n")
        exchange.start_stream = lambda kind="": None  # type: ignore[method-assign]
        then(exchange)

    return behave


def never_finishes() -> Behaviour:
    """Stays alive with comments for ever, and never ends its answer. Streams only."""

    def behave(exchange: Exchange) -> None:
        _begin(exchange)
        exchange.drip(": still here\n\n", every_s=0.05)

    return behave


def resets_midway() -> Behaviour:
    """A TCP reset in the middle of an answer."""

    def behave(exchange: Exchange) -> None:
        if exchange.request.streams:
            _begin(exchange)
        exchange.reset()

    return behave


def resets_after_the_last_word(text: str) -> Behaviour:
    """A TCP reset between the finish reason and the usage. Chat streams only."""

    def behave(exchange: Exchange) -> None:
        exchange.start_stream()
        said = Said(text, "stop", "", False, REPORTED_MODEL)
        for payload in _events(said, exchange.request):
            exchange.event(payload)
        exchange.reset()

    return behave


def ends_early() -> Behaviour:
    """A stream that ends properly as HTTP, without the answer having ended."""

    def behave(exchange: Exchange) -> None:
        _begin(exchange)
        exchange.end_stream()

    return behave


def hangs_up_midway() -> Behaviour:
    """The connection closes inside a chunked body."""
    return _begin


def streams_garbage() -> Behaviour:
    """An event that is not JSON."""

    def behave(exchange: Exchange) -> None:
        exchange.start_stream()
        exchange.raw('data: {"choices": [{"delta"\n\n')
        exchange.end_stream()

    return behave


def streams_an_error(message: str, code: str) -> Behaviour:
    """An error told inside a stream whose status was 200."""

    def behave(exchange: Exchange) -> None:
        _begin(exchange)
        if exchange.request.speaks_responses:
            exchange.event(
                {"type": "error", "code": code, "message": message, "param": None}
                | {"sequence_number": 9}
            )
        else:
            exchange.event({"error": {"message": message, "code": code}})
        exchange.end_stream()

    return behave


def answers_whole_though_asked_to_stream(text: str) -> Behaviour:
    """An endpoint that ignores `stream`."""

    def behave(exchange: Exchange) -> None:
        said = Said(text, "stop", "", True, REPORTED_MODEL)
        body = said.response() if exchange.request.speaks_responses else said.completion()
        exchange.whole(200, json.dumps(body))

    return behave


def forgets_what_it_streamed(text: str) -> Behaviour:
    """A Responses stream whose last event repeats no output."""

    def behave(exchange: Exchange) -> None:
        exchange.start_stream()
        *pieces, last = Said(text, "stop", "", True, REPORTED_MODEL).response_events()
        for payload in [*pieces, last | {"response": last["response"] | {"output": []}}]:
            exchange.event(payload)
        exchange.end_stream()

    return behave


def is_a_web_page(kind: str = "text/html") -> Behaviour:
    """HTML with status 200, as from a wrong base URL."""
    return lambda exchange: exchange.whole(200, "<!doctype html><p>Welcome!</p>", kind)


def is_invalid_json() -> Behaviour:
    """A JSON content type around something that is none."""
    return lambda exchange: exchange.whole(200, '{"choices": [')


def is_other_json(body: object) -> Behaviour:
    """JSON of another shape."""
    return lambda exchange: exchange.whole(200, json.dumps(body))


def _begin(exchange: Exchange) -> None:
    exchange.start_stream()
    said = Said("half an ans", "stop", "", False, REPORTED_MODEL)
    for payload in _events(said, exchange.request)[:2]:
        exchange.event(payload)


def _events(said: Said, request: Recorded) -> list[dict[str, Any]]:
    if request.speaks_responses:
        return said.response_events()
    return said.completion_events(usage_wanted=bool(request.body.get("stream_options")))


# --- the server ------------------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    # So many may ask at the same instant; what is beyond is sent again a second later.
    request_queue_size = 256

    def __init__(self, owner: LoopbackServer) -> None:
        self.owner = owner
        self._abandoned: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def abandon(self, connection: socket.socket) -> None:
        self._abandoned.add(connection)

    def shutdown_request(self, request: Any) -> None:
        # The usual way says goodbye first, and a connection that said goodbye is not reset.
        if request in self._abandoned:
            self._abandoned.discard(request)
            request.close()
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up on a stalled answer is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Else a kept connection waits 40 ms between the head and the body of an answer.
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        self.close_connection = not self.server.owner.keep_alive
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Recorded(self.path, headers, body, self.server.server_address[1])
        self.server.owner.serve(self, request)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are recorded, not logged."""


class LoopbackServer:
    """Serves a script of behaviours at `base_url`; use as a context manager.

    `script`: behaviours used up in order, or a function from the request to a behaviour. A request
    beyond the script is answered with status 418, which no client retries.
    """

    def __init__(
        self,
        script: Iterable[Behaviour] | Callable[[Recorded], Behaviour] = (),
        *,
        keep_alive: bool = False,
    ) -> None:
        self.keep_alive = keep_alive
        """Whether connections outlive a request."""
        self.requests: list[Recorded] = []
        """Every request so far, in the order of arrival."""
        self._arrivals: list[float] = []
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._choose = script if callable(script) else _in_order(list(script))
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return self._server.server_address[1]

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes."""
        return f"http://127.0.0.1:{self.port}/v1/"

    @property
    def keys(self) -> set[str]:
        """Every API key that has arrived."""
        return {request.key for request in self.requests}

    def gaps(self) -> list[float]:
        """Seconds between one request and the next."""
        return [b - a for a, b in pairwise(self._arrivals)]

    def serve(self, handler: BaseHTTPRequestHandler, request: Recorded) -> None:
        """Records one request and lets the script answer it."""
        with self._lock:
            self.requests.append(request)
            self._arrivals.append(time.monotonic())
            behave = self._choose(request)
        behave(Exchange(handler, request, self._released, keep_alive=self.keep_alive))

    def __enter__(self) -> LoopbackServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _in_order(
    script: Sequence[Behaviour],
) -> Callable[[Recorded], Behaviour]:
    left = deque(script)
    over = fails(418, "the loopback server's script is over", retry_after_s=None)
    return lambda _request: left.popleft() if left else over
