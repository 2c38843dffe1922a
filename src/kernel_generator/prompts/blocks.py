"""Finds fenced code blocks and `<file>` tags in a reply, in one pass over its lines.

Only finds: what a block is called and whether it can be used is decided in `replies`. A block's
text is what stands between its delimiters, character for character; the sole exception is the
indentation of a fence inside a Markdown list, which belongs to the list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FENCE = re.compile(r"^([ \t]{0,12})(`{3,}|~{3,})(.*)$", re.DOTALL)
_TAG = re.compile(r"<file(?=[\s>])([^<>]{0,500})>", re.IGNORECASE)
_TAG_END = "</file>"
_CDATA = "<![CDATA["
_CDATA_END = "]]>"


@dataclass(frozen=True)
class Block:
    """One delimited piece of a reply."""

    text: str
    info: str
    """A fence's info string, or a tag's attributes."""
    before: str
    """The last line with text before the block."""
    is_tag: bool = False


@dataclass(frozen=True)
class Broken:
    """Why the blocks of a reply cannot be told apart."""

    reason: str


def find_blocks(text: str) -> list[Block] | Broken:
    """All outermost blocks in their order, or why they cannot be told apart."""
    lines = text.split("\n")
    found: list[Block] = []
    before = ""
    at = 0
    while at < len(lines):
        line = lines[at]
        tag = _tag(line)
        fence = None if tag is not None else _fence(line)
        if tag is not None:
            read = _read_tag(lines, at, tag, before)
        elif fence is not None:
            read = _read_fence(lines, at, fence, before)
        elif line.strip().lower() == _TAG_END:
            return Broken("a </file> ends no open <file>: the end of a file cannot be told")
        else:
            if line.strip():
                before = line
            at += 1
            continue
        if isinstance(read, Broken):
            return read
        block, at = read
        found.append(block)
        before = ""
    return found


@dataclass(frozen=True)
class _Fence:
    indent: int
    mark: str
    info: str


def _fence(line: str) -> _Fence | None:
    """The opening fence on this line, if it is one."""
    match = _FENCE.match(line.rstrip("\r"))
    if match is None:
        return None
    indent, mark, info = match.groups()
    if mark[0] == "`" and "`" in info:
        return None  # inline code that happens to start a line
    return _Fence(len(indent), mark, info.strip())


def _closes(line: str, fence: _Fence) -> bool:
    stripped = line.strip()
    return (
        len(stripped) >= len(fence.mark)
        and stripped.strip(fence.mark[0]) == ""
        and len(line) - len(line.lstrip(" \t")) <= fence.indent + 3
    )


def _read_fence(
    lines: list[str], start: int, fence: _Fence, before: str
) -> tuple[Block, int] | Broken:
    for at in range(start + 1, len(lines)):
        if _closes(lines[at], fence):
            content = "".join(_dedent(x, fence.indent) + "\n" for x in lines[start + 1 : at])
            return Block(content, fence.info, before), at + 1
    return Broken(
        "the last code block is never closed: the reply was cut off, or a file holds a line of "
        f"{fence.mark} itself. Close every block, and fence such a file with a longer fence"
    )


def _dedent(line: str, indent: int) -> str:
    blank = len(line) - len(line.lstrip(" \t"))
    return line[min(indent, blank) :]


def _tag(line: str) -> re.Match[str] | None:
    """The opening `<file ...>` that this line starts with, if any."""
    stripped = line.lstrip()
    if stripped[:5].lower() != "<file":
        return None
    return _TAG.match(line, len(line) - len(stripped))


def _read_tag(
    lines: list[str], start: int, tag: re.Match[str], before: str
) -> tuple[Block, int] | Broken:
    rest = lines[start][tag.end() :]
    content: list[str] = [rest]
    for at in range(start, len(lines)):
        if at > start:
            content.append(lines[at])
        ended = content[-1].rstrip()
        if ended.lower().endswith(_TAG_END):
            content[-1] = ended[: -len(_TAG_END)]
            inner = _unwrapped("\n".join(content))
            if isinstance(inner, Broken):
                return inner
            return Block(inner, tag.group(1), before, is_tag=True), at + 1
    return Broken(
        "the last <file> is never closed: the reply was cut off. End every file with </file>"
    )


def _unwrapped(text: str) -> str | Broken:
    """The content of a tag, out of the CDATA section or the fence that it may stand in."""
    bare = text.strip()
    if bare.startswith(_CDATA):
        if not bare.endswith(_CDATA_END):
            return Broken("a CDATA section is never closed. End it with ]]> before </file>")
        return _without_first_newline(bare[len(_CDATA) : -len(_CDATA_END)])
    lines = bare.split("\n")
    fence = _fence(lines[0])
    if fence is None:
        return _without_first_newline(text)
    closing = next((i for i in range(1, len(lines)) if _closes(lines[i], fence)), None)
    if closing is None or closing != len(lines) - 1:
        return Broken(
            "the code block inside a <file> does not end where the file ends. Leave the fence out"
        )
    return "".join(line + "\n" for line in lines[1:closing])


def _without_first_newline(text: str) -> str:
    first, newline, rest = text.partition("\n")
    return rest if newline and not first.strip() else text
