"""What a store's file is, found out before anything is opened for writing: that would change it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernel_generator.domain.errors import StoreError
from kernel_generator.runs import schema
from kernel_generator.runs.damage import damaged

if TYPE_CHECKING:
    from pathlib import Path

_ELSEWHERE = "copy it to where you can write, and name that with --store"


@dataclass(frozen=True)
class Inspection:
    """What was found."""

    version: int
    """Of the store's tables; 0 where the file is missing or empty."""
    parameters: str | None
    """Of the address by which SQLite opens a file that cannot be written here; None where it can
    be."""


def inspect(path: Path) -> Inspection:
    """Look at a store's file. Raises `StoreError` where it is damaged, another program's, a newer
    version's, or cannot be read; or can only be read and is an older version's."""
    if not path.exists():
        return Inspection(0, None)
    can_write = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)
    parameters = "mode=ro"
    try:
        try:
            version = _version(path, parameters)
        except sqlite3.OperationalError:
            # What keeps others and us apart cannot be written beside it, where nobody writes.
            if can_write:
                raise
            log = path.with_name(f"{path.name}-wal")
            if log.exists() and log.stat().st_size:
                raise StoreError(
                    f"the store of runs '{path}' is read-only here, and its latest transactions "
                    f"lie beside it in '{log.name}': copy both to where you can write, and name "
                    "that with --store"
                ) from None
            parameters = "mode=ro&immutable=1"
            version = _version(path, parameters)
    except sqlite3.OperationalError as error:
        raise StoreError(f"the store of runs '{path}' cannot be read: {error}") from error
    except sqlite3.DatabaseError as error:
        raise StoreError(damaged(path, str(error))) from error
    if version > schema.VERSION:
        raise StoreError(
            f"the store of runs '{path}' was written by a newer kernel-generator (version "
            f"{version}, this one reads up to {schema.VERSION}): upgrade, or name another store"
        )
    if version < schema.VERSION and not can_write:
        raise StoreError(
            f"the store of runs '{path}' is read-only, and an older kernel-generator wrote it: "
            f"{_ELSEWHERE}"
        )
    return Inspection(version, None if can_write else parameters)


def _version(path: Path, parameters: str) -> int:
    address = f"{path.as_uri()}?{parameters}"
    with contextlib.closing(sqlite3.connect(address, uri=True)) as found:
        (verdict,) = found.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreError(damaged(path, verdict))
        tables = {name for (name,) in found.execute("SELECT name FROM sqlite_master")}
        if not tables:
            return 0
        row = None
        if {"about", "runs", "events", "texts"} <= tables:
            row = found.execute("SELECT value FROM about WHERE name = 'version'").fetchone()
        if row is None:
            raise StoreError(f"'{path}' is a database, but no store of runs: name another file")
        return int(row[0])
