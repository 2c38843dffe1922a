"""Which answers tell of a rate limit, and for how long they ask to wait."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from kernel_generator.models.limits import limits_rate, reset_s, retry_after_s


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "0"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": formatdate(0)}, None),
        ({}, None),
    ],
)
def test_the_wait_is_read_as_it_is_named(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


def test_a_wait_may_be_named_by_its_end() -> None:
    named = retry_after_s({"retry-after": formatdate(time.time() + 3600)})
    assert named is not None
    assert 0 < named <= 3600


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("1s", 1.0),
        ("120ms", 0.12),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("2d", 172800.0),
        ("12", 12.0),
        ("0s", None),
        ("", None),
        ("2026-11-24T00:00:00Z", None),
        ("1s later", None),
    ],
)
def test_a_reset_is_read_in_every_spelling(told: str, seconds: float | None) -> None:
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": told}
    assert reset_s(headers) == seconds


@pytest.mark.parametrize("left", ["1", "", "many"])
def test_a_reset_does_not_matter_while_requests_are_left(left: str) -> None:
    headers = {"x-ratelimit-remaining-requests": left, "x-ratelimit-reset-requests": "6m0s"}
    assert reset_s(headers) is None


@pytest.mark.parametrize(
    ("status", "headers", "limited"),
    [
        (429, {}, True),
        (503, {"retry-after": "1"}, True),
        (529, {"retry-after": "1"}, True),
        (503, {}, False),
        (529, {}, False),
        (500, {"retry-after": "1"}, False),
        (200, {"retry-after": "1"}, False),
    ],
)
def test_an_overload_is_a_rate_limit_where_it_names_its_end(
    status: int, headers: dict[str, str], limited: bool
) -> None:
    assert limits_rate(status, headers) is limited
