"""Honest Triton."""

from __future__ import annotations

from tests.adversarial.definitions import NORM
from tests.adversarial.records import Honest
from tests.adversarial.sources import TRITON_LAUNCH, triton

CASES = (
    Honest(
        "Triton tunes itself",
        "Lets triton.autotune choose among three configurations.",
        NORM,
        triton(
            launch=TRITON_LAUNCH.replace(", BLOCK=2048", ""),
            decoration="@triton.autotune(\n"
            "    [triton.Config({'BLOCK': 2048}, num_warps=n) for n in (2, 4, 8)], "
            "key=['columns']\n)\n",
        ),
        language="triton",
        passing=True,
    ),
    Honest(
        "Triton keeps its launcher",
        "Keeps the grid and the bound kernel in a dictionary by shape.",
        NORM,
        triton(
            launch="if rows not in launchers:\n"
            "        launchers[rows] = kernel[(rows,)]\n"
            "    launchers[rows](hidden_states, weight, output, columns, BLOCK=2048)"
        ).replace("def run(", "launchers = {}\n\n\ndef run("),
        language="triton",
        passing=True,
    ),
    Honest(
        "Triton with a heuristic",
        "Computes its block size from its arguments by triton.heuristics.",
        NORM,
        triton(
            launch=TRITON_LAUNCH.replace(", BLOCK=2048", ""),
            decoration="@triton.heuristics("
            "{'BLOCK': lambda args: triton.next_power_of_2(args['columns'])})\n",
        ),
        language="triton",
        passing=True,
    ),
)
