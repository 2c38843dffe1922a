"""docs/trust.md says what the corpus says."""

from __future__ import annotations

from tests.adversarial.cheats import CHEATS
from tests.adversarial.trust import DOCUMENT, written


def test_the_table_is_the_corpus() -> None:
    assert DOCUMENT.read_text() == written(), "run: python -m tests.adversarial.trust"


def test_each_check_that_stops_a_cheat_is_named() -> None:
    assert all(case.stopped_by and case.idea.endswith(".") for case in CHEATS)
