"""One timing at a time on a device, across all processes and users of a machine.

What judges do on a GPU beside timing, they may do at once, but not while one of them times: the
device would be shared out in slices. A turn is an advisory lock on a file named after the device;
the system gives it back when its holder ends, however that is. The files hold nothing, and nothing
is ever written to what others made: whoever meddles with them can spoil a timing and no more.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_generator.domain.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from contextlib import AbstractContextManager

CPU = "cpu"
"""The key of one host's CPU; a GPU's is its UUID."""

_POLL_S = 0.02
_KEY = re.compile(r"[\w.-]+", re.ASCII)
_FOLDER_MODE = 0o1777
"""As the temporary folder's: everybody adds files, nobody takes another's away."""
_FILE_MODE = 0o644
"""Whoever may read a file may lock it."""
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
"""Opens no symbolic link's target, and waits for no pipe's other end."""


@contextmanager
def timing_turn(
    device_key: str,
    should_stop: Callable[[], bool] | None = None,
    folders: Sequence[Path] | None = None,
) -> Generator[None]:
    """Wait until nobody else times anything on the device or works on it, then keep it.

    `device_key` is a GPU's UUID, or `CPU`. The wait has no end but `should_stop`, which is asked
    about every 0.02 s. A second turn on the same device within one process waits for the first.
    `folders` are where the locks may lie; the first that can be used is.

    Raises `SandboxError` where `should_stop` says so, or no file can be locked.
    """
    with _turn(device_key, fcntl.LOCK_EX, should_stop, folders):
        yield


@contextmanager
def working_turn(
    device_key: str,
    should_stop: Callable[[], bool] | None = None,
    folders: Sequence[Path] | None = None,
) -> Generator[None]:
    """As `timing_turn`, for work that others may do beside it as long as nobody times."""
    with _turn(device_key, fcntl.LOCK_SH, should_stop, folders):
        yield


@contextmanager
def leaving_turn(
    device_key: str,
    should_stop: Callable[[], bool] | None = None,
    folders: Sequence[Path] | None = None,
) -> Generator[None]:
    """As `working_turn`, for clearing up that the holder of one may wait for: it does not queue
    behind who waits for a timing, who may be waiting for that holder."""
    with _locked(f"{device_key}.lock", fcntl.LOCK_SH, should_stop, folders or lock_folders()):
        yield


class Turns:
    """The turns of one session's threads on one device."""

    def __init__(self, device_key: Callable[[], str], should_stop: Callable[[], bool]) -> None:
        """`device_key` tells which device it is, asked when a turn is: see `timing_turn`."""
        self._key = device_key
        self._should_stop = should_stop
        self._mine = threading.local()

    @contextmanager
    def working(self) -> Generator[None]:
        """See `working_turn`. Within another of the same thread it is had already."""
        if self._held is not None:
            yield
            return
        with ExitStack() as stack:
            stack.enter_context(working_turn(self._key(), self._should_stop))
            self._mine.stack = stack
            try:
                yield
            finally:
                self._mine.stack = None

    @contextmanager
    def timing(self) -> Generator[None]:
        """See `timing_turn`. A working turn of the same thread is given up for as long."""
        held = self._held
        if held is not None:
            held.close()
        try:
            with timing_turn(self._key(), self._should_stop):
                yield
        except Exception:
            self._go_on_working(held)
            raise
        # An interrupt waits for nobody.
        self._go_on_working(held)

    def leaving(self) -> AbstractContextManager[None]:
        """See `leaving_turn`."""
        return leaving_turn(self._key(), self._should_stop)

    def _go_on_working(self, held: ExitStack | None) -> None:
        if held is not None:
            held.enter_context(working_turn(self._key(), self._should_stop))

    @property
    def _held(self) -> ExitStack | None:
        return getattr(self._mine, "stack", None)


def lock_folders() -> tuple[Path, ...]:
    """Where the locks lie: a folder for all of the machine's users, or else one's own.

    Not below TMPDIR, which differs between users and jobs of one machine.
    """
    own = Path(tempfile.gettempdir()) / f"kernel-generator-locks-{os.getuid()}"
    return (Path("/tmp/kernel-generator-locks"), own)


@contextmanager
def _turn(
    device_key: str,
    mode: int,
    should_stop: Callable[[], bool] | None,
    folders: Sequence[Path] | None,
) -> Generator[None]:
    if not _KEY.fullmatch(device_key):
        raise ValueError(f"'{device_key}' is no device's key")
    folders = folders or lock_folders()
    with ExitStack() as stack:
        # Who waits for a timing holds up those that come later: else some would always be working.
        with _locked(f"{device_key}.next", fcntl.LOCK_EX, should_stop, folders):
            stack.enter_context(_locked(f"{device_key}.lock", mode, should_stop, folders))
        yield


@contextmanager
def _locked(
    name: str, mode: int, should_stop: Callable[[], bool] | None, folders: Sequence[Path]
) -> Generator[None]:
    descriptor = _acquire(name, mode, should_stop, folders)
    try:
        yield
    finally:
        os.close(descriptor)


def _acquire(
    name: str, mode: int, should_stop: Callable[[], bool] | None, folders: Sequence[Path]
) -> int:
    while True:
        if should_stop is not None and should_stop():
            raise SandboxError("the judge's session was closed while it waited for the device")
        # Opened anew each time: a cleaner of temporary files may have taken the name away.
        descriptor = _open(name, folders)
        try:
            locked = _lock(descriptor, mode)
        except OSError as error:
            os.close(descriptor)
            raise SandboxError(
                f"'{name}' cannot be locked: {error.strerror}; the temporary folder has to be on a "
                "file system that knows locks"
            ) from error
        if locked:
            return descriptor
        os.close(descriptor)
        time.sleep(_POLL_S)


def _lock(descriptor: int, mode: int) -> bool:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(descriptor).st_nlink > 0


def _open(name: str, folders: Sequence[Path]) -> int:
    problems: list[str] = []
    for folder in folders:
        try:
            return _open_in(folder, name)
        except OSError as error:
            problems.append(f"{folder}: {error.strerror}")
    raise SandboxError(
        "timings cannot be kept apart: there is no folder to lock a file in "
        f"({'; '.join(problems)}); free space in the temporary folder or set TMPDIR"
    )


def _open_in(folder: Path, name: str) -> int:
    try:
        folder.mkdir(_FOLDER_MODE)
    except FileExistsError:
        pass
    else:
        # The umask took rights away.
        folder.chmod(_FOLDER_MODE)
    parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        descriptor = _open_file(name, parent)
    finally:
        os.close(parent)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"'{name}' is no ordinary file")
    return descriptor


def _open_file(name: str, parent: int) -> int:
    # Systems that protect such folders (fs.protected_regular) refuse O_CREAT for others' files.
    try:
        return os.open(name, _LOOK, dir_fd=parent)
    except FileNotFoundError:
        pass
    try:
        descriptor = os.open(name, _LOOK | os.O_CREAT | os.O_EXCL, _FILE_MODE, dir_fd=parent)
    except FileExistsError:
        # Another process made it meanwhile.
        return os.open(name, _LOOK, dir_fd=parent)
    os.fchmod(descriptor, _FILE_MODE)
    return descriptor
