"""Turns a brief and a proposal into messages: one template per language and purpose.

Deterministic: the same records give the same text. What a model or a data set wrote is only ever
a template's value, never a template.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kernel_generator.domain.conversation import Message, Role
from kernel_generator.domain.errors import UnknownName
from kernel_generator.domain.outcome import Outcome
from kernel_generator.domain.proposal import Purpose
from kernel_generator.prompts import facts
from kernel_generator.prompts.conventions import CONVENTIONS, rules, signature
from kernel_generator.prompts.feedback import feedback

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_generator.domain.attempt import Attempt
    from kernel_generator.domain.proposal import Proposal
    from kernel_generator.domain.task import Brief

MAX_REPLY_EXCERPT = 4_000
"""Characters of an unreadable reply that are shown to its author again."""

_TEMPLATES = Path(__file__).parent / "templates"

_FENCE_BY_SUFFIX = {".py": "python", ".cu": "cuda", ".cuh": "cuda"}


@dataclass(frozen=True)
class _File:
    """A source file of the parent, with the language its fence names."""

    path: str
    content: str
    language: str


def render(
    brief: Brief, proposal: Proposal, history: Sequence[Attempt] = ()
) -> tuple[Message, ...]:
    """The system and the user message that ask for what `proposal` wants.

    `proposal.parent` indexes `history`. Raises `ValueError` where a repair or an improvement names
    no parent, `UnknownName` for a language that has no templates.
    """
    language = brief.language
    if language not in CONVENTIONS:
        raise UnknownName("language", language, list(CONVENTIONS))
    parent = _parent(proposal, history)
    convention = CONVENTIONS[language]
    definition = brief.definition
    values: dict[str, object] = {
        "definition": definition,
        "language_name": convention.title,
        "target": brief.target,
        "axes": facts.axis_rows(definition),
        "inputs": facts.tensor_rows(definition, language, inputs=True),
        "outputs": facts.tensor_rows(definition, language, inputs=False),
        "workloads": facts.workload_rows(brief),
        "held_out": brief.held_out,
        "target_lines": facts.target_lines(brief.target, brief.toolchain),
        "arch": brief.target.architecture.replace(".", ""),
        "versions": facts.versions(brief.toolchain),
        "machine_note": facts.machine_note(brief),
        "entry_file": convention.entry_file,
        "fence_language": convention.fence,
        "signature": signature(definition, language),
        "convention": rules(definition, language),
        "tolerances": facts.tolerances(definition),
        "sampling": facts.is_sampling(definition),
        "earlier": facts.earlier_outcomes(history),
        "fence_example": fenced("(the whole file)", f"{convention.fence} {convention.entry_file}"),
        "parent_files": _files(parent),
        "parent_reply": _reply_excerpt(parent),
        "parent_feedback": feedback(parent, brief) if parent is not None else "",
    }
    user = _environment().get_template(f"{language}/{proposal.purpose.value}.j2").render(values)
    system = _environment().get_template("shared/system.j2").render(values)
    return (
        Message(Role.SYSTEM, system.strip()),
        Message(Role.USER, _spaced(user)),
    )


def fenced(content: str, info: str = "") -> str:
    """`content` in a fence that is longer than any run of backticks inside it."""
    longest = run = 0
    for character in content:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{info}\n{content.rstrip()}\n{fence}"


@cache
def _environment() -> Environment:
    # Prompts are no HTML: escaping would change the code that is quoted in them.
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["fenced"] = fenced
    return environment


def _parent(proposal: Proposal, history: Sequence[Attempt]) -> Attempt | None:
    if proposal.purpose is Purpose.DRAFT:
        return None
    if proposal.parent is None or not 0 <= proposal.parent < len(history):
        raise ValueError(f"a proposal to {proposal.purpose.value} has to name its parent")
    return history[proposal.parent]


def _files(parent: Attempt | None) -> tuple[_File, ...]:
    if parent is None or parent.candidate is None:
        return ()
    return tuple(
        _File(s.path, s.content, _FENCE_BY_SUFFIX.get(Path(s.path).suffix, "cpp"))
        for s in parent.candidate.solution.sources
    )


def _reply_excerpt(parent: Attempt | None) -> str:
    """What could not be read, so that its author sees what to change; cut replies are left out."""
    if parent is None or parent.reply is None or parent.candidate is not None:
        return ""
    text = parent.reply.text
    if parent.outcome is not Outcome.MALFORMED_REPLY or len(text) <= MAX_REPLY_EXCERPT:
        return text if parent.outcome is Outcome.MALFORMED_REPLY else ""
    half = MAX_REPLY_EXCERPT // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def _spaced(text: str) -> str:
    """One blank line before each heading and no two in a row, outside of fenced code."""
    kept: list[str] = []
    fence = ""
    for line in text.strip().split("\n"):
        if fence:
            if line.strip() == fence:
                fence = ""
        elif line.startswith("```"):
            fence = line[: len(line) - len(line.lstrip("`"))]
        elif not line.strip() and kept and not kept[-1].strip():
            continue
        elif line.startswith("# ") and kept and kept[-1].strip():
            kept.append("")
        kept.append(line)
    return "\n".join(kept) + "\n"
