"""`kernel-generator list`."""

from __future__ import annotations

from typing import Any

from kernel_generator.cli.console import print_json, to_people, warn_of
from kernel_generator.cli.options import JsonOption, TraceSetArgument


def list_traceset(traceset: TraceSetArgument, as_json: JsonOption = False) -> None:
    """List a trace set's definitions and what is wrong in it."""
    from kernel_generator.reporting.tables import contents_table
    from kernel_generator.runs.tracesets import load_traceset

    loaded, problems = load_traceset(traceset)
    warn_of(problems)
    if not as_json:
        to_people().print(contents_table(loaded))
        return
    definitions: list[dict[str, Any]] = [
        {
            "name": name,
            "op_type": definition.op_type,
            "workloads": len(loaded.workloads.get(name, [])),
            "solutions": [s.name for s in loaded.solutions.get(name, [])],
            "traces": len(loaded.traces.get(name, [])),
        }
        for name, definition in sorted(loaded.definitions.items())
    ]
    print_json({"definitions": definitions, "problems": [str(p) for p in problems]})
