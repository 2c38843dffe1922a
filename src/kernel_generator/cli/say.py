"""Sentences that more than one command says."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def say_embedded(used: str, asked_for: str | None, console: Console) -> None:
    """Say plainly that no language model is at work, where nobody asked for that by name."""
    if asked_for is None and used.startswith("builtin:"):
        console.print(
            f"No model was named and no key is set: using the embedded '{used}', which compiles "
            "the reference with torch.compile. For a language model set LLM_API_KEY (in the "
            "environment or in .env) and name one with --model, for example --model gpt-5.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
