"""The file that a store of runs is in: where it is, how it is opened, its transactions.

Guarantees that a transaction is on disk once it has ended, whole or not at all, and that whatever
is wrong with the file is told as `StoreError`. A file that is damaged is left as it is.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
from sqlalchemy import create_engine, event, insert, select, update
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from kernel_generator.domain.errors import StoreError
from kernel_generator.runs import schema
from kernel_generator.runs.damage import damaged
from kernel_generator.runs.inspection import inspect

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import Connection, Engine

VARIABLE = "KERNEL_GENERATOR_STORE"
"""The environment variable that says where the store is."""
_FILE = "runs.db"
_WAIT_S = 30.0
"""So long another program's transaction is waited for; one takes milliseconds."""
_LOOK_AGAIN_S = 0.2
"""So long SQLite waits at a time. Nothing interrupts it meanwhile."""
_PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")
"""What is set for each connection. FULL: an event outlives the machine's crash too."""
_FULL, _READ_ONLY, _LOCKED = "full", "readonly", "locked"


def default_path() -> Path:
    """Where the store is: `KERNEL_GENERATOR_STORE`, else the platform's folder for data."""
    named = os.environ.get(VARIABLE, "").strip()
    if named:
        return Path(named).expanduser()
    return Path(platformdirs.user_data_path("kernel-generator")) / _FILE


class Database:
    """One SQLite file. Safe to use from several threads and programs."""

    def __init__(self, path: Path | None = None) -> None:
        """Open the file at `path`, or make it: see `Store`. One that cannot be written is opened to
        be read."""
        self.path = (path or default_path()).expanduser().resolve()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"no store of runs can be kept at '{self.path}': {error.strerror}; name another "
                f"place with --store or {VARIABLE}"
            ) from error
        if self.path.is_dir():
            raise StoreError(f"the store of runs '{self.path}' is a folder: name a file")
        found = inspect(self.path)
        self._engine = _engine(self.path, found.parameters)
        if found.version < schema.VERSION:
            with self.transaction() as connection:
                _migrate(connection)

    @contextlib.contextmanager
    def transaction(self, reads: bool = False) -> Generator[Connection]:
        """All of it or nothing, on disk once this returns. `reads`: nothing is written, and others
        may write meanwhile. Raises `StoreError`."""
        try:
            with self._begun(reads) as connection:
                yield connection
        except IntegrityError as error:
            raise StoreError(f"'{self.path}' has no such run, or has it already") from error
        except OperationalError as error:
            raise StoreError(self._trouble(str(error.orig))) from error
        except DatabaseError as error:
            raise StoreError(damaged(self.path, str(error.orig))) from error

    @contextlib.contextmanager
    def _begun(self, reads: bool) -> Generator[Connection]:
        until = time.monotonic() + _WAIT_S
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    connection = stack.enter_context(self._engine.connect())
                    connection = connection.execution_options(reads=reads)
                    stack.enter_context(connection.begin())
                    break
                except OperationalError as error:
                    stack.close()
                    if _LOCKED not in str(error.orig) or time.monotonic() >= until:
                        raise
                    # Some locks SQLite does not wait for.
                    time.sleep(_LOOK_AGAIN_S / 10)
            yield connection

    def _trouble(self, reason: str) -> str:
        at = f"the store of runs '{self.path}'"
        if _LOCKED in reason:
            return f"{at} has been locked by another program for {_WAIT_S:g} s: try again"
        if _FULL in reason:
            return f"{at} cannot grow, the disk is full: free some space, then resume the run"
        if _READ_ONLY in reason:
            return (
                f"{at} is read-only here, what it holds can only be looked at: copy it to where "
                f"you can write, and name that with --store or {VARIABLE}"
            )
        return f"{at} cannot be used: {reason}; name another place with --store or {VARIABLE}"

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        self._engine.dispose()


def _engine(path: Path, parameters: str | None) -> Engine:
    """`parameters`: of the address, where the file can only be read."""
    database = str(path) if parameters is None else f"{path.as_uri()}?{parameters}"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(
            database,
            timeout=_LOOK_AGAIN_S,
            uri=parameters is not None,
            # The pool gives a connection to one thread at a time.
            check_same_thread=False,
        )

    address = URL.create("sqlite+pysqlite", database=str(path))
    engine = create_engine(address, creator=connect)

    def connected(connection: Any, _: object) -> None:
        # SQLAlchemy begins transactions, not the driver.
        connection.isolation_level = None
        for pragma in _PRAGMAS if parameters is None else ():
            connection.execute(f"PRAGMA {pragma}")

    def begun(connection: Connection) -> None:
        reads = connection.get_execution_options().get("reads", False)
        if reads:
            connection.exec_driver_sql("BEGIN")
            # Begins in earnest with the first look, which is where it may have to wait.
            connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
        else:
            # Two that had both begun to read could not both go on to write.
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
    return engine


def _migrate(connection: Connection) -> None:
    """From whatever version it is now: another program may have been quicker."""
    tables = connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars().all()
    version = 0
    if tables:
        query = select(schema.about.c.value).where(schema.about.c.name == "version")
        version = int(connection.execute(query).scalar_one())
    for step in schema.MIGRATIONS[version:]:
        step(connection)
    if version == 0:
        connection.execute(insert(schema.about).values(name="version", value=str(schema.VERSION)))
    elif version < schema.VERSION:
        here = schema.about.c.name == "version"
        connection.execute(update(schema.about).where(here).values(value=str(schema.VERSION)))
