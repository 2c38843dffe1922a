"""Small synthetic workloads at the edges: one row, odd sizes around powers of two, empty and
single-page sequences, one sequence that has nearly everything, experts without a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashinfer_bench import Workload
from flashinfer_bench.data import RandomInput, SafetensorsInput, ScalarInput

from kernel_generator.evaluation.values.call import EDGE, Call
from kernel_generator.evaluation.values.constraints import satisfied
from kernel_generator.evaluation.values.record import Profile
from kernel_generator.evaluation.values.roles import Role
from kernel_generator.evaluation.values.sequences import describes_sequences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashinfer_bench import Definition


@dataclass(frozen=True)
class _Edge:
    size: int
    """Of the axis that varies most: rows, tokens, or sequences of one token."""
    sequences: int
    """Where a sequence has several tokens."""
    profile: Profile


_EDGES = (
    _Edge(1, 1, Profile.SINGLE),
    _Edge(2, 2, Profile.RANDOM),
    _Edge(7, 4, Profile.EMPTY),
    _Edge(37, 4, Profile.SKEWED),
    _Edge(127, 5, Profile.RANDOM),
    _Edge(129, 1, Profile.EVEN),
)
_TABLE_ROWS = 300
_TABLE_PAGES = 3
_SECOND = 2
"""Extent of a second free axis: references loop over both in Python."""
_POOL_AXES = ("state_cache_size", "pool_size", "num_slots", "cache_size")
_BATCH_AXES = ("batch_size", "num_seqs", "num_sequences")
_HEADS = {"num_qo_heads": 8, "num_q_heads": 8, "num_kv_heads": 2, "num_heads": 8}


SIZES = tuple(edge.size for edge in _EDGES)


def edge_workloads(
    definition: Definition, workloads: Sequence[Workload], further: int | None = None
) -> tuple[Workload, ...]:
    """At most six, and one of the size `further`. Scalars are those of the first of `workloads`;
    every tensor is to be drawn.

    None where the definition has no variable axis, where the meaning of captured integers is not
    known (no other extents could be given them), or where its constraints cannot be met.
    """
    base = workloads[0] if workloads else None
    if not definition.var_axes or _has_unknown_integers(definition, workloads):
        return ()
    inputs: dict[str, RandomInput | SafetensorsInput | ScalarInput] = {
        name: described
        if base is not None and isinstance(described := base.inputs.get(name), ScalarInput)
        else RandomInput()
        for name in definition.inputs
    }
    made: dict[tuple[int, ...], Workload] = {}
    edges = _EDGES if further is None else (*_EDGES, _Edge(further, 3, Profile.RANDOM))
    for number, edge in enumerate(edges):
        axes = _axes(definition, base, edge, swapped=number % 2 == 1)
        if axes is not None:
            chosen = {name: axes[name] for name in definition.var_axes}
            uuid = f"{EDGE}-{edge.profile}-{edge.size}"
            key = tuple(chosen.values())
            made.setdefault(key, Workload(axes=chosen, inputs=inputs, uuid=uuid))
    return tuple(made.values())


def _has_unknown_integers(definition: Definition, workloads: Sequence[Workload]) -> bool:
    call = Call.sketch(definition, dict.fromkeys(definition.var_axes, 1))
    unknown = [i.name for i in call.having(Role.INTEGER)]
    if not workloads:
        return bool(unknown)
    return any(isinstance(w.inputs.get(n), SafetensorsInput) for w in workloads for n in unknown)


def _axes(
    definition: Definition, base: Workload | None, edge: _Edge, swapped: bool
) -> dict[str, int] | None:
    """Extents of all axes; None where the constraints cannot be met."""
    call = Call.sketch(definition, dict.fromkeys(definition.var_axes, 1))
    variable = list(definition.var_axes)
    chosen = _structural(call, edge)
    for name in variable:
        if "head" in name and name not in chosen:
            chosen[name] = base.axes[name] if base is not None else _HEADS.get(name, 2)
    free = [name for name in variable if name not in chosen and name not in _POOL_AXES]
    # With two free axes, each in turn has the size of the edge.
    first = min(len(free) - 1, 1) if swapped else 0
    for number, name in enumerate(free):
        chosen[name] = edge.size if number == first else min(_SECOND, edge.size)
    for name in variable:
        if name in _POOL_AXES:
            chosen[name] = max((chosen[n] for n in free), default=1) + 3
    axes = {**definition.const_axes, **{n: v for n, v in chosen.items() if n in variable}}
    return satisfied(axes, variable, list(definition.constraints or ()))


def _structural(call: Call, edge: _Edge) -> dict[str, int]:
    """Extents that sequences, page tables and lookup tables need."""
    chosen: dict[str, int] = {}
    table = call.first(Role.ROPE_TABLE)
    if table is not None:
        chosen[table.axes[0]] = _TABLE_ROWS
    sparse = call.first(Role.TOKEN_INDICES)
    if sparse is not None and sparse.shape:
        # Fewer tokens than are chosen, then a few pages more.
        enough = -(-sparse.shape[1] // call.page_size)
        chosen["num_pages"] = 1 if edge.size == 1 else enough + 3
    if describes_sequences(call):
        chosen.update(_batch(call, edge))
    return chosen


def _batch(call: Call, edge: _Edge) -> dict[str, int]:
    queries, keys = call.first(Role.Q_INDPTR), call.first(Role.KV_INDPTR)
    ids, table = call.first(Role.PAGE_IDS), call.first(Role.BLOCK_TABLE)
    count = edge.size if queries is None else edge.sequences
    chosen: dict[str, int] = {n: count for n in _BATCH_AXES if n in call.axes}
    for one in call.having(Role.Q_INDPTR, Role.KV_INDPTR):
        chosen[one.axes[0]] = count + 1
    for one in call.having(Role.LAST_PAGE_LEN, Role.SEQ_LENS, Role.BLOCK_TABLE):
        chosen[one.axes[0]] = count
    tokens = edge.size if queries is not None else count
    if queries is not None:
        chosen[call.ends_at.get(queries.name) or _rows_axis(call)] = tokens
    alone = edge.profile is Profile.SINGLE
    if ids is not None:
        pages = count if queries is None else -(-tokens // call.page_size) + count
        chosen[ids.axes[0]] = count if alone else 2 * pages
        chosen["num_pages"] = chosen[ids.axes[0]] + 3
    elif keys is not None:
        total = call.ends_at.get(keys.name) or _rows_axis(call, keys=True)
        chosen.setdefault(total, tokens if alone else 2 * tokens + 3)
    if table is not None:
        chosen[table.axes[1]] = 1 if alone else _TABLE_PAGES
        chosen["num_pages"] = count * chosen[table.axes[1]] + 3
    return chosen


def _rows_axis(call: Call, *, keys: bool = False) -> str:
    """The first axis of what offsets point into, where no constraint names it."""
    wanted = (Role.KEY, Role.UNIT_KEY, Role.LATENT) if keys else (Role.QUERY, Role.ACTIVATION)
    found = call.having(*wanted) or [i for i in call.inputs.values() if i.is_float and i.axes]
    return found[0].axes[0]
