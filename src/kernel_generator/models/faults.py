"""Tells provider failures apart: no, not now, and the provider's rules. Messages say what to do.

A key that a provider echoes is blotted out of every message, and before the message is clipped:
half a key is still a secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import openai

from kernel_generator.domain.errors import (
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
    RequestRefused,
)
from kernel_generator.models.address import shown
from kernel_generator.models.answer import BrokenAnswer, Declined, Limited
from kernel_generator.models.limits import limits_rate, retry_after_s

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kernel_generator.models.credentials import Endpoint

_LONGEST_QUOTE = 600
_POLICY_CODES = {"content_filter", "content_policy_violation", "invalid_prompt"}
_CLOSED_CODES = {
    "401",
    "402",
    "403",
    "404",
    "billing_hard_limit_reached",
    "insufficient_quota",
    "invalid_api_key",
    "model_not_found",
}
"""About the key or the model: no other request fares better."""
_FINAL_CODES = _CLOSED_CODES | {
    "400",
    "413",
    "422",
    "context_length_exceeded",
    "invalid_request_error",
}
_LIMIT_CODES = {"429", "rate_limit_error", "rate_limit_exceeded"}
_PASSING_STATUSES = {408, 409}
_REQUEST_STATUSES = {400, 413, 422}
_KEY_WORDS = ("api key", "api_key", "credit balance")
"""By which some providers' 400 shows that it is about the key."""


class FinalError(Exception):
    """An error inside an answer that asking again will not mend. Stays in this room."""

    def __init__(self, message: str, is_closed: bool = False) -> None:
        """`is_closed`: it is about the key or the model, and so about every other request."""
        super().__init__(message)
        self.is_closed = is_closed


def raise_for_code(code: str | None, kind: str | None, message: str) -> None:
    """For an error told inside an answer whose status was 200."""
    named = {str(code), str(kind)}
    if named & _POLICY_CODES:
        raise Declined(message)
    if named & _FINAL_CODES:
        raise FinalError(message, bool(named & _CLOSED_CODES))
    if named & _LIMIT_CODES:
        raise Limited(message, f"'{min(named & _LIMIT_CODES)}'")
    raise BrokenAnswer(f"the provider broke the answer off: {message}")


def raise_for_body(body: Mapping[str, object] | None) -> None:
    """For a body that holds an `error` in place of an answer; returns where it holds none."""
    error = (body or {}).get("error")
    if not error:
        return
    fields = cast("dict[str, object]", error) if isinstance(error, dict) else {}
    code, kind = fields.get("code"), fields.get("type")
    raise_for_code(str(code) if code else None, str(kind) if kind else None, _words(error))


def failure(error: openai.APIError, endpoint: Endpoint, retries: int) -> ProviderError:
    """What the SDK raised, once it has used up its own retries.

    Raises `Declined` where the provider's rules refused the question, `Limited` where it limits
    the rate, and `BrokenAnswer` for an error told mid-stream that may pass.
    """
    said = quotable(_words(error.body) or error.message, endpoint)
    host = endpoint.origin.host
    if isinstance(error, openai.APIStatusError):
        if error.status_code == 400 and error.code in _POLICY_CODES:
            raise Declined(said)
        if error.code == "insufficient_quota":
            return ProviderRefused(f"{host} has no quota left for this key: {said}")
        if limits_rate(error.status_code, error.response.headers):
            raise Limited(said, str(error.status_code), retry_after_s(error.response.headers))
        if error.status_code in _PASSING_STATUSES or error.status_code >= 500:
            return _kept_answering(str(error.status_code), endpoint, retries, said)
        kind = RequestRefused if _is_about_request(error, said) else ProviderRefused
        return kind(_advice(error, endpoint, said))
    if isinstance(error, openai.APITimeoutError):
        return ProviderUnavailable(
            f"{host} did not answer in time, {retries} retries included. Try again later, or "
            "open the model with a longer idle_timeout_s"
        )
    if isinstance(error, openai.APIConnectionError):
        cause = quotable(str(error.__cause__ or error), endpoint)
        return ProviderUnavailable(
            f"{endpoint.base_url} could not be reached, {retries} retries included ({cause}). "
            "Check the network and the base URL"
        )
    try:
        raise_for_code(error.code, error.type, said)
    except FinalError as final:
        return rejected(said, endpoint, final.is_closed)
    raise AssertionError("raise_for_code always raises")


def out_of_patience(limit: Limited, endpoint: Endpoint, retries: int) -> ProviderUnavailable:
    """For a provider that limited the rate for too long."""
    return _kept_answering(limit.told_as, endpoint, retries, quotable(str(limit), endpoint))


def _kept_answering(
    told_as: str, endpoint: Endpoint, retries: int, said: str
) -> ProviderUnavailable:
    return ProviderUnavailable(
        f"{endpoint.origin.host} kept answering {told_as} after {retries} retries: {said}. "
        "Try again later"
    )


def rejected(said: str, endpoint: Endpoint, is_closed: bool = True) -> ProviderRefused:
    """For a `FinalError` told in these words."""
    kind = ProviderRefused if is_closed else RequestRefused
    return kind(f"{endpoint.origin.host} rejected the request: {quotable(said, endpoint)}")


def _is_about_request(error: openai.APIStatusError, said: str) -> bool:
    """False where the provider would say no to any other request of this key and model as well."""
    if (
        error.status_code not in _REQUEST_STATUSES
        or {str(error.code), str(error.type)} & _CLOSED_CODES
    ):
        return False
    return not any(words in said.lower() for words in _KEY_WORDS)


def not_an_api(found: str, endpoint: Endpoint) -> ProviderRefused:
    """For a host that answers with something else than its API."""
    return ProviderRefused(
        f"{endpoint.base_url} answered with {found}: the base URL is probably wrong (it usually "
        "ends in /v1)"
    )


def _advice(error: openai.APIStatusError, endpoint: Endpoint, said: str) -> str:
    host, model, status = endpoint.origin.host, endpoint.model, error.status_code
    match status:
        case 401:
            what = f"rejected the key from {endpoint.key_source} (401); check or renew that key"
        case 402:
            what = "wants payment (402); add credit to the key's account"
        case 403:
            what = (
                f"forbids this (403); the key from {endpoint.key_source} may lack access to model "
                f"'{model}', or the region is not served"
            )
        case 404:
            what = (
                f"knows no such model or path (404); check the model name '{model}' and the base "
                f"URL {endpoint.base_url}"
            )
        case _ if 300 <= status < 400:
            target = error.response.next_request
            where = quotable(shown(str(target.url)), endpoint) if target else "elsewhere"
            what = f"redirects to {where} ({status}); give that address as the base URL"
        case _:
            what = f"rejected the request ({status}); change the setting or model it names"
    return f"{host} {what}. It said: {said}"


def quotable(text: str, endpoint: Endpoint) -> str:
    """The text without the key, clipped."""
    key = endpoint.api_key.get_secret_value()
    text = text.replace(key, "[key]") if len(key) > 4 else text
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "…"


def _words(body: object) -> str:
    """A provider's own words out of an error body of any shape."""
    if isinstance(body, list) and body:
        return _words(cast("list[object]", body)[0])
    if isinstance(body, dict):
        fields = cast("dict[str, object]", body)
        for name in ("message", "error", "detail"):
            if fields.get(name):
                return _words(fields[name])
    text = str(body or "").strip()
    return "(a web page)" if text.startswith("<") else text
