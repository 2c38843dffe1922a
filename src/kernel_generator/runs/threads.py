"""Blocking work beside an event loop: as many threads as there are runs that wait.

`asyncio.to_thread` has a handful on a small machine, and dozens of runs may wait for a device.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable

_MOST = 512
_threads = ThreadPoolExecutor(_MOST, "kernel-generator-run")
_P = ParamSpec("_P")
_T = TypeVar("_T")


def in_a_thread(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
    """What `work` returns or raises. Cancelling leaves the thread to its end."""
    loop = asyncio.get_running_loop()
    return loop.run_in_executor(_threads, partial(work, *args, **kwargs))
