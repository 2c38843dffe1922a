"""Integers that point at something: positions, slots, experts, tokens of a cache; and byte caches
that hold eight-bit floats beside their scales."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from kernel_generator.evaluation.values.noise import (
    Source,
    any_integers,
    integers,
    normal,
    one_of,
    put,
    uniform,
)
from kernel_generator.evaluation.values.record import Profile
from kernel_generator.evaluation.values.roles import Input, Role

if TYPE_CHECKING:
    from kernel_generator.evaluation.values.call import Call

_PAD = -1
_SCALE_BYTES = 4


def make(call: Call, one: Input, role: Role, source: Source) -> torch.Tensor:
    """A tensor of the declared shape and dtype, valid in what it points at, on the device.

    Raises `InputsUnavailable` for a dtype that is not known.
    """
    assert one.shape is not None
    shape, g = one.shape, source.numbers
    match role:
        case Role.POSITIONS:
            made = _positions(call, shape, source)
        case Role.STATE_SLOTS:
            made = _slots(call, one, g)
        case Role.EXPERT_IDS:
            made = _experts(call, one, g)
        case Role.TOP_K:
            made = _top_k(call, shape, source)
        case Role.TOKEN_IDS:
            made = integers(0, call.vocabulary, shape, g)
        case Role.TOKEN_INDICES:
            made = _cache_tokens(call, shape, source)
        case Role.EXPONENT_SCALE:
            # ue8m0: 2 to the power of (byte - 127)
            made = integers(118, 127, shape, g)
        case Role.PACKED_CACHE:
            return _packed_cache(shape, g)
        case _:
            return any_integers(shape, one.dtype, g)
    return made.to(one.dtype)


def shuffled(
    call: Call,
    current: torch.Tensor,
    role: Role,
    page_map: torch.Tensor | None,
    generator: torch.Generator,
) -> torch.Tensor | None:
    """Another valid arrangement of captured values; None where their meaning is unknown.

    All of them, and `generator`, are of one device.
    """

    def rows() -> torch.Tensor:
        return torch.randperm(len(current), generator=generator, device=generator.device)

    match role:
        case Role.TOKEN_INDICES:
            moved = current.to(torch.int64)[rows()]
            if page_map is not None:
                size = call.page_size
                page, slot = moved // size, moved % size
                inside = (moved >= 0) & (page < len(page_map))
                page = page_map[page.clamp(0, max(0, len(page_map) - 1))]
                moved = torch.where(inside, page * size + slot, moved)
            return moved.to(current.dtype)
        case Role.STATE_SLOTS:
            pool = _pool(call)
            slots = torch.randperm(pool, generator=generator, device=generator.device)
            inside = (current >= 0) & (current < pool)
            moved = slots[current.to(torch.int64).clamp(0, max(0, pool - 1))].to(current.dtype)
            return torch.where(inside, moved, current)[rows()]
        case Role.POSITIONS | Role.EXPERT_IDS | Role.TOP_K | Role.TOKEN_IDS | Role.EXPONENT_SCALE:
            return current[rows()]
        case _:
            return None


def _positions(call: Call, shape: tuple[int, ...], source: Source) -> torch.Tensor:
    table = call.first(Role.ROPE_TABLE)
    named = call.axis("max_positions", "max_seq_len", "max_position", "max_position_embeddings")
    bound = table.shape[0] if table is not None and table.shape else named or 4096
    made = integers(0, bound, shape, source.numbers)
    if made.numel() > 2:
        put(made, one_of(made.numel(), source.choices), 0)
        put(made, one_of(made.numel(), source.choices), bound - 1)
    return made


def _pool(call: Call) -> int:
    """Slots of the state cache."""
    named = call.axis("state_cache_size", "pool_size", "num_slots", "cache_size")
    states = [i for i in call.having(Role.STATE) if i.shape]
    return named or next((i.shape[0] for i in states if i.shape), 1)


def _slots(call: Call, one: Input, g: torch.Generator) -> torch.Tensor:
    count, pool = math.prod(one.shape or ()), _pool(call)
    # Two sequences may not write the same state.
    made = torch.randperm(max(pool, count), generator=g, device=g.device)[:count] % max(pool, 1)
    if "-1" in one.description and call.profile in (Profile.EMPTY, Profile.SKEWED) and count > 1:
        made[:: 4 if count > 4 else 2] = _PAD
    return made.view(one.shape or ())


def _experts(call: Call, one: Input, g: torch.Generator) -> torch.Tensor:
    tokens, chosen = one.shape or (0, 0)
    score = uniform((tokens, max(call.num_experts, chosen)), 0.0, 1.0, g)
    if call.profile is Profile.SKEWED:
        score[:, :chosen] += 1.0
    made = score.argsort(dim=-1, descending=True)[:, :chosen] % call.num_experts
    if "packed" in one.description.lower():
        # Expert in the upper half, its weight as bfloat16 in the lower.
        weight = torch.softmax(normal((tokens, chosen), torch.float32, g), dim=-1)
        low = weight.to(torch.bfloat16).view(torch.int16).to(torch.int64) & 0xFFFF
        made = made << 16 | low
    return made


def _top_k(call: Call, shape: tuple[int, ...], source: Source) -> torch.Tensor:
    """Log-uniform in 1 to the vocabulary, both ends included where there is room."""
    most = call.vocabulary
    made = uniform(shape, 0.0, math.log(most + 1), source.numbers).exp_()
    made = made.to(torch.int64).clamp_(1, most)
    if made.numel() > 2:
        first = one_of(made.numel(), source.choices)
        put(made, first, 1)
        put(made, (first + 1) % made.numel(), most)
    return made


def _cache_tokens(call: Call, shape: tuple[int, ...], source: Source) -> torch.Tensor:
    """Distinct tokens of the cache in each row, then padding.

    An arithmetic progression modulo the cache's size, with a step that shares no factor with it,
    repeats nothing and costs no permutation of a large cache.
    """
    rows, wanted = shape
    g, device = source.numbers, source.numbers.device
    tokens = max(1, call.num_pages * call.page_size)
    step = 1 + one_of(tokens, source.choices)
    while math.gcd(step, tokens) != 1:
        step += 1
    start = integers(0, tokens, (rows, 1), g)
    column = torch.arange(wanted, device=device)
    made = (start + column * step) % tokens
    valid = torch.full((rows, 1), min(wanted, tokens), dtype=torch.int64, device=device)
    if call.profile is not Profile.EVEN:
        least = min(wanted, tokens) // 2
        valid[1::2] = integers(max(1, least), min(wanted, tokens) + 1, (rows // 2, 1), g)
    if call.profile is Profile.SINGLE:
        valid[:] = 1
    elif call.profile is Profile.EMPTY:
        valid[::3] = 0
    return torch.where(column < valid, made, _PAD)


def _packed_cache(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    """Pages of float8_e4m3fn keys followed by one float32 scale a token, as DeepGEMM lays them out:
    [pages, page_size, ..., width + 4] bytes, all keys of a page before all its scales."""
    pages, tokens = shape[0], math.prod(shape[1:-1])
    width = shape[-1] - _SCALE_BYTES
    keys = normal((pages, tokens * width), torch.float8_e4m3fn, g).view(torch.int8)
    scales = uniform((pages, tokens), 0.5, 1.5, g).view(torch.int8)
    return torch.cat([keys, scales], dim=-1).view(shape)
