"""What the files hold that captured inputs lie in, so that a run can tell whether they changed.

Looks at what is in them alone: a copy of a trace set has the same contents.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_generator.domain.evaluation import Record

if TYPE_CHECKING:
    from kernel_generator.domain.task import Task

_READ_WHOLE = 64 << 20
"""So many bytes are read whole for one task, the smallest files first."""
_END = 1 << 20


class Content(Record):
    """One file's."""

    ends: str = ""
    """Hash of its size, its first and its last MiB; empty where it cannot be read."""
    whole: str = ""
    """Hash of all of it; empty where that was too much to read."""

    def differs(self, other: Content) -> bool:
        """Whether what is known of both is not the same."""
        known = bool(self.whole and other.whole)
        return self.ends != other.ends or (known and self.whole != other.whole)


def contents(task: Task) -> dict[str, Content]:
    """Of the files of a task's captured inputs, by their paths as the workloads name them.

    64 MiB in sum are read whole, the smallest files first; of what is larger a change that leaves
    the size, the first and the last MiB as they were is not seen.
    """
    paths = {
        described.path
        for workload in task.workloads
        for described in workload.inputs.values()
        if described.type == "safetensors"
    }
    found: dict[str, Content] = {}
    left = _READ_WHOLE
    files = {path: path if task.root is None else str(task.root / path) for path in paths}
    for path in sorted(files, key=lambda path: (_size(files[path]), path)):
        size = _size(files[path])
        found[path] = _content(files[path], size, whole=size <= left)
        left -= min(size, left)
    return found


def _size(file: str) -> int:
    try:
        return Path(file).stat().st_size
    except (OSError, ValueError):
        return 0


def _content(file: str, size: int, *, whole: bool) -> Content:
    try:
        with Path(file).open("rb") as opened:
            ends = hashlib.sha256(f"{size} ".encode() + opened.read(_END))
            opened.seek(max(0, size - _END))
            ends.update(opened.read(_END))
            opened.seek(0)
            all_of_it = hashlib.file_digest(opened, "sha256").hexdigest()[:16] if whole else ""
    except (OSError, ValueError):
        return Content()
    return Content(ends=ends.hexdigest()[:16], whole=all_of_it)
