"""Cuts compilers' output and tracebacks down to what their author can act on.

Every pass over the text is linear: what a candidate prints is hostile.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_LOG_CHARS = 200_000
"""Longer logs are cut in the middle before they are read."""
MAX_LINE_CHARS = 240
MAX_COMPILER_LINES = 40
"""Lines kept from the first error on."""
CONTEXT_LINES = 3
"""Lines kept before the first error: 'In file included from' and the like."""
MAX_FRAMES = 8
MAX_EXCEPTION_LINES = 24
MAX_TAIL_LINES = 20

_PATH = re.compile(r"""(?<![\w.)\]/])/[^\s:'"(),<>;]+""")
_ERROR = re.compile(r"\b(?:fatal error|error|undefined reference|multiple definition)\b", re.I)
_PYTHON_ERROR = re.compile(r"^\w[\w.]*(?:Error|Exception|Warning|Exit|Interrupt)\b")
_FRAME = re.compile(r'^\s*File "([^"]+)", line (\d+)')
_PROGRESS = re.compile(r"^\[\d+/\d+\] ")
_TRACEBACK = "Traceback (most recent call last):"
_CHAINED = ("During handling of the above", "The above exception was the direct")


def compiler_errors(text: str, files: Sequence[str]) -> str:
    """The compiler's lines around its first error, without build noise and temporary paths."""
    lines = [_shorten_paths(line, files) for line in _lines(text) if not _is_build_noise(line)]
    first = next((i for i, line in enumerate(lines) if _ERROR.search(line)), None)
    if first is None:
        return _tail(lines)
    start = max(0, first - CONTEXT_LINES)
    end = min(len(lines), first + MAX_COMPILER_LINES)
    kept = lines[start:end]
    hidden = sum(1 for line in lines[end:] if _ERROR.search(line))
    if hidden:
        kept.append(f"[... {hidden} more lines with errors left out]")
    return "\n".join(_clip(line) for line in kept).strip("\n")


def own_traceback(text: str, files: Sequence[str]) -> str:
    """A traceback's frames in the candidate's files and its exceptions; the tail if it has none."""
    lines = _lines(text)
    if not any(_FRAME.match(line) for line in lines):
        return _tail([_shorten_paths(line, files) for line in lines if line.strip()])
    frames: list[list[str]] = []
    exceptions: list[str] = []
    in_frame, is_own = False, False
    for line in lines:
        match = _FRAME.match(line)
        if match is not None:
            own = _own_file(match.group(1), files)
            in_frame, is_own = True, own is not None
            if own is not None:
                frames.append([line.replace(match.group(1), own)])
        elif line.startswith(_TRACEBACK):
            in_frame = True
            is_own = False
        elif line.startswith(_CHAINED):
            in_frame = False
        elif in_frame and line.startswith("    "):
            if is_own:
                frames[-1].append(line)
        elif line.strip():
            in_frame = False
            exceptions.append(_shorten_paths(line, files))
    if len(exceptions) > MAX_EXCEPTION_LINES:
        half = MAX_EXCEPTION_LINES // 2
        exceptions = [*exceptions[:half], "[...]", *exceptions[-half:]]
    shown = [line for frame in frames[-MAX_FRAMES:] for line in frame[:4]]
    return "\n".join(_clip(line) for line in shown + exceptions)


def is_python_failure(text: str) -> bool:
    """True where the text reads like a Python traceback or exception."""
    return _TRACEBACK in text or any(
        _FRAME.match(line) or _PYTHON_ERROR.match(line) for line in _lines(text)
    )


def last_lines(text: str, files: Sequence[str]) -> str:
    """The end of a log."""
    return _tail([_shorten_paths(line, files) for line in _lines(text) if line.strip()])


def _lines(text: str) -> list[str]:
    if len(text) > MAX_LOG_CHARS:
        half = MAX_LOG_CHARS // 2
        text = text[:half] + "\n[...]\n" + text[-half:]
    return text.replace("\r\n", "\n").split("\n")


def _tail(lines: Sequence[str]) -> str:
    kept = list(lines[-MAX_TAIL_LINES:])
    if len(lines) > len(kept):
        kept.insert(0, "[...]")
    return "\n".join(_clip(line) for line in kept).strip("\n")


def _clip(line: str) -> str:
    if len(line) <= MAX_LINE_CHARS:
        return line.rstrip()
    return line[:MAX_LINE_CHARS] + " [...]"


def _is_build_noise(line: str) -> bool:
    stripped = line.strip()
    return (
        stripped.startswith(("ninja:", "FAILED:", "collect2:", "TVM-FFI compilation failed"))
        or "ninja exited" in stripped
        or _PROGRESS.match(stripped) is not None
        or (" -c " in stripped and " -o " in stripped)
        or (" -shared " in stripped and " -o " in stripped)
        or stripped in ("stdout:", "stderr:", "----------")
    )


def _own_file(path: str, files: Sequence[str]) -> str | None:
    """The candidate's file that `path` ends in, or None."""
    return next((f for f in files if path == f or path.endswith("/" + f)), None)


def _shorten_paths(line: str, files: Sequence[str]) -> str:
    """Replaces absolute paths: the candidate's files by their own names, others by their end."""

    def shorten(match: re.Match[str]) -> str:
        path = match.group()
        own = _own_file(path, files)
        if own is not None:
            return own
        parts = path.strip("/").split("/")
        return path if len(parts) < 3 else ".../" + "/".join(parts[-2:])

    return _PATH.sub(shorten, line[: MAX_LINE_CHARS * 8])
