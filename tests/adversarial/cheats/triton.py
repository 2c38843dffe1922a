"""Cheats and bugs in Triton; without a GPU its interpreter judges them."""

from __future__ import annotations

from kernel_generator.domain.outcome import Outcome
from tests.adversarial.definitions import NORM
from tests.adversarial.records import WRONG, Cheat, Labelled, Rejected
from tests.adversarial.sources import TRITON_LAUNCH, triton

TILES = "every element is compared"

CASES = (
    Cheat(
        "Triton leaves out the last row",
        "Launches one program too few.",
        NORM,
        triton(launch=TRITON_LAUNCH.replace("(rows,)", "(rows - 1,)")),
        language="triton",
        passing=True,
        ends=Rejected(WRONG),
        stopped_by=TILES,
    ),
    Cheat(
        "Triton launches one program too many",
        "Writes a row past the end of its output.",
        NORM,
        triton(launch=TRITON_LAUNCH.replace("(rows,)", "(rows + 1,)")),
        language="triton",
        passing=True,
        ends=Rejected(frozenset({Outcome.OUT_OF_BOUNDS, Outcome.CRASHED})),
        stopped_by="guard zones around every tensor",
    ),
    Cheat(
        "Triton rounds to seven bits",
        "Cuts the result to three bits of mantissa, as fp8 has.",
        NORM,
        triton(
            body="v = ((v.to(tl.int32, bitcast=True) + 0x80000) & -0x100000)"
            ".to(tl.float32, bitcast=True)"
        ),
        language="triton",
        passing=True,
        ends=Rejected(WRONG),
        stopped_by="tolerances reject a format below the inputs'",
    ),
    Cheat(
        "Triton skips rows it has seen",
        "Keeps the outputs of launches in a dictionary by address.",
        NORM,
        triton(
            launch="at = hidden_states.data_ptr()\n"
            "    if at not in kept:\n"
            f"        {TRITON_LAUNCH}\n"
            "        kept[at] = output.clone()\n"
            "    output.copy_(kept[at])"
        ).replace("def run(", "kept = {}\n\n\ndef run("),
        language="triton",
        passing=True,
        ends=Rejected(WRONG),
        stopped_by="several trials, each with values that were not there before",
    ),
    Cheat(
        "Triton in name only",
        "Defines a Triton kernel, never launches it, and calls torch.",
        NORM,
        triton(
            launch="output.copy_(torch.nn.functional.rms_norm("
            "hidden_states.float(), (columns,), weight.float(), 1e-6))"
        ),
        language="triton",
        passing=True,
        ends=Labelled("torch"),
        stopped_by="static reading of the source",
    ),
)
