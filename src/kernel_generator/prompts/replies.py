"""Reads source files out of a model's reply, and makes a solution of them.

Never edits, merges or completes code: what cannot be read beyond doubt is `Unreadable`, with a
reason that tells the author how to answer. Never raises on a reply's text, whatever it holds.
"""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashinfer_bench.data import (
    BuildSpec,
    Solution,
    SourceFile,
    SupportedBindings,
    SupportedLanguages,
)

from kernel_generator.domain.conversation import Finish
from kernel_generator.domain.outcome import Outcome
from kernel_generator.prompts.blocks import Block, Broken, find_blocks
from kernel_generator.prompts.conventions import CONVENTIONS, ENTRY_FUNCTION, Convention

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashinfer_bench import Definition

    from kernel_generator.domain.conversation import Reply
    from kernel_generator.domain.proposal import Proposal
    from kernel_generator.domain.task import Brief

MAX_REPLY_BYTES = 10_000_000
MAX_FILES = 32
MAX_PATH_CHARS = 120
MAX_NAME_WORDS = 8
"""A line before a block longer than this many words is prose, not a file's name."""

_SUFFIXES = (
    ".py", ".cu", ".cuh", ".cpp", ".cc", ".cxx", ".c", ".h", ".hpp", ".hh", ".hxx", ".inl", ".inc",
)  # fmt: skip
_ATTRIBUTE = re.compile(
    r"""(?:^|[\s{,])(?:path|name|filename|file|title)\s?=\s?(?:"([^"]*)"|'([^']*)'|([^\s"'{},]+))""",
    re.IGNORECASE,
)
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+\-]*")
_COMMENT = re.compile(r"^\s*(?:#|//|/\*|\"\"\")\s?(.{1,200})$")
_PYTHON_ENTRY = re.compile(rf"^(?:async[ \t]+)?def[ \t]+{ENTRY_FUNCTION}[ \t]*\(", re.MULTILINE)
_COMPILED_ENTRY = re.compile(rf"TVM_FFI_DLL_EXPORT_TYPED_FUNC[ \t]*\(\s*{ENTRY_FUNCTION}\b")
_MARKUP = "#*`'\":,()[]<>{}"
_FILE_WORDS = ("file", "filename", "path", "file name", "create", "save", "begin")


@dataclass(frozen=True)
class Unreadable:
    """Why a reply gave no solution, in words for its author."""

    reason: str
    outcome: Outcome = Outcome.MALFORMED_REPLY


@dataclass(frozen=True)
class _Named:
    path: str
    text: str


def read_files(text: str, language: str) -> tuple[SourceFile, ...] | Unreadable:
    """The files that a reply in `language` gives, entry file included, or why they cannot be read.

    Files stand in fenced blocks named by the info string, the line before or a first-line comment,
    or in `<file path="...">` tags. One block without a name is the entry file.
    """
    convention = CONVENTIONS[language]
    too_much = _refused_text(text)
    if too_much is not None:
        return too_much
    blocks = find_blocks(_after_reasoning(text))
    if isinstance(blocks, Broken):
        return Unreadable(f"{blocks.reason}.")
    if not blocks:
        return Unreadable(
            f"The reply holds no code block. Put {convention.entry_file} into a fenced block: "
            f"```{convention.fence} {convention.entry_file}"
        )
    named = _named_files(blocks, convention)
    if isinstance(named, Unreadable):
        return named
    return _checked(named, convention)


