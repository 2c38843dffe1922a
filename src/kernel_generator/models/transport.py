"""The HTTP client of one endpoint: sends our key and our headers there, and nothing else anywhere.

The SDK fills what it is not given from its own environment variables (organization, project,
admin key, arbitrary custom headers) and follows redirects. Every request therefore passes an
allow-list just before it is sent, and redirects are answers.
"""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
from openai import AsyncOpenAI

from kernel_generator.domain.budget import UNLIMITED
from kernel_generator.domain.errors import BudgetSpent
from kernel_generator.models.address import Origin, is_local
from kernel_generator.models.limits import limits_rate, reset_s

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from kernel_generator.domain.budget import Permit
    from kernel_generator.models.credentials import Endpoint
    from kernel_generator.models.pace import Pace
    from kernel_generator.models.protocol import Patience

_HEADERS = {
    "accept",
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "host",
    "idempotency-key",
    "transfer-encoding",
    "user-agent",
}
_OPENAI_HEADERS = {"openai-organization", "openai-project"}
_permit: ContextVar[Permit] = ContextVar("permit", default=UNLIMITED)


class NotBegun(BaseException):
    """What is about to be sent may not be: no failure, after which the SDK would try again."""

    def __init__(self, reason: BudgetSpent) -> None:
        super().__init__(str(reason))
        self.reason = reason


@contextlib.contextmanager
def permitted_by(permit: Permit) -> Generator[None]:
    """What this task sends meanwhile, the SDK's own retries too, is sent with this permit only;
    else `NotBegun` is raised."""
    before = _permit.set(permit)
    try:
        yield
    finally:
        _permit.reset(before)


@dataclass(frozen=True)
class Manner:
    """How an API is shown the key, and what else it is sent."""

    key_header: str = "Authorization"
    key_prefix: str = "Bearer "
    headers: tuple[tuple[str, str], ...] = ()
    """Sent along with every request."""
    allowed: tuple[str, ...] = ()
    """How headers begin that may be sent as well."""


BEARER = Manner()
"""OpenAI's, and that of whoever speaks its API."""


def open_client(
    endpoint: Endpoint,
    patience: Patience,
    pace: Pace | None,
    *,
    stream: bool,
    manner: Manner = BEARER,
) -> AsyncOpenAI:
    """A client that retries by itself what fails before an answer has begun; with a `pace` but for
    rate limits, which it hands out at once, for everybody to wait."""
    timeout = httpx2.Timeout(
        connect=patience.connect_s,
        # Between two bytes of a stream; an answer that is not streamed is one long silence.
        read=patience.idle_s if stream else patience.answer_s,
        write=patience.idle_s,
        pool=None,
    )
    local = is_local(endpoint.origin.host)
    http = httpx2.AsyncClient(
        timeout=timeout,
        follow_redirects=False,
        # No proxy stands between this machine and itself.
        trust_env=not local,
        # Certificates take a while to load: not where nobody shows one.
        verify=endpoint.origin.scheme == "https" or not local,
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
        event_hooks={
            "request": [_if_permitted, _only_ours(endpoint, manner)],
            "response": [] if pace is None else [_heeding(pace)],
        },
    )
    return AsyncOpenAI(
        api_key=endpoint.api_key.get_secret_value(),
        admin_api_key="",
        webhook_secret="",
        base_url=endpoint.base_url,
        timeout=timeout,
        max_retries=patience.max_retries,
        http_client=http,
    )


async def _if_permitted(_: httpx2.Request) -> None:
    try:
        _permit.get().check()
    except BudgetSpent as spent:
        raise NotBegun(spent) from None


def _only_ours(endpoint: Endpoint, manner: Manner) -> Callable[[httpx2.Request], Awaitable[None]]:
    names = _HEADERS | (_OPENAI_HEADERS if endpoint.provider == "openai" else set[str]())
    beginnings = ("x-stainless-", *manner.allowed)
    key = manner.key_prefix + endpoint.api_key.get_secret_value()

    async def keep(request: httpx2.Request) -> None:
        for name in list(request.headers):
            if name.lower() not in names and not name.lower().startswith(beginnings):
                del request.headers[name]
        request.headers.update(manner.headers)
        if Origin.of(str(request.url)) == endpoint.origin:
            request.headers[manner.key_header] = key

    return keep


def _heeding(pace: Pace) -> Callable[[httpx2.Response], Awaitable[None]]:
    async def heed(response: httpx2.Response) -> None:
        if limits_rate(response.status_code, response.headers):
            # The SDK's own switch: it would ask again a few times, whatever others were told.
            response.headers["x-should-retry"] = "false"
        seconds = reset_s(response.headers)
        if seconds is not None:
            pace.resets_in(seconds)

    return heed
