"""Turns at timing: one process a device at a time, whoever runs it and however it ends."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from kernel_generator.domain.errors import SandboxError
from kernel_generator.evaluation.turn import CPU, Turns, timing_turn, working_turn

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

GPU = "GPU-5c9f7e0e-2f3b-4d51-8a65-0d3c5a0a7c11"
_ONCE = 2
"""A turn asks so often, for it takes two locks, whether it should go on waiting."""
HOLDER = """
import sys
from pathlib import Path
from kernel_generator.evaluation import turn

with getattr(turn, sys.argv[3])(sys.argv[1], folders=[Path(sys.argv[2])]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process_holds(
    key: str, folder: Path, what: str = "timing_turn"
) -> Generator[subprocess.Popen[str]]:
    """A process that keeps its turn until its stdin ends, or it does."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, key, str(folder), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def after(asked: int) -> Callable[[], bool]:
    """Says stop when it is asked for the time after so many."""
    answers = iter([False] * asked)
    return lambda: next(answers, True)


def is_free(key: str, *folders: Path) -> bool:
    """Whether a turn can be had at once."""
    try:
        with timing_turn(key, after(_ONCE), folders):
            return True
    except SandboxError:
        return False


def can_be_worked_on(key: str, folder: Path) -> bool:
    """Whether a working turn can be had at once."""
    try:
        with working_turn(key, after(_ONCE), [folder]):
            return True
    except SandboxError:
        return False


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "locks"


def test_a_device_that_another_process_is_timing_on_is_waited_for(folder: Path) -> None:
    with another_process_holds(GPU, folder) as process:
        waited: list[bool] = []

        def released_while_waiting() -> bool:
            waited.append(process.poll() is None)
            if len(waited) == 3:
                process.communicate("")
            return False

        with timing_turn(GPU, released_while_waiting, [folder]):
            assert process.returncode == 0
        assert waited[:3] == [True, True, True]


def test_waiting_ends_where_the_session_is_closed(folder: Path) -> None:
    with (
        another_process_holds(GPU, folder),
        pytest.raises(SandboxError, match="closed while it waited for the device"),
        timing_turn(GPU, after(3), [folder]),
    ):
        pytest.fail("two processes time on one device")


def test_a_process_that_is_killed_gives_its_turn_back(folder: Path) -> None:
    with another_process_holds(CPU, folder) as process:
        assert not is_free(CPU, folder)
        process.kill()
        process.wait()
        assert is_free(CPU, folder)


def test_a_process_started_during_a_turn_does_not_keep_it(folder: Path) -> None:
    with timing_turn(CPU, folders=[folder]):
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
    with child:
        assert is_free(CPU, folder)
        child.communicate(b"")


def test_devices_do_not_wait_for_each_other(folder: Path) -> None:
    with another_process_holds(GPU, folder):
        assert is_free(CPU, folder)
        assert is_free("GPU-other", folder)


def test_two_turns_of_one_process_exclude_each_other_as_well(folder: Path) -> None:
    with timing_turn(CPU, folders=[folder]):
        assert not is_free(CPU, folder)
    assert is_free(CPU, folder)


def test_a_turn_ends_with_an_error_inside_it(folder: Path) -> None:
    with pytest.raises(KeyError), timing_turn(CPU, folders=[folder]):
        raise KeyError
    assert is_free(CPU, folder)


# --- work beside timing ----------------------------------------------------------------------


def test_judges_work_at_once_but_not_while_one_of_them_times(folder: Path) -> None:
    with another_process_holds(GPU, folder, "working_turn"):
        assert can_be_worked_on(GPU, folder)
        assert not is_free(GPU, folder)
    with another_process_holds(GPU, folder):
        assert not can_be_worked_on(GPU, folder)


def test_whoever_waits_to_time_is_not_overtaken_by_more_work(folder: Path) -> None:
    asked: list[bool] = []

    def looks_around() -> bool:
        asked.append(True)
        if len(asked) == 3:
            assert not can_be_worked_on(GPU, folder)
            worker.kill()
            worker.wait()
        return False

    with (
        another_process_holds(GPU, folder, "working_turn") as worker,
        timing_turn(GPU, looks_around, [folder]),
    ):
        assert len(asked) >= 3


@pytest.fixture
def turns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Turns:
    monkeypatch.setattr("kernel_generator.evaluation.turn.lock_folders", lambda: (folder,))
    return Turns(lambda: GPU, lambda: False)


def test_a_thread_that_works_can_time_and_works_on_thereafter(turns: Turns, folder: Path) -> None:
    with turns.working(), turns.working():
        with turns.timing():
            assert not can_be_worked_on(GPU, folder)
        assert can_be_worked_on(GPU, folder)
        assert not is_free(GPU, folder)
    assert is_free(GPU, folder)


def test_a_thread_inside_another_turn_of_its_own_does_not_wait_for_who_waits_for_it(
    turns: Turns, folder: Path
) -> None:
    with turns.working():
        waiting = ThreadPoolExecutor(1).submit(_times, turns)
        while can_be_worked_on(GPU, folder):
            time.sleep(0.001)
        with turns.working():
            assert not waiting.done()
    assert waiting.result(10.0)


def _times(turns: Turns) -> bool:
    with turns.timing():
        return True


def test_a_turn_to_work_ends_with_an_error_inside_it(turns: Turns, folder: Path) -> None:
    with pytest.raises(KeyError), turns.working():
        raise KeyError
    assert is_free(GPU, folder)
    with turns.working(), pytest.raises(KeyError), turns.timing():
        raise KeyError
    assert is_free(GPU, folder)


# --- other users of the machine --------------------------------------------------------------


def test_other_users_can_take_turns_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0o077)
    try:
        assert is_free(CPU, folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert stat.S_IMODE((folder / "cpu.lock").stat().st_mode) == 0o644


def test_a_link_in_the_locks_place_is_not_followed(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    (folder / "cpu.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(SandboxError, match="there is no folder to lock a file in"):
        timing_turn(CPU, folders=[folder]).__enter__()
    assert not (tmp_path / "victim").exists()


def test_a_link_in_the_folders_place_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    folder.symlink_to(tmp_path / "victim")
    own = tmp_path / "own"
    assert is_free(CPU, folder, own)
    assert list((tmp_path / "victim").iterdir()) == []
    assert (own / "cpu.lock").exists()


def test_a_pipe_in_the_locks_place_holds_nobody_up(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    os.mkfifo(folder / "cpu.lock")
    own = tmp_path / "own"
    assert is_free(CPU, folder, own)
    assert (own / "cpu.lock").exists()


def test_what_a_file_in_the_locks_place_holds_and_allows_stays(folder: Path) -> None:
    folder.mkdir()
    (folder / "cpu.lock").write_text("somebody's")
    (folder / "cpu.lock").chmod(0o440)
    assert is_free(CPU, folder)
    assert (folder / "cpu.lock").read_text() == "somebody's"
    assert stat.S_IMODE((folder / "cpu.lock").stat().st_mode) == 0o440


@pytest.mark.parametrize("key", ["", "a/b", "../x", "a\0b"])
def test_a_key_that_could_lead_out_of_the_folder_is_refused(key: str, folder: Path) -> None:
    with pytest.raises(ValueError, match="no device's key"):
        timing_turn(key, folders=[folder]).__enter__()