def read_solution(
    reply: Reply, brief: Brief, proposal: Proposal, author: str, name: str
) -> Solution | Unreadable:
    """The solution that a reply gives for `brief`, called `name`, or why there is none."""
    detail = f" The provider says: {reply.detail}" if reply.detail else ""
    if reply.finish is Finish.REFUSED:
        return Unreadable(f"The request was refused.{detail}", Outcome.REFUSED_REPLY)
    if reply.finish is Finish.LENGTH:
        return Unreadable(
            f"The reply was cut by the length limit.{detail}", Outcome.TRUNCATED_REPLY
        )
    if reply.finish is Finish.EMPTY or not reply.text.strip():
        return Unreadable(f"The reply holds no text.{detail}", Outcome.EMPTY_REPLY)
    files = read_files(reply.text, brief.language)
    if isinstance(files, Unreadable):
        return files
    convention = CONVENTIONS[brief.language]
    entry = next(f for f in files if f.path == convention.entry_file)
    return Solution(
        name=name,
        definition=brief.definition.name,
        author=author,
        spec=BuildSpec(
            language=SupportedLanguages(brief.language),
            target_hardware=[brief.target.name],
            entry_point=convention.entry_point,
            dependencies=[],
            destination_passing_style=destination_passing_style(
                entry.content, brief.definition, brief.language
            ),
            binding=None if convention.binding is None else SupportedBindings(convention.binding),
        ),
        sources=list(files),
        description=(
            f"{convention.title} for {brief.target.name}, "
            f"{proposal.purpose.value} of round {proposal.round}"
        ),
    )


def destination_passing_style(source: str, definition: Definition, language: str) -> bool:
    """Whether `run` takes the outputs too, by its number of parameters.

    Falls back on the language's style where the source does not parse or fits neither.
    """
    convention = CONVENTIONS[language]
    if convention.is_compiled:
        return True
    count = _parameter_count(source)
    if count == len(definition.inputs) + len(definition.outputs):
        return True
    if count == len(definition.inputs):
        return False
    return convention.destination_passing


def _refused_text(text: str) -> Unreadable | None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return Unreadable("The reply holds broken Unicode (a lone surrogate). Write plain text.")
    if size > MAX_REPLY_BYTES:
        return Unreadable(
            f"The reply has {size:,} bytes; at most {MAX_REPLY_BYTES:,} are read. Write less."
        )
    if "\0" in text:
        return Unreadable("The reply holds a NUL byte. Write plain text.")
    return None


def _after_reasoning(text: str) -> str:
    """Without the leading `<think>` section that some models print: it is no part of the answer."""
    if text.lstrip().startswith("<think>"):
        _, end, rest = text.partition("</think>")
        return rest if end else text
    return text


def _named_files(blocks: Sequence[Block], convention: Convention) -> list[_Named] | Unreadable:
    named: dict[str, str] = {}
    unnamed: list[Block] = []
    for block in blocks:
        path = _name_of(block)
        if path is None:
            if block.is_tag:
                return Unreadable('A <file> has no path. Write <file path="...">.')
            if _language_of(block.info) in convention.fence_aliases:
                unnamed.append(block)
            continue
        path = path.removeprefix("./")
        if named.get(path, block.text) != block.text:
            return Unreadable(f"{path} is given twice, differently. Give each file once.")
        named[path] = block.text
    if convention.entry_file in named:
        return [_Named(p, t) for p, t in named.items()]
    entry = _unnamed_entry(unnamed, convention, others=bool(named))
    if isinstance(entry, str):
        named[convention.entry_file] = entry
        return [_Named(p, t) for p, t in named.items()]
    if named and not unnamed:
        return Unreadable(
            f"The entry file {convention.entry_file} is missing; the reply names "
            f"{', '.join(list(named)[:MAX_FILES])}. Name the entry file {convention.entry_file}."
        )
    return entry


def _unnamed_entry(
    unnamed: Sequence[Block], convention: Convention, *, others: bool
) -> str | Unreadable:
    """The text of the one block without a name that can only be the entry file."""
    texts = list(dict.fromkeys(block.text for block in unnamed))
    entry = _COMPILED_ENTRY if convention.is_compiled else _PYTHON_ENTRY
    defining = [text for text in texts if entry.search(text)]
    if len(texts) == 1 and (defining or not others):
        return texts[0]
    if len(defining) == 1:
        return defining[0]
    how = f"Name each one, ```{convention.fence} {convention.entry_file} for the entry file."
    if not texts:
        return Unreadable(f"The reply holds no {convention.title} code block. {how}")
    if not defining:
        return Unreadable(
            f"None of the {len(texts)} code blocks without a name defines `{ENTRY_FUNCTION}`. {how}"
        )
    return Unreadable(
        f"{len(defining)} code blocks without a name define `{ENTRY_FUNCTION}`; which one is meant "
        f"cannot be told. Give one program only. {how}"
    )


