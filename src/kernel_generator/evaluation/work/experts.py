"""Mixtures of experts: weights of experts that some token is sent to, and those tokens.

Nothing is certain of them, since the choice is the kernel's own and definitions differ in how it is
made.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from kernel_generator.evaluation.values.roles import Role
from kernel_generator.evaluation.work.record import Case, NotKnown, Use, Work, work_of

if TYPE_CHECKING:
    from kernel_generator.sandbox.arena import Place

_KNOWN = (Role.EXPERT_IDS, Role.EXPONENT_SCALE)
_CHOSEN_AXES = ("top_k", "topk", "experts_per_token", "num_experts_per_tok", "num_topk")
_BEST_OF_GROUP = 2
"""A group of experts scores the sum of its best two (DeepSeek-V3 technical report, and the routing
named after it)."""


def holds_experts(case: Case) -> bool:
    """True where tokens are sent to experts whose weights are among the inputs."""
    return bool(case.call.having(Role.EXPERT_IDS, Role.ROUTING_LOGITS)) and bool(_weights(case))


def count(case: Case) -> Work:
    """Raises `NotKnown`."""
    unknown = [i for n, i in case.call.inputs.items() if not i.is_float and n in case.call.roles]
    if any(case.call.roles[i.name] not in _KNOWN for i in unknown):
        raise NotKnown("integers beside the chosen experts")
    chosen, token_axis = _chosen(case)
    offset = int(case.scalar("local_expert_offset", "expert_offset") or 0)
    weights, held = _weights(case), case.call.num_local_experts
    local = (chosen >= offset) & (chosen < offset + held)
    active = int(chosen[local].unique().numel())
    tokens, pairs = int(local.any(dim=1).sum()), int(local.sum())
    names = {p.name for p in weights}
    uses: dict[str, Use] = {}
    for place in case.places.values():
        if place.name in names:
            uses[place.name] = Use.rows(place, active, held, 0)
        elif case.role(place) in (Role.ACTIVATION, Role.SCALE) and token_axis in case.axes(place):
            uses[place.name] = Use.rows(place, tokens, len(chosen), 0)
        else:
            uses[place.name] = Use(place.nbytes)
    return work_of(case, uses, certain=False, operations=_operations(case, weights, pairs))


def _weights(case: Case) -> list[Place]:
    """Inputs with one entry for each expert, weights and their scales, [experts, ..., ...]."""
    return [
        p
        for p in case.places.values()
        if len(p.shape) >= 2
        and p.shape[0] == case.call.num_local_experts
        and re.search(r"expert|^E$", case.axes(p)[0])
    ]


def _operations(case: Case, weights: list[Place], pairs: int) -> int | None:
    matrices = [p for p in weights if case.role(p) is not Role.SCALE and len(p.shape) == 3]
    if not matrices or any(p.torch_dtype is torch.float4_e2m1fn_x2 for p in matrices):
        return None
    return 2 * pairs * sum(p.shape[1] * p.shape[2] for p in matrices)


def _chosen(case: Case) -> tuple[torch.Tensor, str]:
    """Experts of each token, int64 [tokens, chosen], and the axis of tokens."""
    ids = [i for i in case.call.having(Role.EXPERT_IDS) if "packed" not in i.description.lower()]
    if ids:
        return case.values(ids[0]).to(torch.int64), ids[0].axes[0]
    logits = case.only(Role.ROUTING_LOGITS)
    if logits is None:
        raise NotKnown("who is sent where")
    return _route(case, case.values(logits).float()), logits.axes[0]


def _route(case: Case, logits: torch.Tensor) -> torch.Tensor:
    """As the definition's name, axes and scalars say: `topk8_ng8_kg4` is eight experts out of the
    best four of eight groups."""
    name, experts = case.definition.name, logits.shape[1]
    wanted = case.call.axis(*_CHOSEN_AXES) or case.scalar("top_k", "topk") or _told(name, "topk")
    if not wanted:
        raise NotKnown("how many experts are chosen")
    bias = case.only(Role.ROUTING_BIAS)
    if bias is not None and bias.shape != (experts,):
        raise NotKnown("a bias that is not one number an expert")
    # A bias is added to the sigmoid of logits; without one, order is all that matters.
    scores = logits if bias is None else logits.sigmoid() + case.values(bias).float()
    groups = case.call.axis("n_group", "num_groups") or _told(name, "ng") or 1
    kept = case.call.axis("topk_group", "num_topk_groups") or _told(name, "kg") or groups
    if experts % groups or experts // groups < _BEST_OF_GROUP or kept > groups:
        raise NotKnown("groups do not fit the experts")
    if kept < groups:
        grouped = scores.view(len(scores), groups, -1)
        best = grouped.topk(_BEST_OF_GROUP, dim=-1).values.sum(dim=-1)
        stays = torch.zeros_like(best, dtype=torch.bool)
        stays.scatter_(1, best.topk(kept, dim=-1).indices, value=True)
        scores = grouped.masked_fill(~stays[..., None], -torch.inf).flatten(1)
    return scores.topk(min(int(wanted), experts), dim=-1).indices


def _told(name: str, what: str) -> int | None:
    found = re.search(rf"(?<![a-z]){what}(\d+)", name)
    return int(found[1]) if found else None
