"""One timing at a time on a device, across all processes and users of a machine.

A turn is an advisory lock on a file named after the device; the system gives it back when its
holder ends, however that is. The files hold nothing, and nothing is ever written to what others
made: whoever meddles with them can spoil a timing and no more.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_generator.domain.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

CPU = "cpu"
"""The key of one host's CPU; a GPU's is its UUID."""

_POLL_S = 0.2
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
    """Wait until nobody else times anything on the device, then keep it.

    `device_key` is a GPU's UUID, or `CPU`. The wait has no end but `should_stop`, which is asked
    about every 0.2 s. A second turn on the same device within one process waits for the first.
    `folders` are where the locks may lie; the first that can be used is.

    Raises `SandboxError` where `should_stop` says so, or no file can be locked.
    """
    if not _KEY.fullmatch(device_key):
        raise ValueError(f"'{device_key}' is no device's key")
    descriptor = _acquire(f"{device_key}.lock", should_stop, folders or lock_folders())
    try:
        yield
    finally:
        os.close(descriptor)


def lock_folders() -> tuple[Path, ...]:
    """Where the locks lie: a folder for all of the machine's users, or else one's own.

    Not below TMPDIR, which differs between users and jobs of one machine.
    """
    own = Path(tempfile.gettempdir()) / f"kernel-generator-locks-{os.getuid()}"
    return (Path("/tmp/kernel-generator-locks"), own)


def _acquire(name: str, should_stop: Callable[[], bool] | None, folders: Sequence[Path]) -> int:
    while True:
        if should_stop is not None and should_stop():
            raise SandboxError("the judge's session was closed while it waited to time a kernel")
        # Opened anew each time: a cleaner of temporary files may have taken the name away.
        descriptor = _open(name, folders)
        try:
            locked = _lock(descriptor)
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


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
