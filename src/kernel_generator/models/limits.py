"""What a provider's answer says about its rate limits: whether it met one, and for how long."""

from __future__ import annotations

import math
import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_OVERLOADED = {503, 529}
_UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def limits_rate(status: int, headers: Mapping[str, str]) -> bool:
    """True where the same question is worth asking once the provider has room for it."""
    return status == 429 or (status in _OVERLOADED and retry_after_s(headers) is not None)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait before asking again; None where nothing, or no time to come, is named."""
    for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        seconds = _number(headers.get(name, "")) * unit_s
        if seconds > 0:
            return seconds
    try:
        at = parsedate_to_datetime(headers.get("retry-after", "")).timestamp()
    except (ValueError, OverflowError):
        return None
    return at - time.time() if at > time.time() else None


def reset_s(headers: Mapping[str, str]) -> float | None:
    """Seconds until a key that has no request left gets more; None where some are left, or where
    it is not told. OpenAI writes '6m0s', '1.5s' and '120ms', others bare seconds."""
    if headers.get("x-ratelimit-remaining-requests", "").strip() != "0":
        return None
    told = headers.get("x-ratelimit-reset-requests", "").strip()
    seconds = _number(told)
    if math.isnan(seconds) and re.fullmatch(rf"(?:{_PART.pattern})+", told):
        seconds = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(told))
    return seconds if seconds > 0 else None


def _number(text: str) -> float:
    """NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
