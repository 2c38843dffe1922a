"""What a reply cost, from bundled price tables. An unknown price is None, never 0."""

from __future__ import annotations

from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from genai_prices.data import providers

from kernel_generator.domain.conversation import Usage


def cost_usd(usage: Usage | None, model: str, provider_url: str) -> float | None:
    """US dollars for one reply, or None where usage or price are unknown.

    The tables are genai-prices' bundled ones; nothing is fetched. `provider_url` decides which
    provider's price holds, because gateways sell the same model at other prices.
    """
    if usage is None:
        return None
    counted = PricedUsage(
        input_tokens=usage.prompt,
        cache_read_tokens=usage.cached,
        output_tokens=usage.completion,
    )
    try:
        found = calc_price(counted, model, provider_api_url=provider_url)
    except (LookupError, ValueError):  # not in the tables, or counts that contradict each other
        return None
    if found.model_price.input_mtok is None or found.model_price.output_mtok is None:
        return None
    return float(found.total_price)


def is_priced(model: str, provider_url: str) -> bool:
    """True where `cost_usd` knows what the model costs there, by the name that it is asked by."""
    return cost_usd(Usage(prompt=1, completion=1), model, provider_url) is not None


def priced_models() -> list[str]:
    """Names of the models that the tables know of the providers people ask directly."""
    direct = ("openai", "anthropic", "google")
    return [m.id for p in providers if p.id in direct for m in p.models]
