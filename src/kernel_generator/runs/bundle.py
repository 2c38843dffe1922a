"""What a store knows of one run, as one document that another store takes in."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from pydantic import Field

from kernel_generator.domain.evaluation import Record


class BundledEvent(Record):
    """An event as the store holds it: its document names texts by their hash."""

    at: str
    kind: str
    document: dict[str, Any]


class Bundle(Record):
    """All that a store knows of one run."""

    kind: Literal["kernel-generator run"] = "kernel-generator run"
    version: Literal[1] = 1
    run_id: str = Field(pattern=r"^[A-Za-z0-9_]+$")
    began: str
    settings: dict[str, Any]
    events: tuple[BundledEvent, ...]
    texts: dict[str, str]
    """JSON strings by their SHA-256."""

    @property
    def problem(self) -> str:
        """Which text that an event names is not there, or was altered; empty where none."""
        for number, event in enumerate(self.events, start=1):
            named = event.document.get("texts")
            if not isinstance(named, dict):
                return f"event {number} names no texts"
            for name, key in named.items():
                text = self.texts.get(str(key))
                if text is None:
                    return f"the {name} of event {number} is missing"
                if text_key(text) != key:
                    return f"the {name} of event {number} was altered"
        return ""


def text_key(text: str) -> str:
    """What a text is stored under: its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()
