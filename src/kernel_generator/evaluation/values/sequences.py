"""The description of a batch of sequences: offsets, page tables, lengths.

Made together, since each constrains the others: offsets end at the totals that the axes declare,
every page id is one of the cache, a last page holds 1 to `page_size` tokens, and a sequence has at
least as many keys as queries wherever the axes allow it. A batch is made on the CPU, where one
decision follows from another, and permuted wherever it lies without waiting for the device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from kernel_generator.evaluation.values.noise import integers, one_of
from kernel_generator.evaluation.values.record import Profile
from kernel_generator.evaluation.values.roles import SEQUENCE_ROLES, Input, Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kernel_generator.evaluation.values.call import Call


@dataclass(frozen=True)
class Batch:
    """Sequences, int64 [count] each; None for what the call does not tell."""

    queries: torch.Tensor | None
    entries: torch.Tensor | None
    """Pages of each sequence where there is a page list, else its keys."""
    pages: torch.Tensor | None
    """Page ids of all sequences in order, [sum of entries]."""
    last_page: torch.Tensor | None
    lengths: torch.Tensor | None
    """Keys of each sequence."""
    table: torch.Tensor | None
    """Page ids, [count, most pages]."""
    complete: bool
    """True where `pages` are those of the sequences, and nothing else."""

    def on(self, device: torch.device) -> Batch:
        """The same on a device."""

        def moved(x: torch.Tensor | None) -> torch.Tensor | None:
            return None if x is None else x.to(device, non_blocking=True)

        return Batch(
            moved(self.queries),
            moved(self.entries),
            moved(self.pages),
            moved(self.last_page),
            moved(self.lengths),
            moved(self.table),
            self.complete,
        )


def describes_sequences(call: Call) -> bool:
    """True where a batch of ragged or paged sequences is among the inputs."""
    return bool(call.having(*SEQUENCE_ROLES))


def make(call: Call, known: Mapping[str, torch.Tensor], generator: torch.Generator) -> Batch:
    """A batch that fits the call's axes and agrees with the `known` (captured) inputs; all of it
    on the CPU."""
    count = _count(call)
    known_queries = _lengths_of(call.first(Role.Q_INDPTR), known)
    known_entries = _lengths_of(call.first(Role.KV_INDPTR), known)
    known_lengths = _known(call.first(Role.SEQ_LENS), known)
    total_queries, total_entries = _totals(call)
    ids, table = call.first(Role.PAGE_IDS), call.first(Role.BLOCK_TABLE)
    size = call.page_size if ids is not None or table is not None else 1

    entries, queries = known_entries, known_queries
    if queries is None and total_queries is not None:
        room = None if entries is None else entries * size
        queries = _shares(total_queries, count, call.profile, generator, most=room)
    if entries is None and total_entries is not None:
        needed = None if queries is None else -(-queries // size)
        if needed is not None and int(needed.sum()) > total_entries:
            # More queries than keys: nothing to keep to, unless the queries are still free.
            needed = None
        entries = _shares(total_entries, count, call.profile, generator, least=needed)
        if known_queries is None and needed is None and total_queries is not None:
            queries = _shares(total_queries, count, call.profile, generator, most=entries * size)

    last = _known(call.first(Role.LAST_PAGE_LEN), known)
    if last is None and entries is not None and call.having(Role.LAST_PAGE_LEN):
        tokens = torch.zeros_like(entries) if queries is None else queries
        least = (tokens - (entries - 1) * size).clamp(1, size)
        last = _between(least, torch.full_like(least, size), generator)

    lengths = known_lengths
    if lengths is None and call.having(Role.SEQ_LENS):
        lengths, last = _key_lengths(call, count, queries, entries, last, generator)

    pages = _known(ids, known)
    if ids is not None and pages is None:
        pages = _pages(int(ids.shape[0]) if ids.shape else 0, call.num_pages, generator)
    rows = _known(table, known)
    if table is not None and rows is None and table.shape:
        rows = _pages(table.shape[0] * table.shape[1], call.num_pages, generator)
        rows = rows.view(table.shape)
    return Batch(queries, entries, pages, last, lengths, rows, _is_complete(entries, pages))


def write(call: Call, batch: Batch) -> dict[str, torch.Tensor]:
    """The inputs that describe `batch`, by name, in memory of their own."""
    columns = {
        Role.Q_INDPTR: None if batch.queries is None else _indptr(batch.queries),
        Role.KV_INDPTR: None if batch.entries is None else _indptr(batch.entries),
        Role.PAGE_IDS: batch.pages,
        Role.LAST_PAGE_LEN: batch.last_page,
        Role.SEQ_LENS: batch.lengths,
        Role.BLOCK_TABLE: batch.table,
    }
    made: dict[str, torch.Tensor] = {}
    for one in call.having(*SEQUENCE_ROLES):
        value = columns[call.roles[one.name]]
        if value is not None and tuple(value.shape) == one.shape:
            made[one.name] = value.to(one.dtype, copy=True)
    return made


def permuted(batch: Batch, page_map: torch.Tensor | None, generator: torch.Generator) -> Batch:
    """The same sequences in another order, on other pages. `page_map`: int64 [pages].

    All of them, and `generator`, are of one device.
    """
    count = next(
        (len(x) for x in (batch.entries, batch.queries, batch.lengths) if x is not None), 0
    )
    order = torch.randperm(count, generator=generator, device=generator.device)
    pages = batch.pages
    if pages is not None:
        if batch.complete and batch.entries is not None:
            pages = pages[_segments(batch.entries, order, len(pages))]
        pages = _moved(pages, page_map)

    def shuffled(x: torch.Tensor | None) -> torch.Tensor | None:
        return x[order] if x is not None and len(x) == count else x

    table = shuffled(batch.table)
    return replace(
        batch,
        queries=shuffled(batch.queries),
        entries=shuffled(batch.entries),
        pages=pages,
        last_page=shuffled(batch.last_page),
        lengths=shuffled(batch.lengths),
        table=None if table is None else _moved(table, page_map),
    )


def _segments(lengths: torch.Tensor, order: torch.Tensor, total: int) -> torch.Tensor:
    """Where each element comes from, [total], when segments of these lengths are put in order."""
    ordered = lengths[order]
    before = lengths.cumsum(0) - lengths
    after = ordered.cumsum(0) - ordered
    # Without the total, a device would be waited for to tell it.
    shift = (before[order] - after).repeat_interleave(ordered, output_size=total)
    return torch.arange(total, device=shift.device).add_(shift)


def _is_complete(entries: torch.Tensor | None, pages: torch.Tensor | None) -> bool:
    if entries is None or pages is None:
        return False
    # Captured offsets may be anything, and what permutes by them does not look again.
    return bool((entries >= 0).all()) and int(entries.sum()) == len(pages)


def _moved(pages: torch.Tensor, page_map: torch.Tensor | None) -> torch.Tensor:
    """Padding (negative, or beyond the cache) stays as it is."""
    if page_map is None:
        return pages
    inside = (pages >= 0) & (pages < len(page_map))
    return torch.where(inside, page_map[pages.clamp(0, max(0, len(page_map) - 1))], pages)


def _count(call: Call) -> int:
    for one in call.having(*SEQUENCE_ROLES):
        rows = one.shape[0] if one.shape else 0
        if call.roles[one.name] in (Role.Q_INDPTR, Role.KV_INDPTR):
            return max(0, rows - 1)
        if call.roles[one.name] is not Role.PAGE_IDS:
            return rows
    return 0


def _totals(call: Call) -> tuple[int | None, int | None]:
    """What the offsets of queries and of keys (or pages) end at."""
    totals: list[int | None] = []
    for role in (Role.Q_INDPTR, Role.KV_INDPTR):
        one = call.first(role)
        axis = call.ends_at.get(one.name) if one is not None else None
        if one is None:
            totals.append(None)
        elif axis is not None and axis in call.axes:
            totals.append(call.axes[axis])
        else:
            totals.append(_rows(call, role))
    return totals[0], totals[1]


def _rows(call: Call, role: Role) -> int:
    """Without a constraint to say so: the rows of what the offsets point into."""
    ids = call.first(Role.PAGE_IDS)
    if role is Role.KV_INDPTR and ids is not None and ids.shape:
        return ids.shape[0]
    wanted = (Role.KEY, Role.UNIT_KEY, Role.LATENT) if role is Role.KV_INDPTR else (Role.QUERY,)
    found = call.having(*wanted) or [i for i in call.inputs.values() if i.is_float and i.shape]
    return max((i.shape[0] for i in found[:1] if i.shape), default=0)


def _known(one: Input | None, known: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    if one is None or one.name not in known:
        return None
    return known[one.name].to(torch.int64, copy=True)


def _lengths_of(one: Input | None, known: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    offsets = _known(one, known)
    return None if offsets is None else offsets.diff()


def _indptr(lengths: torch.Tensor) -> torch.Tensor:
    made = lengths.new_zeros(len(lengths) + 1)
    torch.cumsum(lengths, 0, out=made[1:])
    return made


def _pages(wanted: int, available: int, generator: torch.Generator) -> torch.Tensor:
    """Distinct page ids while there are enough, else shared ones (as common prefixes are)."""
    if wanted <= available:
        return torch.randperm(available, generator=generator)[:wanted]
    return integers(0, available, (wanted,), generator)


def _key_lengths(
    call: Call,
    count: int,
    queries: torch.Tensor | None,
    entries: torch.Tensor | None,
    last: torch.Tensor | None,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Keys of each sequence: told by its pages, else between its queries and its table's room."""
    size = call.page_size
    if entries is not None:
        if last is None:
            last = torch.full_like(entries, size if call.having(Role.PAGE_IDS) else 1)
        lengths = ((entries - 1) * (size if call.having(Role.PAGE_IDS) else 1) + last).clamp(min=0)
        return torch.where(entries > 0, lengths, 0), last
    table = call.first(Role.BLOCK_TABLE)
    room = table.shape[1] * size if table is not None and table.shape else _widest(call)
    least = torch.ones(count, dtype=torch.int64) if queries is None else queries.clamp(min=1)
    most = torch.full((count,), room, dtype=torch.int64)
    lengths = _between(least.clamp(max=room), most, generator)
    if call.profile is Profile.SINGLE:
        lengths = least.clamp(max=room)
    elif call.profile is Profile.SKEWED and count:
        lengths = least.clamp(max=min(room, 3)).maximum(least)
        lengths[one_of(count, generator)] = room
    elif call.profile is Profile.EMPTY and queries is None and count > 1:
        lengths[::3] = 0
    return lengths, last


