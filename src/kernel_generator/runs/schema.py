"""The store's tables, and the numbered steps that lead from one version of them to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Column, ForeignKey, Index, Integer, MetaData, String, Table, Text

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

metadata = MetaData()

about = Table(
    "about",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", Text, nullable=False),
)
"""What holds for the whole store: 'version'."""

runs = Table(
    "runs",
    metadata,
    Column("id", String, primary_key=True),
    Column("began", String, nullable=False),
    Column("settings", Text, nullable=False),
)
"""One row a run; settings are JSON."""

texts = Table(
    "texts",
    metadata,
    Column("sha256", String, primary_key=True),
    Column("text", Text, nullable=False),
)
"""Large texts as JSON strings, each stored once under its own hash."""

events = Table(
    "events",
    metadata,
    Column("run", ForeignKey("runs.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("at", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("document", Text, nullable=False),
    Column("subject", String),
    Column("elsewhere", Integer, nullable=False, server_default="0"),
    Index("events_by_subject", "subject"),
)
"""What happened in a run, numbered from 1; documents are JSON that names texts by their hash. What
was judged here has a subject; what was taken in from another store is of `elsewhere`, 1."""


def _first(connection: Connection) -> None:
    for statement in (
        "CREATE TABLE about (name VARCHAR NOT NULL PRIMARY KEY, value TEXT NOT NULL)",
        "CREATE TABLE runs (id VARCHAR NOT NULL PRIMARY KEY, began VARCHAR NOT NULL, "
        "settings TEXT NOT NULL)",
        "CREATE TABLE texts (sha256 VARCHAR NOT NULL PRIMARY KEY, text TEXT NOT NULL)",
        "CREATE TABLE events (run VARCHAR NOT NULL REFERENCES runs (id), number INTEGER NOT NULL, "
        "at VARCHAR NOT NULL, kind VARCHAR NOT NULL, document TEXT NOT NULL, "
        "PRIMARY KEY (run, number))",
    ):
        connection.exec_driver_sql(statement)


def _second(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE events ADD COLUMN subject VARCHAR")
    connection.exec_driver_sql("CREATE INDEX events_by_subject ON events (subject)")


def _third(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE events ADD COLUMN elsewhere INTEGER NOT NULL DEFAULT 0")
    # Which ones were taken in was not noted: a verdict that was made here had a subject.
    connection.exec_driver_sql(
        "UPDATE events SET elsewhere = 1 WHERE kind = 'judged' AND subject IS NULL"
    )


MIGRATIONS: tuple[Callable[[Connection], None], ...] = (_first, _second, _third)
"""Step n makes version n + 1 out of version n. A published step is never changed."""
VERSION = len(MIGRATIONS)
