"""What is said of a store of runs that is damaged: it stays as it is, and is copied once."""

from __future__ import annotations

import filecmp
import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def damaged(path: Path, reason: str) -> str:
    """Copy the file, unless that was done before, and say so."""
    told = f"the store of runs '{path}' is damaged ({' '.join(reason.split())})"
    backup = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
    # The latest transactions are beside it.
    log = path.with_name(f"{path.name}-wal")
    try:
        copies = sorted(path.parent.glob(f"{path.name}.damaged-*[0-9]"))
        known = next((one for one in copies if filecmp.cmp(one, path, shallow=False)), None)
        if known is None:
            shutil.copyfile(path, backup)
            if log.exists():
                shutil.copyfile(log, backup.with_name(f"{backup.name}-wal"))
        backup = known or backup
    except OSError as error:
        return f"{told}, and cannot be copied: {error.strerror}; move it away before you go on"
    return (
        f"{told}; it was left as it is and copied to '{backup}': recover what can be had with "
        "sqlite3's .recover, or move it away to begin a new one"
    )
