"""Attention over paged, ragged and sparsely chosen keys: only what some query sees is touched.

A sequence's last query is taken to see all its keys, as FlashInfer's masks have it, so that it
alone makes them necessary; of the pairs only those of a causal mask are counted.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kernel_generator.evaluation.values.roles import SEQUENCE_ROLES, Role
from kernel_generator.evaluation.work.record import Case, NotKnown, Use, Work, work_of

if TYPE_CHECKING:
    from kernel_generator.sandbox.arena import Place

_KEYS = (Role.KEY, Role.VALUE, Role.LATENT, Role.PACKED_CACHE)
_BYTES = (Role.PACKED_CACHE, Role.EXPONENT_SCALE)
"""Integers by dtype only."""
_KNOWN_OPS = r"(gqa|mha|mqa|mla|dsa).*"
_PARTIAL = r"window|sliding|chunk_size|attention_chunk"
"""Words of references in which a query does not see all keys before it."""
_SPREAD = 2.0
"""Standard deviation of logits (of normal queries and keys) up to which no weight vanishes: two
keys then differ by less than exp(20), so no kernel may pass over a value. MLA's is 1.7."""


@dataclass(frozen=True)
class _Reach:
    """What the queries see."""

    rows: int
    """Query rows that see a key."""
    sure_rows: int
    """Those that do for certain: fewer where the fill of last pages is not told."""
    keys: int
    """Distinct keys seen."""
    sure_keys: int
    of: int
    """Keys that the key tensors hold."""
    pairs: int
    """Query and key pairs."""


def count(case: Case) -> Work:
    """Raises `NotKnown`."""
    if re.search(_PARTIAL, case.definition.reference + case.definition.name, re.IGNORECASE):
        raise NotKnown("windows limit what is seen")
    sparse = case.only(Role.TOKEN_INDICES) is not None
    reach = _sparse(case) if sparse else _sequences(case)
    query_axis = case.axes(case.places[case.call.having(Role.QUERY)[0].name])[0]
    # Where queries and keys have one axis, the role decides.
    key_axes = {case.axes(case.places[i.name])[0] for i in _key_inputs(case)} - {query_axis}
    uses: dict[str, Use] = {}
    for place in case.places.values():
        role, axes = case.role(place), case.axes(place)
        if role is Role.BLOCK_TABLE:
            # As many entries as there are pages, whoever shares them.
            entries = _table_entries(case) * place.torch_dtype.itemsize
            uses[place.name] = Use(min(place.nbytes, entries))
        elif not case.call.inputs[place.name].is_float and role not in _BYTES:
            uses[place.name] = Use(place.nbytes)
        elif role in _KEYS or key_axes & {*axes[:1]}:
            needed = role in _KEYS and (role is not Role.VALUE or _every_weight_counts(case))
            sure = reach.sure_keys if needed else 0
            uses[place.name] = Use.rows(place, reach.keys, reach.of, sure)
        elif axes[:1] == (query_axis,):
            uses[place.name] = Use.rows(place, reach.rows, place.shape[0], reach.sure_rows)
        else:
            uses[place.name] = Use(place.nbytes)
    return work_of(case, uses, certain=_certain(case), operations=_operations(case, reach.pairs))


def _key_inputs(case: Case) -> list[Place]:
    found = [case.places[i.name] for i in case.call.having(*_KEYS)]
    if not found or len({p.shape[:1] for p in found}) > 1:
        raise NotKnown("keys of one shape are not among the inputs")
    return found


def _certain(case: Case) -> bool:
    queries, keys = case.call.axis("num_qo_heads", "num_q_heads"), case.call.axis("num_kv_heads")
    unused_heads = queries is not None and keys is not None and keys > queries
    return re.fullmatch(_KNOWN_OPS, case.call.op_type) is not None and not unused_heads


def _every_weight_counts(case: Case) -> bool:
    """False where softmax may give weights so small that a kernel passes over their values."""
    queries = case.call.having(Role.QUERY)
    captured = case.call.captured & {i.name for i in case.call.having(Role.QUERY, Role.KEY)}
    scales = [
        float(p.scalar) for p in case.plan.inputs if p.scalar is not None and "scale" in p.name
    ]
    if captured or len(scales) != 1:
        return False
    depth = sum(q.shape[-1] for q in queries if q.shape)
    return abs(scales[0]) * math.sqrt(depth) <= _SPREAD


def _sparse(case: Case) -> _Reach:
    """Each query row names the tokens of the cache that it sees."""
    if case.call.having(*SEQUENCE_ROLES):
        raise NotKnown("chosen tokens beside page tables")
    chosen = case.index(Role.TOKEN_INDICES)
    assert chosen is not None
    of = _key_inputs(case)[0].shape[0] * case.call.page_size
    valid = (chosen >= 0) & (chosen < of)
    keys = int(chosen[valid].unique().numel())
    seen = valid.sum(dim=1)
    enough = seen > _decided_unseen(case)
    sure = int(chosen[valid & enough[:, None]].unique().numel())
    return _Reach(int((seen > 0).sum()), int(enough.sum()), keys, sure, of, int(seen.sum()))


