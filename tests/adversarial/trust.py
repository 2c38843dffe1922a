"""Writes the table of docs/trust.md from the corpus.

python -m tests.adversarial.trust
"""

from __future__ import annotations

from pathlib import Path

from tests.adversarial.broken import BROKEN, Broken
from tests.adversarial.cheats import CHEATS
from tests.adversarial.honest import HONEST
from tests.adversarial.records import Case, Cheat, Expectation, Honest, Labelled, Rejected

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "trust.md"
BEGIN = "<!-- made by `python -m tests.adversarial.trust`: do not edit below -->"
END = "<!-- end of what is made -->"


def tables() -> str:
    """The corpus as Markdown."""
    return "\n\n".join(
        (
            f"### {len(CHEATS)} cheats and bugs",
            _table(("Name", "Idea", "On", "Stopped by", "Ends as"), map(_cheat, CHEATS)),
            f"### {len(BROKEN)} broken candidates",
            _table(("What it does", "On", "Ends as"), map(_broken, BROKEN)),
            f"### {len(HONEST)} honest solutions",
            _table(("Name", "Idea", "On", "Label"), map(_honest, HONEST)),
        )
    )


def written() -> str:
    """The whole document with its tables made anew."""
    text = DOCUMENT.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{tables()}\n\n{END}{tail}"


def _table(head: tuple[str, ...], rows: object) -> str:
    lines = [_row(head), _row(("---",) * len(head))]
    lines += [_row(row) for row in rows]  # type: ignore[attr-defined]
    return "\n".join(lines)


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cheat(case: Cheat) -> tuple[str, ...]:
    contained = " (run in a `strict` sandbox only)" if case.contained else ""
    return (case.name, case.idea + contained, _where(case), case.stopped_by, _ends(case.ends))


def _honest(case: Honest) -> tuple[str, ...]:
    return (case.name, case.idea, _where(case), f"“{case.label}”" if case.label else "")


def _broken(case: Broken) -> tuple[str, ...]:
    contained = " (run in a `strict` sandbox only)" if case.contained else ""
    where = f"{case.language}, CUDA" if case.device == "cuda" else case.language
    return (case.name + contained, where, _outcomes(case.outcomes))


def _where(case: Case) -> str:
    only = {"cuda": ", GPU only", "cpu": ", CPU only"}
    return case.language + only.get(case.device, "")


def _ends(ends: Expectation) -> str:
    match ends:
        case Rejected(outcomes):
            return _outcomes(outcomes)
        case Labelled(words):
            return f"label “{words}”"
        case _:
            return "no credit beyond the honest time, or turned away"


def _outcomes(outcomes: frozenset[object]) -> str:
    return ", ".join(f"`{one}`" for one in sorted(map(str, outcomes)))


if __name__ == "__main__":
    DOCUMENT.write_text(written())
