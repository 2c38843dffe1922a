"""What a store knows of one run, as one document that another store takes in."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field

from kernel_generator.domain.evaluation import Record

KINDS = frozenset(
    (
        *("asked", "replied", "read", "judged", "attempted", "certified", "finished", "saved"),
        *("resumed", "submitting", "submitted", "never submitted"),
    )
)
"""Of all events that a store keeps."""
_TIME = r"^[0-9T:.+-]+$"


class BundledEvent(Record):
    """An event as the store holds it: its document names texts by their hash."""

    at: str = Field(pattern=_TIME)
    kind: str = Field(pattern=r"^[a-z_ ]+$")
    document: dict[str, Any]


class Bundle(Record):
    """All that a store knows of one run."""

    kind: Literal["kernel-generator run"] = "kernel-generator run"
    version: Literal[2] = 2
    run_id: str = Field(pattern=r"^[A-Za-z0-9_]+$")
    began: str = Field(pattern=_TIME)
    settings: dict[str, Any]
    events: tuple[BundledEvent, ...]
    texts: dict[str, str]
    """JSON strings, in ASCII, by their SHA-256."""
    digest: str = ""
    """SHA-256 of all but the texts, which the events name by theirs. It shows damage and careless
    edits; whoever edits on purpose can make it anew."""

    def sealed(self) -> Bundle:
        """With its digest."""
        return self.model_copy(update={"digest": self._digest})

    @property
    def _digest(self) -> str:
        told = self.model_dump(exclude={"digest", "texts"})
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @property
    def problem(self) -> str:
        """What is wrong with it: a text that an event names is not there or was altered, or one is
        there that no event names; it has no event, or one of no known kind; its digest is of
        something else. Empty where it is whole."""
        if not self.events:
            return "it has no events"
        unnamed = set(self.texts)
        for number, event in enumerate(self.events, start=1):
            if event.kind not in KINDS:
                return f"event {number} is of no known kind, '{event.kind}'"
            named = event.document.get("texts")
            if not isinstance(named, dict):
                return f"event {number} names no texts"
            for name, key in named.items():
                text = self.texts.get(str(key))
                if text is None:
                    return f"the {name} of event {number} is missing"
                if not _is_a_string(text):
                    return f"the {name} of event {number} is no JSON string"
                if text_key(text) != key:
                    return f"the {name} of event {number} was altered"
                unnamed.discard(key)
        if unnamed:
            return f"it has {len(unnamed)} texts that no event names"
        return "" if self.digest == self._digest else "its settings or its events were altered"

    def dumped(self) -> str:
        """As one JSON document, in ASCII: what is not UTF-8 stays what it is."""
        return json.dumps(self.model_dump())


def text_key(text: str) -> str:
    """What a text is stored under: its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()


def _is_a_string(text: str) -> bool:
    try:
        return text.isascii() and text.startswith('"') and isinstance(json.loads(text), str)
    except ValueError:
        return False
