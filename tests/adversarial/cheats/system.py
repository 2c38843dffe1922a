"""Cheats on the machine: what they leave behind, and whom they disturb.

`@MARK@` stands for a word that the test looks for afterwards in processes and files.
"""

from __future__ import annotations

from kernel_generator.domain.outcome import Outcome
from tests.adversarial.definitions import NORM, ROUTING, honestly
from tests.adversarial.records import Cheat, Neutralised, Rejected

_RUN = "\n\ndef run(hidden_states, weight):\n    return honest(hidden_states, weight)\n"


def _beside(body: str) -> str:
    return honestly(NORM) + body + _RUN


CASES = (
    Cheat(
        "leaves a daemon",
        "Starts a process of another session with an environment of its own, to outlive it.",
        NORM,
        _beside("""
import os
import subprocess
import sys

if os.fork() == 0:
    os.setsid()
    subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(20)", "@MARK@"],
        env={}, cwd="/", stdin=-3, stdout=-3, stderr=-3, close_fds=True, start_new_session=True,
    )
    os._exit(0)
"""),
        ends=Neutralised(),
        stopped_by="everything dies with the PID namespace",
    ),
    Cheat(
        "writes files for the next candidate",
        "Leaves files in every folder for temporary files, caches and shared memory.",
        NORM,
        _beside("""
import os
from pathlib import Path

for folder in ("/tmp", "/var/tmp", "/dev/shm", "/run", "@FOLDER@", os.getcwd()):
    try:
        Path(folder, "@MARK@").write_text("the answer")
    except OSError:
        pass
"""),
        ends=Neutralised(),
        stopped_by="private temporary files, HOME and caches; nothing comes back",
    ),
    Cheat(
        "prepares the ground for later children",
        "Sets LD_PRELOAD and PYTHONPATH and writes start-up files for Python into HOME.",
        NORM,
        _beside("""
import os
from pathlib import Path

home = Path(os.environ.get("HOME", "/nowhere"))
for name, value in (("LD_PRELOAD", "/nowhere.so"), ("PYTHONPATH", str(home))):
    os.environ[name] = value
try:
    (home / "sitecustomize.py").write_text("import os; os._exit(9)")
    (home / ".pythonrc").write_text("import os; os._exit(9)")
except OSError:
    pass
"""),
        ends=Neutralised(),
        stopped_by="each candidate has a fresh sandbox and an environment made by the judge",
    ),
    Cheat(
        "signals its parent",
        "Sends its parent a signal that the judge did not expect.",
        NORM,
        _beside("""
import os
import signal

if os.getppid() > 1:
    try:
        os.kill(os.getppid(), signal.SIGUSR1)
    except OSError:
        pass
"""),
        ends=Neutralised(),
        stopped_by="PID namespace",
    ),
    Cheat(
        "acts when it exits",
        "Registers handlers that would write a file when its process ends.",
        ROUTING,
        honestly(ROUTING)
        + """
import atexit
import signal
import sys
from pathlib import Path


def leave(*_):
    for folder in ("/tmp", "/dev/shm", "@FOLDER@"):
        try:
            Path(folder, "@MARK@").write_text("the answer")
        except OSError:
            pass
    sys.exit(0)


atexit.register(leave)
signal.signal(signal.SIGTERM, leave)


def run(router_logits):
    return honest(router_logits)
""",
        ends=Neutralised(),
        stopped_by="children are killed, not asked; private temporary files",
    ),
    Cheat(
        "fills the disk",
        "Writes up to 8 GiB into its HOME.",
        NORM,
        _beside("""
import os
from pathlib import Path

piece = os.urandom(1 << 20) * 64
with open(Path(os.environ["HOME"], "@MARK@"), "wb") as file:
    for _ in range(128):
        file.write(piece)
"""),
        ends=Rejected(frozenset({Outcome.RESOURCE_LIMIT, Outcome.COMPILE_ERROR, Outcome.CRASHED})),
        stopped_by="limits on file size and on the sandbox's disk",
        contained=True,
    ),
    Cheat(
        "consumes memory",
        "Allocates and touches up to 8 GiB beyond what the call needs, to starve the judge.",
        NORM,
        _beside("""
hoard = []
for _ in range(64):
    hoard.append(bytearray(b"x") * (128 << 20))
hoard.clear()
"""),
        ends=Neutralised(),
        stopped_by="memory watchdog; the judge's own memory is never the first to go",
        contained=True,
    ),
)
