"""What a reply cost, from bundled price tables. An unknown price is None, never 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from genai_prices.data import providers

if TYPE_CHECKING:
    from kernel_generator.domain.conversation import Usage


@dataclass(frozen=True)
class Price:
    """A price the user states. US dollars per million tokens."""

    input_per_million: float
    output_per_million: float
    cached_per_million: float | None = None
    """None: cached tokens cost what other input does."""

    def cost_usd(self, usage: Usage) -> float:
        """US dollars for one reply; reasoning tokens are output tokens."""
        cached = self.cached_per_million
        cached = self.input_per_million if cached is None else cached
        return (
            (usage.prompt - usage.cached) * self.input_per_million
            + usage.cached * cached
            + usage.completion * self.output_per_million
        ) / 1e6


def cost_usd(
    usage: Usage | None, model: str, provider_url: str, override: Price | None = None
) -> float | None:
    """US dollars for one reply, or None where usage or price are unknown.

    The tables are genai-prices' bundled ones; nothing is fetched. `provider_url` decides which
    provider's price holds, because gateways sell the same model at other prices.
    """
    if usage is None:
        return None
    if override is not None:
        return override.cost_usd(usage)
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


def priced_models(provider_ids: tuple[str, ...] = ("openai", "anthropic", "google")) -> list[str]:
    """Names of the models that the tables know of these providers."""
    return [m.id for p in providers if p.id in provider_ids for m in p.models]
