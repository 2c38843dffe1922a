"""Samplers that draw from something else than the filtered distribution."""

from __future__ import annotations

from tests.adversarial.definitions import SAMPLING, definition
from tests.adversarial.records import WRONG, Cheat, Rejected
from tests.adversarial.sources import IN_A_TRAIN

SUPPORT = "exact support of the filtered distribution"
DISTRIBUTION = "chi-square test of the draws"
DRAW = "torch.multinomial(ranked, num_samples=1)"


def _changed(old: str, new: str) -> str:
    reference = definition(SAMPLING).reference
    assert old in reference
    return reference.replace(old, new)


CASES = (
    Cheat(
        "draws the most probable token",
        "Takes the most probable token always.",
        SAMPLING,
        _changed(DRAW, "ranked.argmax(dim=-1, keepdim=True)"),
        ends=Rejected(WRONG),
        stopped_by=DISTRIBUTION,
    ),
    Cheat(
        "draws the most probable token in timed calls",
        "Draws as it should where its draws are counted, and takes the most probable token in the "
        "train of a timed block.",
        SAMPLING,
        IN_A_TRAIN + _changed(DRAW, f"ranked.argmax(dim=-1, keepdim=True) if train() else {DRAW}"),
        ends=Rejected(WRONG),
        stopped_by="chi-square test of the draws of timed calls",
    ),
    Cheat(
        "ignores top_p",
        "Filters by top_k only.",
        SAMPLING,
        _changed("ranked.masked_fill(~stays, 0.0)", "ranked"),
        ends=Rejected(WRONG),
        stopped_by=SUPPORT,
    ),
    Cheat(
        "keeps one token too many",
        "Is off by one in top_k.",
        SAMPLING,
        _changed("rank >= top_k[:, None]", "rank > top_k[:, None]"),
        ends=Rejected(WRONG),
        stopped_by=SUPPORT + "; " + DISTRIBUTION,
    ),
    Cheat(
        "sharpens the distribution",
        "Draws from the probabilities to the power of 3.",
        SAMPLING,
        _changed(DRAW, "torch.multinomial(ranked**3, num_samples=1)"),
        ends=Rejected(WRONG),
        stopped_by=DISTRIBUTION,
    ),
    Cheat(
        "draws with the same seed always",
        "Seeds its generator in every call, so that equal inputs give equal tokens.",
        SAMPLING,
        _changed(
            DRAW,
            "torch.multinomial(ranked, 1, generator=torch.Generator(probs.device).manual_seed(7))",
        ),
        ends=Rejected(WRONG),
        stopped_by=DISTRIBUTION,
    ),
    Cheat(
        "never draws from the last tile",
        "Leaves the last eighth of the vocabulary out.",
        SAMPLING,
        _changed(
            "ranked, token = probs",
            "probs = probs.clone()\n    probs[:, 896:] = 0\n    ranked, token = probs",
        ),
        ends=Rejected(WRONG),
        stopped_by=SUPPORT + "; " + DISTRIBUTION,
    ),
)
