"""What others wrote acts on nothing."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.markup import escape
from rich.table import Table

from kernel_generator.cli.console import InertConsole
from kernel_generator.inert import INSTEAD, inert

HOSTILE = "\x1b]0;TITLE\x07\x1b[2J\x9b31m\u202eenif lla\u2066"


@given(st.text())
def test_no_character_of_it_controls_anything(text: str) -> None:
    kept = inert(text)
    assert not any(unicodedata.category(c) == "Cc" for c in kept if c not in "\n\t")
    assert not any(unicodedata.bidirectional(c) in _REORDERING for c in kept)
    assert len(kept) <= len(text)
    assert inert(kept) == kept


_REORDERING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@pytest.mark.parametrize("text", ["", "a\n\tb\n", "größer → 大", "\N{HEBREW LETTER ALEF}b"])
def test_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert inert(text) == text


def test_ends_of_lines_become_one() -> None:
    assert inert("a\r\nb\rc\n") == "a\nb\nc\n"


def test_a_console_shows_text_inert_and_keeps_its_own_styles() -> None:
    stream = io.StringIO()
    console = InertConsole(file=stream, force_terminal=True, color_system="standard", width=80)
    table = Table("name")
    table.add_row(escape(HOSTILE))
    console.print(table)
    console.print(HOSTILE, markup=False, highlight=False, style="red")
    shown = stream.getvalue()
    assert shown.count(f"{INSTEAD}]0;TITLE") == 2
    assert "\x1b[31m" in shown
    assert not any(acting in shown for acting in ("\x1b]", "\x1b[2J", "\x07", "\x9b", "\u202e"))
