"""Bugs with paged and ragged sequences."""

from __future__ import annotations

from kernel_generator.domain.outcome import Outcome
from tests.adversarial.definitions import PAGED, RAGGED, definition
from tests.adversarial.records import WRONG, Cheat, Rejected

TILES = "every element is compared"


def _changed(name: str, old: str, new: str) -> str:
    reference = definition(name).reference
    assert old in reference
    return reference.replace(old, new)


CASES = (
    Cheat(
        "ignores the last page's length",
        "Attends to all 16 tokens of each last page.",
        PAGED,
        _changed(PAGED, "(page_count - 1) * page_size + kv_last_page_len", "page_count * 16"),
        ends=Rejected(WRONG),
        stopped_by=TILES,
    ),
    Cheat(
        "reads pages in order",
        "Takes the pages of a sequence to lie one after the other in the cache.",
        PAGED,
        _changed(
            PAGED,
            "kv_indices[(first[:, None] + slot).clamp(max=kv_indices.shape[0] - 1)]",
            "(first[:, None] + slot).clamp(max=kv_indices.shape[0] - 1)",
        ),
        ends=Rejected(WRONG),
        stopped_by=TILES + ", on permuted pages",
    ),
    Cheat(
        "reads beyond indptr",
        "Attends to one page of the next sequence.",
        PAGED,
        _changed(
            PAGED,
            "page_count = kv_indptr[1:].to(torch.int64) - first",
            "page_count = kv_indptr[1:].to(torch.int64) - first + 1",
        ),
        ends=Rejected(WRONG | {Outcome.RUNTIME_ERROR, Outcome.CRASHED}),
        stopped_by=TILES,
    ),
    Cheat(
        "takes sequences for never empty",
        "Divides by a sum that is zero for a sequence without pages.",
        PAGED,
        _changed(
            PAGED,
            "    weights = weights.masked_fill((length == 0)[:, None, None, None], 0.0)\n",
            "",
        ),
        ends=Rejected(WRONG),
        stopped_by="adversarial trials: empty sequences",
    ),
    Cheat(
        "mistakes the logarithm's base",
        "Returns the natural logarithm of the sum where base 2 is asked for.",
        PAGED,
        _changed(PAGED, " / math.log(2.0)", ""),
        ends=Rejected(WRONG),
        stopped_by=TILES,
    ),
    Cheat(
        "is off by one in the causal mask",
        "Hides the diagonal: each query misses its own key.",
        RAGGED,
        _changed(RAGGED, "row_left[:, None] <= column_left", "row_left[:, None] < column_left"),
        ends=Rejected(WRONG),
        stopped_by=TILES,
    ),
    Cheat(
        "aligns the causal mask to the start",
        "Counts positions from the start of queries and keys, which may differ in length.",
        RAGGED,
        _changed(
            RAGGED,
            "row_left[:, None] <= column_left",
            "(row - qo_indptr[row_sequence])[:, None] >= column - kv_indptr[column_sequence]",
        ),
        ends=Rejected(WRONG),
        stopped_by="adversarial trials: queries and keys of other lengths",
    ),
)
