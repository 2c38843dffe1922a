"""The program around the command line: how the process begins and how it ends.

Ctrl-C ends it quietly from the first moment, which is before what is heavy is imported, and once
everything is said and tidied up it is gone at once: Python would take the libraries apart first,
which takes seconds.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys

_INTERRUPTED = 130
"""`Exit.INTERRUPTED`, whose module is not imported yet."""


class _Ending:
    """The last thing that the process does."""

    code = 1
    """Of a process that ends in another way than this module's."""

    def __call__(self) -> None:
        """Handlers run in the reverse order, so those of all libraries have run: threads were
        waited for, children ended, temporary files removed."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(self.code)


def run() -> None:
    """Entry point of `kernel-generator`."""
    signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)
    from kernel_generator.cli.app import main

    ending = _Ending()
    atexit.register(ending)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except SystemExit as end:
        ending.code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    except KeyboardInterrupt:
        _say_interrupted()
        ending.code = _INTERRUPTED
        raise SystemExit(_INTERRUPTED) from None


def _leave(_signal: int, _frame: object) -> None:
    """While there is nothing yet that has to be tidied up."""
    _say_interrupted()
    os._exit(_INTERRUPTED)


def _say_interrupted() -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
