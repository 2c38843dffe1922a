"""Events as lines of JSON, for programs that follow a run."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

from pydantic_core import to_jsonable_python

if TYPE_CHECKING:
    from kernel_generator.domain.events import Event


class EventLines:
    """An observer that writes one line for each event, at once. Where the stream takes no more,
    its reader has gone for example, it writes no further one and leaves the run alone.

    `event` is the kind ('run_started', 'attempted', ...), `at` the time (ISO 8601, UTC), `run` the
    run's id, where it is of one; the other fields are the event's own.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream

    def __call__(self, event: Event) -> None:
        """Write it."""
        if self._stream is None:
            return
        fields = to_jsonable_python(event, inf_nan_mode="strings")
        line = {
            "event": re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower(),
            "at": datetime.now(UTC).isoformat(),
            "run": fields.pop("run_id") or None,
            **fields,
        }
        # What is not ASCII is escaped: a reply may hold what no encoding has.
        try:
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()
        except OSError:
            self._stream = None
