"""What a command may spend, from its options."""

from __future__ import annotations

import math

from kernel_generator.domain.budget import Budget, Price
from kernel_generator.domain.errors import InvalidInput

_MINUTE_S = 60.0


def budget_of(
    usd: float | None, tokens: int | None, minutes: float | None, device_minutes: float | None
) -> Budget:
    """Raises `InvalidInput` for a limit that is no number of 0 or more."""
    for name, value in (
        ("--max-usd", usd),
        ("--max-tokens", tokens),
        ("--max-minutes", minutes),
        ("--max-device-minutes", device_minutes),
    ):
        if value is not None and not 0 <= value < math.inf:
            raise InvalidInput(f"{name} is {value}: give 0 or more")
    return Budget(
        usd,
        tokens,
        device_s=None if device_minutes is None else device_minutes * _MINUTE_S,
        wall_s=None if minutes is None else minutes * _MINUTE_S,
    )


def price_of(text: str | None) -> Price | None:
    """'2.5,10' as a price. Raises `InvalidInput`."""
    if text is None:
        return None
    try:
        prompt, completion = (float(part) for part in text.split(","))
    except ValueError:
        prompt = completion = -1.0
    if not (0 <= prompt < math.inf and 0 <= completion < math.inf):
        raise InvalidInput(
            f"--price is '{text}': give US dollars per million tokens of prompt and completion, "
            "'2.5,10' for example"
        )
    return Price(prompt, completion)