def _checked(
    files: Sequence[_Named], convention: Convention
) -> tuple[SourceFile, ...] | Unreadable:
    if len(files) > MAX_FILES:
        return Unreadable(f"The reply holds {len(files)} files; at most {MAX_FILES} are read.")
    paths = {f.path for f in files}
    for file in files:
        wrong = _wrong_path(file.path)
        if wrong is not None:
            return Unreadable(f"The path {file.path[:MAX_PATH_CHARS]!r} {wrong}.")
        folders = file.path.split("/")[:-1]
        if any("/".join(folders[: i + 1]) in paths for i in range(len(folders))):
            return Unreadable(f"{file.path} lies in a folder that is also given as a file.")
        if not file.text.strip() and (not file.text or file.path == convention.entry_file):
            return Unreadable(f"{file.path} is empty. Give every file complete.")
    return tuple(SourceFile(path=f.path, content=f.text) for f in files)


def _wrong_path(path: str) -> str | None:
    if len(path) > MAX_PATH_CHARS:
        return f"is longer than {MAX_PATH_CHARS} characters"
    if path.startswith(("/", "~")) or "\\" in path or ":" in path:
        return "is not relative; use forward slashes below the program's own folder"
    parts = path.split("/")
    if ".." in parts:
        return "leaves the program's own folder"
    if not all(_PART.fullmatch(part) for part in parts):
        return "may hold letters, digits, '_', '-', '+' and '.' only"
    return None


def _name_of(block: Block) -> str | None:
    """The file that a block names: by its info string, the line before it or its first line."""
    match = _ATTRIBUTE.search(block.info[:1000])
    if match is not None:
        attribute = next((g for g in match.groups() if g is not None), "").strip()
        if block.is_tag or _is_file_name(attribute):
            return attribute
    if block.is_tag:
        return None
    for word in block.info[:1000].replace(":", " ").split():
        if _is_file_name(word.strip(_MARKUP)):
            return word.strip(_MARKUP)
    return _name_in_line_before(block.before) or _name_in_comment(block.text)


def _name_in_line_before(line: str) -> str | None:
    stripped = line.strip()
    words = [w for w in (w.strip(_MARKUP) for w in stripped[:300].split()) if w]
    names = [w for w in words if _is_file_name(w)]
    if len(names) != 1 or len(words) > MAX_NAME_WORDS:
        return None
    position = words.index(names[0])
    is_label = len(words) == 1 or (position == 1 and words[0].lower() in _FILE_WORDS)
    is_heading = stripped.startswith("#") or (
        stripped.startswith("**") and stripped.rstrip(":").endswith("**")
    )
    leads_in = stripped.endswith(":") and position == len(words) - 1
    return names[0] if is_label or is_heading or leads_in else None


def _name_in_comment(text: str) -> str | None:
    first, _, _ = text.lstrip("\n").partition("\n")
    match = _COMMENT.match(first[:300].rstrip())
    if match is None:
        return None
    words = [w for w in (w.strip(_MARKUP + "*/-=") for w in match.group(1).split()) if w]
    if len(words) == 2 and words[0].lower() in _FILE_WORDS:
        words = words[1:]
    return words[0] if len(words) == 1 and _is_file_name(words[0]) else None


def _is_file_name(word: str) -> bool:
    return len(word) > 2 and word.endswith(_SUFFIXES) and not word.startswith((".py", ".c", ".h"))


def _language_of(info: str) -> str:
    words = info[:200].replace("{", " ").replace(",", " ").split()
    return words[0].strip(".").lower() if words else ""


def _parameter_count(source: str) -> int | None:
    """Parameters of the last top-level `run`; None where that cannot be told."""
    try:
        with warnings.catch_warnings():
            # Invalid escapes in a candidate's strings are its own business.
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    functions = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == ENTRY_FUNCTION
    ]
    if not functions or functions[-1].args.vararg is not None:
        return None
    arguments = functions[-1].args
    return len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
