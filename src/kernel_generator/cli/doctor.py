"""`kernel-generator doctor`."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from kernel_generator.cli.console import print_json, to_people
from kernel_generator.cli.options import JsonOption


def doctor(as_json: JsonOption = False) -> None:
    """Tell what works on this machine and what to do about the rest."""
    from kernel_generator.runs.doctor import diagnose

    checks = diagnose()
    if as_json:
        print_json(
            {
                "checks": [
                    {
                        "name": c.name,
                        "status": c.status.value,
                        "detail": c.detail,
                        "advice": c.advice,
                    }
                    for c in checks
                ]
            }
        )
        return
    table = Table(show_lines=False)
    for name in ("what", "status", "found", "what to do"):
        table.add_column(name, overflow="fold")
    for check in checks:
        table.add_row(
            escape(check.name), check.status.value, escape(check.detail), escape(check.advice)
        )
    to_people().print(table)