def _widest(call: Call) -> int:
    """Room of a cache without a page table: its second axis, [sequences, room, ...]."""
    caches = [i.shape for i in call.inputs.values() if "cache" in i.name and len(i.shape or ()) > 2]
    return caches[0][1] if caches and caches[0] is not None else 1


def _between(least: torch.Tensor, most: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One integer in [least, most] for each element."""
    part = torch.rand(least.shape, generator=generator, dtype=torch.float64)
    return least + (part * (most - least + 1).clamp(min=1)).to(torch.int64)


def _shares(
    total: int,
    parts: int,
    profile: Profile,
    generator: torch.Generator,
    least: torch.Tensor | None = None,
    most: torch.Tensor | None = None,
) -> torch.Tensor:
    """`total` split into int64 [parts] that sum to it, each within [least, most] if that can be.

    Every part gets at least one where there are enough, unless the profile wants empty ones.
    """
    if parts == 0:
        return torch.zeros(0, dtype=torch.int64)
    share = torch.zeros(parts, dtype=torch.int64) if least is None else least.clone()
    weight = torch.rand(parts, generator=generator, dtype=torch.float64).add_(0.05)
    if profile is Profile.EMPTY and parts > 1:
        weight[::3] = 0.0
    elif least is None and total >= parts:
        share += 1
    if profile in (Profile.EVEN, Profile.SINGLE):
        weight.fill_(1.0)
    elif profile is Profile.SKEWED:
        weight[one_of(parts, generator)] = 10.0 * parts
    if most is not None:
        share = share.minimum(most)
    rest = total - int(share.sum())
    room = (torch.full_like(share, total) if most is None else most) - share
    if least is not None:
        # Extra keys for sequences that have queries; a sequence without either stays empty.
        weight = torch.where((share == 0) & (share.sum() > 0), 0.0, weight)
        weight = weight if bool((weight > 0).any()) else torch.ones_like(weight)
    while rest > 0:
        weight = torch.where(room > 0, weight, 0.0)
        if not bool((weight > 0).any()):
            weight = (room > 0).to(torch.float64)
        if not bool((weight > 0).any()):
            # More than all room together: the axes contradict each other, the totals decide.
            share[-1] += rest
            break
        given = (weight / weight.sum() * rest).to(torch.int64).minimum(room)
        if not bool(given.any()):
            given[int(weight.argmax())] = 1
        share += given
        room -= given
        rest -= int(given.sum())
    return share
