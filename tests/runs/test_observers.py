"""Whoever watches runs decides nothing about them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from kernel_generator.domain.events import Notice
from kernel_generator.runs.observers import each, watched

if TYPE_CHECKING:
    from kernel_generator.domain.events import Event


def fails(event: Event) -> None:
    raise ZeroDivisionError(f"cannot take {event}")


def test_an_observer_that_raises_is_told_of_once_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tell = watched(fails)
    for text in ("one", "two"):
        tell(Notice(text))
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "failed at a Notice event" in record.getMessage()
    assert "cannot take Notice(text='one'" in caplog.text
    assert "Traceback" in caplog.text


def test_one_that_raises_leaves_the_others_alone() -> None:
    seen: list[Event] = []
    tell = each(seen.append, fails, seen.append)
    tell(Notice("one"))
    tell(Notice("two"))
    assert seen == [Notice("one")] * 2 + [Notice("two")] * 2


def test_several_that_share_an_observer_share_its_boundary() -> None:
    tell = watched(fails)
    assert watched(tell) is tell
    assert watched(None) is watched(watched(None))


def test_ctrl_c_is_no_fault_of_the_observer() -> None:
    def interrupted(_: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watched(interrupted)(Notice("one"))
