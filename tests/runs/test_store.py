"""The event store: what is there after a crash, who may use it, and what is said of a bad one."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from kernel_generator.domain.errors import RunBusy, StoreError, UnknownName
from kernel_generator.runs.database import default_path
from kernel_generator.runs.store import Store
from tests.runs.sets import as_nobody

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

RUN = "0badcafe"
ODD = "é\u202e\0\ud800"
"""Among it half a surrogate pair, which a model can send and UTF-8 cannot hold."""
APPENDS = """
import sys
from pathlib import Path
from kernel_generator.runs.store import Store
store = Store(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    store.append(sys.argv[2], "asked", {"by": sys.argv[4], "number": number})
"""
HOLDS = """
import sys
from pathlib import Path
from kernel_generator.runs.store import Store
with Store(Path(sys.argv[1])).working_on(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "runs.db"


@pytest.fixture
def store(path: Path) -> Generator[Store]:
    found = Store(path)
    found.begin(RUN, {"definition": "rmsnorm"})
    yield found
    found.close()


def started(program: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_what_was_appended_is_read_in_its_order_with_its_texts(store: Store, path: Path) -> None:
    store.append(RUN, "asked", {"round": 1}, {"messages": "write a kernel" * 1000})
    store.append(RUN, "replied", {"round": 1}, {"text": "def run(x): ...", "note": ODD})
    again = Store(path)
    assert [(e.number, e.kind, e.document) for e in again.events(RUN)] == [
        (1, "asked", {"round": 1, "messages": "write a kernel" * 1000}),
        (2, "replied", {"round": 1, "text": "def run(x): ...", "note": ODD}),
    ]
    assert [run.settings for run in again.runs()] == [{"definition": "rmsnorm"}]


def test_a_text_is_stored_once(store: Store, path: Path) -> None:
    for _ in range(5):
        store.append(RUN, "read", {}, {"solution": "the same" * 100})
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM texts").fetchone() == (1,)


def test_a_text_that_was_altered_is_noticed(store: Store, path: Path) -> None:
    store.append(RUN, "replied", {}, {"text": "the reply"})
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE texts SET text = '\"another\"'")
    with pytest.raises(StoreError, match="missing or was altered"):
        store.events(RUN)


def test_texts_that_are_not_wanted_are_left_out_and_read_later(store: Store, path: Path) -> None:
    store.append(RUN, "judged", {"n": 1}, {"evaluation": "passed", "note": "a long one"})
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE texts SET text = '\"else\"' WHERE text = '\"a long one\"'")
    [event] = store.events(RUN, only=("evaluation",))
    assert event.document == {"n": 1, "evaluation": "passed"}
    with pytest.raises(StoreError, match="missing or was altered"):
        store.text(event.unread["note"])


def test_a_run_is_deleted_with_the_texts_that_no_other_has(store: Store, path: Path) -> None:
    store.begin("other", {})
    for run, texts in ((RUN, ("both", "one")), ("other", ("both", "another"))):
        for text in texts:
            store.append(run, "replied", {}, {"text": text})
    before = store.events("other")
    with store.working_on(RUN), pytest.raises(RunBusy):
        store.delete(RUN)
    store.delete(RUN)
    assert [run.run_id for run in store.runs()] == ["other"]
    assert store.events(RUN) == []
    assert store.events("other") == before
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT text FROM texts ORDER BY text").fetchall()
    assert found == [('"another"',), ('"both"',)]
    with pytest.raises(UnknownName):
        store.delete(RUN)


def test_an_unknown_run_is_told_with_the_closest_one(store: Store) -> None:
    with pytest.raises(UnknownName, match="unknown run '0badcaff': did you mean '0badcafe'"):
        store.find("0badcaff")


@pytest.mark.slow
def test_two_programs_may_write_at_once(store: Store, path: Path) -> None:
    writers = [started(APPENDS, path, RUN, 100, name) for name in ("one", "other")]
    for writer in writers:
        assert writer.wait(60) == 0
    events = store.events(RUN)
    assert [e.number for e in events] == list(range(1, 201))
    for name in ("one", "other"):
        own = [e.document["number"] for e in events if e.document["by"] == name]
        assert own == list(range(100))


def test_threads_may_write_at_once(store: Store) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda n: store.append(RUN, "asked", {"n": n}), range(40)))
    assert sorted(e.document["n"] for e in store.events(RUN)) == list(range(40))


def test_a_run_is_moved_forward_by_one_program_at_a_time(store: Store, path: Path) -> None:
    with started(HOLDS, path, RUN) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunBusy, match=f"run {RUN} is being worked on"), store.working_on(RUN):
            pytest.fail("two programs work on one run")
        with store.working_on("another"):
            pass
        holder.kill()
        holder.wait()
        # However its holder ends, the run is free then.
        with store.working_on(RUN):
            pass


