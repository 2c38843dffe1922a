"""Inert text: what others wrote, made harmless for a terminal, a report and whoever reads on.

Written by candidates, models and providers, a text may hold sequences that clear a screen, retitle
a window or show a line backwards. Of an inert one every character is itself, and nothing else.
"""

from __future__ import annotations

INSTEAD = "\N{REPLACEMENT CHARACTER}"
"""Stands for each character that would act: the text grows no longer by it."""

_C0, _DELETE_AND_C1 = range(0x20), range(0x7F, 0xA0)
_BIDIRECTIONAL = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Embeddings, overrides and isolates: they show a text in another order than it is read in."""
_ACTING = dict.fromkeys((*_C0, *_DELETE_AND_C1, *_BIDIRECTIONAL), INSTEAD)
del _ACTING[ord("\n")], _ACTING[ord("\t")]


def inert(text: str) -> str:
    """The text with control characters replaced, but for ends of lines, made "\\n", and tabs."""
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_ACTING)