def _sequences(case: Case) -> _Reach:
    size = case.call.page_size
    queries = _lengths(case, Role.Q_INDPTR)
    entries = _lengths(case, Role.KV_INDPTR)
    ids, table = case.index(Role.PAGE_IDS), case.index(Role.BLOCK_TABLE)
    last, lengths = case.index(Role.LAST_PAGE_LEN), case.index(Role.SEQ_LENS)
    if ids is None and table is None:
        return _ragged(case, queries, entries if lengths is None else None)
    if (ids is None) == (table is None):
        raise NotKnown("two page tables")
    described = (queries, entries, last, lengths, table)
    if len({len(x) for x in described if x is not None}) != 1:
        raise NotKnown("inputs are of different numbers of sequences")
    if table is not None:
        if lengths is None:
            raise NotKnown("lengths are not told")
        entries = (-(-lengths // size)).clamp(0, table.shape[1])
        pages = table[torch.arange(table.shape[1]) < entries[:, None]]
    else:
        if entries is None or ids is None or int(entries.sum()) > len(ids):
            raise NotKnown("page lists do not end at their number")
        pages = ids[: int(entries.sum())]
    room = entries * size
    if lengths is not None:
        full = lengths.clamp(min=0).minimum(room)
    elif last is not None:
        full = torch.where(entries > 0, room - size + last.clamp(1, size), 0)
    else:
        full = room
    told = lengths is not None or last is not None
    least = full if told else torch.where(entries > 0, room - size + 1, 0)
    least = torch.where(least > _decided_unseen(case), least, 0)
    if queries is None:
        queries = torch.ones_like(full)
    seen = (queries > 0) & (full > _taken_unseen(case))
    first = _key_inputs(case)[0].shape[0]
    keys, sure = (
        _distinct_tokens(pages, entries, torch.where(seen, n, 0), size, first)
        for n in (full, least)
    )
    queries = torch.where(seen, queries, 0)
    rows, pairs = _rows_and_pairs(queries, full)
    return _Reach(rows, _sure_rows(case, queries, least), keys, sure, first * size, pairs)


def _ragged(case: Case, queries: torch.Tensor | None, keys: torch.Tensor | None) -> _Reach:
    """Keys lie in one tensor, sequence after sequence."""
    if queries is None or (case.call.having(Role.SEQ_LENS, Role.LAST_PAGE_LEN)):
        raise NotKnown("keys without a page table whose offsets are not told")
    of = _key_inputs(case)[0].shape[0]
    keys = queries if keys is None else keys
    if len(queries) != len(keys) or int(keys.sum()) > of:
        raise NotKnown("offsets do not fit the keys")
    keys = torch.where(queries > 0, keys, 0)
    rows, pairs = _rows_and_pairs(queries, keys)
    sure = torch.where(keys > _decided_unseen(case), keys, 0)
    return _Reach(
        rows, _sure_rows(case, queries, sure), int(keys.sum()), int(sure.sum()), of, pairs
    )


def _decided_unseen(case: Case) -> int:
    """A query that sees a single key has a weight of 1, whatever both are; only an output of the
    log-sum-exp needs them."""
    return 1 if len(case.plan.outputs) == 1 else 0


def _sure_rows(case: Case, queries: torch.Tensor, keys: torch.Tensor) -> int:
    return int(queries.minimum(keys - _decided_unseen(case)).clamp(min=0).sum())


def _rows_and_pairs(queries: torch.Tensor, keys: torch.Tensor) -> tuple[int, int]:
    """Queries that see a key, and pairs, under a causal mask that ends at both last ones.

    Of q queries the last min(q, k) see k, k - 1, ... keys.
    """
    rows = queries.minimum(keys)
    return int(rows.sum()), int((rows * keys - rows * (rows - 1) // 2).sum())


def _lengths(case: Case, role: Role) -> torch.Tensor | None:
    offsets = case.index(role)
    if offsets is None:
        return None
    lengths = offsets.diff()
    if len(offsets) == 0 or int(offsets[0]) != 0 or bool((lengths < 0).any()):
        raise NotKnown("offsets do not begin at 0 and rise")
    return lengths


def _distinct_tokens(
    pages: torch.Tensor, entries: torch.Tensor, lengths: torch.Tensor, size: int, available: int
) -> int:
    """Tokens of the cache that sequences of these lengths occupy, a shared page counted once.

    `pages`: ids of all sequences in order, `entries` of them for each.
    """
    if bool(((pages < 0) | (pages >= available)).any()):
        raise NotKnown("page ids beyond the cache")
    first = entries.cumsum(0) - entries
    place = torch.arange(len(pages)) - first.repeat_interleave(entries)
    filled = (lengths.repeat_interleave(entries) - place * size).clamp(0, size)
    used = torch.zeros(available, dtype=torch.int64)
    return int(used.scatter_reduce_(0, pages, filled, "amax").sum())


def _table_entries(case: Case) -> int:
    lengths = case.index(Role.SEQ_LENS)
    assert lengths is not None
    return int((-(-lengths.clamp(min=0) // case.call.page_size)).sum())


def _taken_unseen(case: Case) -> int:
    """Up to this many keys a sequence's are all chosen without a look at them: the output names
    the best tokens, and there is room for all."""
    first = case.plan.outputs[0]
    return first.shape[-1] if case.call.chooses and len(first.shape) == 2 else 0


def _operations(case: Case, pairs: int) -> int | None:
    """Both products, for queries [rows, heads, depth]; only the first where the output is not of
    floats."""
    queries = [case.places[i.name].shape for i in case.call.having(Role.QUERY)]
    if any(len(s) != 3 for s in queries) or len({s[:2] for s in queries}) > 1:
        return None
    heads, deep = queries[0][1], sum(s[2] for s in queries)
    output = case.plan.outputs[0]
    wide = output.shape[-1] if output.torch_dtype.is_floating_point and output.shape else 0
    return 2 * pairs * heads * (deep + wide)