def test_verdicts_of_an_older_store_that_may_have_been_taken_in_count_as_another_stores(
    store: Store, path: Path
) -> None:
    for kind, subject in (("judged", None), ("judged", "what was judged here"), ("asked", None)):
        store.append(RUN, kind, {}, subject=subject)
    store.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("ALTER TABLE events DROP COLUMN elsewhere")
        connection.execute("UPDATE about SET value = '2'")
    assert [event.elsewhere for event in Store(path).events(RUN)] == [True, False, False]


# --- bad stores ----------------------------------------------------------------------------------


def test_a_newer_store_is_refused_and_left_as_it_is(store: Store, path: Path) -> None:
    store.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE about SET value = '99'")
        connection.execute("PRAGMA journal_mode = DELETE")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"newer kernel-generator \(version 99"):
        Store(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("table", ["bookmarks", "about"])
def test_another_programs_database_is_not_touched(tmp_path: Path, table: str) -> None:
    path = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"CREATE TABLE {table} (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="no store of runs"):
        Store(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("where", ["everywhere", "in its middle"])
def test_a_damaged_store_is_left_as_it_is_and_copied(store: Store, path: Path, where: str) -> None:
    for number in range(50):
        store.append(RUN, "asked", {"n": number}, {"text": str(number) * 1000})
    store.close()
    content = bytearray(path.read_bytes())
    spoilt = range(len(content)) if where == "everywhere" else range(8192, 20480)
    content[spoilt.start : spoilt.stop] = b"\xff" * len(spoilt)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"is damaged .* copied to '(.*)'") as caught:
        Store(path)
    assert path.read_bytes() == content
    (backup,) = path.parent.glob("runs.db.damaged-*[0-9]")
    assert str(backup) in str(caught.value)
    assert backup.read_bytes() == content


def test_a_damaged_store_is_copied_with_its_latest_transactions(store: Store, path: Path) -> None:
    store.append(RUN, "asked", {"n": 1}, {"text": "x" * 100_000})
    store.close()
    store.append(RUN, "asked", {"n": 2})
    # As SIGKILL leaves them: the log is not part of the file yet.
    log = path.with_name("runs.db-wal")
    content, logged = path.read_bytes(), log.read_bytes()
    assert logged
    store.close()
    path.write_bytes(content[:40_000] + b"\xff" * (len(content) - 40_000))
    log.write_bytes(logged)
    spoilt = path.read_bytes()
    with pytest.raises(StoreError, match="is damaged"):
        Store(path)
    assert path.read_bytes() == spoilt
    assert log.read_bytes() == logged
    [copied] = path.parent.glob("runs.db.damaged-*-wal")
    assert copied.read_bytes() == logged


def test_a_run_that_is_not_there_takes_no_event(store: Store, path: Path) -> None:
    with pytest.raises(StoreError, match="has no such run"):
        store.append("another", "asked", {})
    with pytest.raises(StoreError, match="or has it already"):
        store.begin(RUN, {})
    assert not list(path.parent.glob("*damaged*"))


def test_two_names_of_one_store_hold_one_run_once(store: Store, path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    with store.working_on(RUN), pytest.raises(RunBusy), Store(link).working_on(RUN):
        pytest.fail("two programs work on one run")


def test_a_name_with_a_question_mark_is_one_file(tmp_path: Path) -> None:
    Store(tmp_path / "q?x" / "runs.db")
    assert (tmp_path / "q?x" / "runs.db").is_file()


@pytest.mark.parametrize("run", ["../evil", "a/b", "", "."])
def test_a_runs_id_cannot_lead_out_of_the_folder(store: Store, run: str) -> None:
    with pytest.raises(UnknownName), store.working_on(run):
        pytest.fail("locked")


def test_a_store_that_stays_locked_is_told(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernel_generator.runs.database._WAIT_S", 0.2)
    impatient = Store(path)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match=r"has been locked by another program for 0\.2 s"):
        impatient.append(RUN, "asked", {})
    holder.execute("ROLLBACK")
    impatient.append(RUN, "asked", {})
    assert len(store.events(RUN)) == 1


def test_a_store_that_another_program_writes_to_can_be_opened_and_read(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernel_generator.runs.database._WAIT_S", 0.2)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        assert [run.run_id for run in Store(path).runs()] == [RUN]


def test_waiting_for_another_program_can_be_interrupted(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernel_generator.runs.database._WAIT_S", 3600)

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            store.append(RUN, "asked", {})
        signal.signal(signal.SIGALRM, before)
        holder.execute("ROLLBACK")
    store.append(RUN, "asked", {})
    assert len(store.events(RUN)) == 1


def test_a_full_disk_is_told_and_takes_nothing_away(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append(RUN, "asked", {"n": 1})
    monkeypatch.setattr("kernel_generator.runs.database._PRAGMAS", ("max_page_count = 15",))
    full = Store(path)
    with pytest.raises(StoreError, match="the disk is full: free some space, then resume"):
        full.append(RUN, "replied", {"n": 2}, {"text": os.urandom(100_000).hex()})
    assert [e.document for e in store.events(RUN)] == [{"n": 1}]


@pytest.mark.parametrize("place", ["a-file/runs.db", "a-folder"])
def test_a_place_where_no_store_can_be_is_told_with_what_to_do(tmp_path: Path, place: str) -> None:
    (tmp_path / "a-file").write_text("")
    (tmp_path / "a-folder").mkdir()
    with pytest.raises(StoreError, match=r"name (another place with --store|a file)"):
        Store(tmp_path / place)


LOOKS = """
import sys
from pathlib import Path
from kernel_generator.domain.errors import StoreError
from kernel_generator.runs.store import Store
def told(do):
    try:
        return do()
    except StoreError as error:
        return str(error)
def look():
    return [(run.run_id, len(store.events(run.run_id))) for run in store.runs()]
path = Path({path!r})
store = told(lambda: Store(path))
print(told(look) if isinstance(store, Store) else store)
if isinstance(store, Store):
    print(told(lambda: store.append({run!r}, "asked", {{}})))
"""


@pytest.mark.parametrize("closed", ["its folder", "its file", "both"])
def test_a_store_that_cannot_be_written_can_be_read(
    store: Store, path: Path, closed: str, request: pytest.FixtureRequest
) -> None:
    store.append(RUN, "asked", {})
    store.close()
    path.chmod(0o444 if closed != "its folder" else 0o666)
    path.parent.chmod(0o555 if closed != "its file" else 0o777)
    request.addfinalizer(lambda: path.parent.chmod(0o755))
    told = as_nobody(LOOKS.format(path=str(path), run=RUN), path.parent)
    assert len(told.splitlines()) == 2, told
    found, refused = told.splitlines()
    assert found == f"[('{RUN}', 1)]"
    assert "is read-only here" in refused
    assert "name that with --store" in refused


def test_a_read_only_store_whose_latest_transactions_cannot_be_read_says_so(
    store: Store, path: Path, request: pytest.FixtureRequest
) -> None:
    store.append(RUN, "asked", {})
    # As a copy has it of a store that was in use.
    copied = path.parent.parent / "copy"
    copied.mkdir()
    for name in ("runs.db", "runs.db-wal"):
        (copied / name).write_bytes(path.with_name(name).read_bytes())
    copied.chmod(0o555)
    request.addfinalizer(lambda: copied.chmod(0o755))
    told = as_nobody(LOOKS.format(path=str(copied / "runs.db"), run=RUN), copied)
    assert f"[('{RUN}', 1)]" in told or "its latest transactions lie beside it" in told


def test_a_read_only_store_of_an_older_version_says_so(
    store: Store, path: Path, request: pytest.FixtureRequest
) -> None:
    store.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE about SET value = '1'")
    path.parent.chmod(0o555)
    request.addfinalizer(lambda: path.parent.chmod(0o755))
    told = as_nobody(LOOKS.format(path=str(path), run=RUN), path.parent)
    assert "is read-only, and an older kernel-generator wrote it" in told


def test_a_store_that_became_read_only_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernel_generator.runs.database._PRAGMAS", ("query_only = ON",))
    with pytest.raises(StoreError, match=r"is read-only here.* name that with --store"):
        Store(store.path).append(RUN, "asked", {})


def test_where_the_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNEL_GENERATOR_STORE", str(tmp_path / "mine.db"))
    assert default_path() == tmp_path / "mine.db"
    monkeypatch.setenv("KERNEL_GENERATOR_STORE", " ")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_path().name == "runs.db"
    assert default_path().parent.name == "kernel-generator"
