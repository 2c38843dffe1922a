"""Whoever watches runs: the one boundary where they are called.

An observer cannot change anything, by raising least of all: one that raised is told of once, with
its traceback, and is not called again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernel_generator.domain.events import Event, Observer

_log = logging.getLogger(__name__)


class Watched:
    """An observer that never raises, made of one that may."""

    def __init__(self, observer: Observer) -> None:
        self._observer: Observer | None = observer

    def __call__(self, event: Event) -> None:
        """Pass it on, unless an earlier one was too much."""
        if self._observer is None:
            return
        try:
            self._observer(event)
        except Exception as error:  # noqa: BLE001 - somebody else's code: told, never believed
            self._observer = None
            told = "an observer failed at a %s event: it is told of no further one"
            _log.warning(told, type(event).__name__, exc_info=error)


def watched(observer: Observer | None) -> Observer:
    """The observer behind the boundary; several that share one share the boundary."""
    if observer is None:
        return _nobody
    return observer if isinstance(observer, Watched) or observer is _nobody else Watched(observer)


def each(*observers: Observer) -> Observer:
    """One observer that tells several, in order; one that fails leaves the others alone."""
    behind = [watched(observer) for observer in observers]

    def tell(event: Event) -> None:
        for observer in behind:
            observer(event)

    return tell


def _nobody(_: Event) -> None:
    """Where nobody watches."""
