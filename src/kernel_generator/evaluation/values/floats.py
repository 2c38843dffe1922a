"""Floats by role: activations in every variant, and the ones that have to make sense.

Sources of the natural ranges: decay and time-step parameters as Mamba initialises them (A in
[1, 16], steps in [0.001, 0.1]: Gu and Dao, 2023); keys of delta rules have unit length, as the
layers that call such kernels normalise them; block scales are positive and keep products of
eight-bit numbers near one.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from kernel_generator.evaluation.values.noise import (
    EIGHT_BIT_FLOATS,
    PLAIN_FLOATS,
    Mix,
    Source,
    at_once,
    normal,
    one_of,
    put,
    some,
    tiled,
    uniform,
)
from kernel_generator.evaluation.values.record import Profile, Variant
from kernel_generator.evaluation.values.roles import Input, Role

if TYPE_CHECKING:
    from kernel_generator.evaluation.values.call import Call


@dataclass(frozen=True)
class Pool:
    """How many new elements a tensor has at least; the rest is filled from them where there are
    more than twice as many."""

    elements: int
    dear: int
    """The same for roles whose rows are sorted or normalised, which costs several times more."""


FRESH = Pool(1 << 25, 1 << 20)
"""For `draw` (64 MiB of bfloat16): expert weights can be a gigabyte."""
VARIED = Pool(1 << 19, 1 << 16)
"""For `vary`."""

_LARGE = 700.0
_SMALL = 1e-3
_OUTLIER = 100.0
_PEAKED = 32.0
"""Queries under HUGE: logits far beyond 88, where exp overflows in fp32 unless the largest is
subtracted first, yet small enough that the order of summation does not decide the softmax."""
_HOT = 8.0
"""Logits of hot tokens stand out by this."""
_SCALED = (
    Role.ACTIVATION,
    Role.STATE,
    Role.VALUE,
    Role.QUERY,
    Role.KEY,
    Role.LATENT,
    Role.OPERAND,
)
_AVERAGED = (Role.VALUE, Role.LATENT)
"""A loud channel of these has one sign, as such channels of models mostly have. The average of
large numbers of both signs may be a small one, with an error that is honest and that nothing else
in its row is large enough to excuse."""
_RANGES = {
    Role.MIN_P: (0.0, 0.3),
    Role.TEMPERATURE: (0.5, 1.5),
    Role.NEGATIVE_DECAY: (-16.0, -1.0),
    Role.DECAY: (0.5, 1.0),
    Role.LOG_GATE: (-0.7, 0.0),
    Role.UNIT: (0.0, 1.0),
}
_LINEAR_OPS = r"(rmsnorm|layernorm|fused_add|rope|norm|embedding|gqa|mla|dsa).*"
_WEIGHT_NAME = r".*(weight|gemm|fc\d|expert|w\d|b_scale|scale_b).*"


@dataclass(frozen=True)
class Floats:
    """How one set of floats is made."""

    call: Call
    variant: Variant
    source: Source
    pool: Pool | None
    """None: every number is new."""
    local_offset: int = 0
    """Number of the first expert whose weights the call holds."""

    def make(self, one: Input, role: Role) -> torch.Tensor:
        """A tensor for one input, of its declared shape and dtype, on the device."""
        assert one.shape is not None
        if self.pool is None:
            return self._make(one, role, one.shape)
        dear = role in (Role.ROUTING_LOGITS, Role.UNIT_KEY, Role.EXPERT_WEIGHTS)
        pool = self.pool.dear if dear else self.pool.elements
        choices = self.source.choices
        mix = self._mix(role)
        made = tiled(lambda shape: self._make(one, role, shape), one.shape, pool, choices, mix)
        random = self.variant is Variant.RANDOM
        if role is Role.PROBS and random and math.prod(one.shape) > 2 * pool:
            factors = tiled(self._factors, one.shape, pool, choices)
            made.mul_(factors).div_(made.sum(dim=-1, keepdim=True))
        return made

    def _factors(self, shape: tuple[int, ...]) -> torch.Tensor:
        return uniform(shape, 0.5, 1.5, self.source.numbers)

    def _mix(self, role: Role) -> Mix:
        """What may be done to rows that come again; a variant's own pattern stays."""
        if self.variant is not Variant.RANDOM:
            return Mix.ROTATE
        if role in _SCALED or role in (Role.WEIGHT, Role.GATE, Role.UNIT_KEY):
            return Mix.SIGNS
        uneven = self.call.profile in (Profile.SKEWED, Profile.EMPTY)
        if role is Role.ROUTING_LOGITS and not uneven:
            return Mix.SHUFFLE
        return Mix.ROTATE

    def _make(self, one: Input, role: Role, shape: tuple[int, ...]) -> torch.Tensor:
        if role in _SCALED and responds(self.call, one, role, self.variant):
            return self._varied(one, role, shape)
        if role in _SCALED or role in (Role.WEIGHT, Role.GATE):
            return normal(shape, one.dtype, self.source.numbers)
        if one.dtype is torch.float4_e2m1fn_x2:
            return normal(shape, one.dtype, self.source.numbers)
        return self._special(one, role, shape).to(one.dtype)

    def _varied(self, one: Input, role: Role, shape: tuple[int, ...]) -> torch.Tensor:
        g, dtype = self.source.numbers, one.dtype
        factor = _factor(self.call, one, role, self.variant) or 1.0
        if self.variant is Variant.EQUAL:
            value = uniform((1,), 0.5, 2.0, g)
            return value.to(dtype).expand(shape).contiguous()
        made = normal(shape, dtype, g, factor)
        if self.variant in (Variant.RANDOM, Variant.TINY, Variant.HUGE) or not shape:
            return made
        rows = made.view(-1, shape[-1])
        loud = some(shape[-1], min(3, 1 + shape[-1] // 64), self.source.choices)
        if dtype not in EIGHT_BIT_FLOATS:
            self._mark_channels(rows, loud, role)
            return made
        # They have no arithmetic of their own.
        limit = torch.finfo(dtype).max
        for piece in rows.split(max(1, at_once(g.device) // shape[-1])):
            wide = piece.float()
            self._mark_channels(wide, loud, role)
            piece.copy_(wide.clamp_(-limit, limit))
        return made

    def _mark_channels(self, rows: torch.Tensor, loud: list[int], role: Role) -> None:
        """What OUTLIERS, ALTERNATING and DENORMAL do to rows [n, channels], in place."""
        if self.variant is Variant.OUTLIERS:
            for channel in loud:
                rows[:, channel].mul_(_OUTLIER)
                if role in _AVERAGED:
                    rows[:, channel].abs_()
        elif self.variant is Variant.ALTERNATING:
            rows.abs_()
            rows[:, 1::2].neg_()
        elif self.variant is Variant.DENORMAL:
            rows[:, 7::8].mul_(torch.finfo(rows.dtype).tiny / 4)

    def _special(self, one: Input, role: Role, shape: tuple[int, ...]) -> torch.Tensor:
        """float32, to be rounded to the input's dtype."""
        g = self.source.numbers
        if role in _RANGES:
            return uniform(shape, *_RANGES[role], g)
        match role:
            case Role.PROBS:
                return self._probabilities(shape)
            case Role.TOP_P:
                made = uniform(shape, 0.05, 1.0, g)
                if made.numel() > 2:
                    put(made, one_of(len(made), self.source.choices), 1.0)
                return made
            case Role.SCALE:
                typical = 0.02 if re.fullmatch(_WEIGHT_NAME, one.name) else 1.0
                return uniform(shape, 0.5 * typical, 1.5 * typical, g)
            case Role.ROUTING_LOGITS:
                return self._routing_logits(one, shape)
            case Role.ROUTING_BIAS:
                return normal(shape, torch.float32, g, 0.1)
            case Role.EXPERT_WEIGHTS:
                return torch.softmax(normal(shape, torch.float32, g), dim=-1)
            case Role.ROPE_TABLE:
                return _rotations(one, shape, g)
            case Role.LOG_DECAY:
                return uniform(shape, 1.0, 16.0, g).log_()
            case Role.DT_BIAS:
                # softplus of it is a step, log-uniform in [0.001, 0.1].
                step = uniform(shape, math.log(1e-3), math.log(0.1), g).exp_()
                return step.expm1_().log_()
            case _:
                assert role is Role.UNIT_KEY
                return torch.nn.functional.normalize(normal(shape, torch.float32, g), dim=-1)

    def _probabilities(self, shape: tuple[int, ...]) -> torch.Tensor:
        logits = normal(shape, torch.float32, self.source.numbers)
        if self.variant is Variant.HUGE:
            logits.mul_(_LARGE)
        elif self.variant is Variant.TINY:
            logits.mul_(_SMALL)
        elif self.variant is Variant.OUTLIERS:
            for token in some(shape[-1], 3, self.source.choices):
                logits[..., token].add_(_HOT)
        return torch.softmax(logits, dim=-1)

    def _routing_logits(self, one: Input, shape: tuple[int, ...]) -> torch.Tensor:
        """Normal quantiles in random order: no two experts tie, so that every right kernel chooses
        the same ones. 256 of them are distinct even in bfloat16."""
        g, experts = self.source.numbers, shape[-1]
        made = _quantiles(experts, g.device)[uniform(shape, 0.0, 1.0, g).argsort(dim=-1)]
        if one.dtype is torch.float32:
            made *= uniform((*shape[:-1], 1), 0.8, 1.25, g)
        if self.variant is Variant.TINY:
            made *= 0.1
        elif self.variant is Variant.HUGE:
            made *= 4.0
        local = min(self.call.num_local_experts, experts)
        offset = max(0, min(self.local_offset, experts - local))
        if self.call.profile is Profile.EMPTY and local < experts:
            made[..., offset : offset + local] -= _HOT
        if self.call.profile is Profile.SKEWED or self.variant is Variant.OUTLIERS:
            for expert in some(local, max(1, local // 8), self.source.choices):
                made[..., offset + expert] += _HOT
        return made


def responds(call: Call, one: Input, role: Role, variant: Variant) -> bool:
    """True where this variant changes what the input looks like."""
    if variant is Variant.RANDOM:
        return True
    if role in (Role.PROBS, Role.ROUTING_LOGITS):
        # Equal or vanishing scores tie, and any choice among ties is right.
        return variant in (Variant.TINY, Variant.HUGE, Variant.OUTLIERS)
    if role not in _SCALED or one.dtype is torch.float4_e2m1fn_x2:
        return False
    if variant in (Variant.TINY, Variant.HUGE):
        return _factor(call, one, role, variant) is not None
    if variant is Variant.EQUAL:
        return not call.chooses
    if variant is Variant.OUTLIERS:
        # Outliers on both sides of a product overflow fp16.
        return role is not Role.KEY
    return one.dtype in PLAIN_FLOATS or variant is not Variant.DENORMAL


def _factor(call: Call, one: Input, role: Role, variant: Variant) -> float | None:
    """What the floats are multiplied by under TINY and HUGE; None where nothing is borne."""
    if variant is Variant.TINY:
        # Smaller numbers would all be zero in eight bits.
        return 2.0**-6 if one.dtype in EIGHT_BIT_FLOATS else _SMALL
    if variant is not Variant.HUGE:
        return 1.0
    if role is Role.KEY:
        return None
    if role in (Role.QUERY, Role.LATENT):
        return _PEAKED
    if one.dtype is torch.float8_e4m3fn:
        return torch.finfo(one.dtype).max / 2.25
    if one.dtype is torch.float16:
        if role is Role.OPERAND:
            depth = one.shape[-1] if one.shape else 1
            bound = torch.finfo(one.dtype).max / (8.0 * math.sqrt(depth))
            return min(_LARGE, bound) if bound > 2.0 else None
        linear = role is Role.VALUE or re.fullmatch(_LINEAR_OPS, call.op_type)
        return _LARGE if linear else 16.0
    return _LARGE


@lru_cache(maxsize=64)
def _quantiles(experts: int, device: torch.device) -> torch.Tensor:
    """Of the normal distribution, [experts]. Made on the CPU: CUDA compiles this function of torch
    when it is first called."""
    return torch.special.ndtri((torch.arange(experts) + 0.5) / experts).to(device)


def _rotations(one: Input, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Cosines and sines of random angles: cosines first where one table holds both."""
    both = "cos" in one.name and "sin" in one.name and shape[-1] % 2 == 0
    half = (*shape[:-1], shape[-1] // 2) if both else shape
    angle = uniform(half, -math.pi, math.pi, generator)
    if both:
        return torch.cat([angle.cos(), angle.sin()], dim=-1)
    return angle.sin() if "sin" in one.name else angle.cos()
