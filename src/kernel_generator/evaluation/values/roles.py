"""What each input of a definition means, told from the operator, the input's name, rank and dtype.

The table below is the registry of operator families: one row a role, the first row that fits
decides. Names differ between definitions, so rows hold patterns; most roles are recognised for any
operator, since a page table is one wherever it appears.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable


class Role(Enum):
    """What an input means."""

    # Integers
    Q_INDPTR = auto()
    KV_INDPTR = auto()
    PAGE_IDS = auto()
    LAST_PAGE_LEN = auto()
    BLOCK_TABLE = auto()
    SEQ_LENS = auto()
    TOKEN_INDICES = auto()
    POSITIONS = auto()
    STATE_SLOTS = auto()
    EXPERT_IDS = auto()
    TOP_K = auto()
    TOKEN_IDS = auto()
    PACKED_CACHE = auto()
    EXPONENT_SCALE = auto()
    INTEGER = auto()
    """Unknown."""
    # Floats
    PROBS = auto()
    TOP_P = auto()
    MIN_P = auto()
    TEMPERATURE = auto()
    ROUTING_LOGITS = auto()
    ROUTING_BIAS = auto()
    EXPERT_WEIGHTS = auto()
    ROPE_TABLE = auto()
    SCALE = auto()
    LOG_DECAY = auto()
    NEGATIVE_DECAY = auto()
    DT_BIAS = auto()
    DECAY = auto()
    LOG_GATE = auto()
    UNIT = auto()
    GATE = auto()
    UNIT_KEY = auto()
    STATE = auto()
    QUERY = auto()
    KEY = auto()
    VALUE = auto()
    LATENT = auto()
    OPERAND = auto()
    WEIGHT = auto()
    ACTIVATION = auto()
    """Any other float."""


SEQUENCE_ROLES = (
    Role.Q_INDPTR,
    Role.KV_INDPTR,
    Role.PAGE_IDS,
    Role.LAST_PAGE_LEN,
    Role.BLOCK_TABLE,
    Role.SEQ_LENS,
)
"""These describe one batch of sequences and are made and permuted together."""


@dataclass(frozen=True)
class Input:
    """One input of a definition, with its extents for one workload."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...] | None
    """None for a scalar."""
    axes: tuple[str, ...] = ()
    description: str = ""

    @property
    def is_float(self) -> bool:
        """Packed fp4 counts."""
        return self.dtype.is_floating_point or self.dtype is torch.float4_e2m1fn_x2


@dataclass(frozen=True)
class _Rule:
    role: Role
    names: str
    ops: str = ".*"
    ranks: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    dtypes: tuple[torch.dtype, ...] = ()

    def fits(self, op_type: str, one: Input) -> bool:
        rank = len(one.shape or ())
        return (
            rank in self.ranks
            and (not self.dtypes or one.dtype in self.dtypes)
            and re.fullmatch(self.names, one.name) is not None
            and re.fullmatch(self.ops, op_type) is not None
        )


_ATTENTION = (
    r"(gqa|mha|mla|dsa|nsa|attention|xqa|trtllm|cudnn|pod|single|cascade).*"
    r"|.*(paged|ragged|prefill|decode).*"
)
_DELTA = r"(gdn|gdp|kda|gated_delta|delta).*"
_SSM = r"(mamba|ssm|ssd|selective).*"
_GEMM = r"(gemm|bmm|mm|matmul|linear|segment_gemm|grouped_gemm).*"

_INTEGER_RULES = (
    _Rule(Role.PACKED_CACHE, r".*fp8.*cache.*|.*cache.*fp8.*", ranks=(3, 4), dtypes=(torch.int8,)),
    _Rule(Role.EXPONENT_SCALE, r".*(scales?|_sf)(_.*)?", dtypes=(torch.int8,)),
    _Rule(
        Role.Q_INDPTR,
        r"((qo?|query|seq|seg|cu_q)_)?(indptr|offsets)_q|(qo|q|query|seq|seg)_indptr"
        r"|cu_(seq)?_?(len|lens|seqlens|seqlen)(_q)?|cum_seq_lens?_q",
        ranks=(1,),
    ),
    _Rule(
        Role.KV_INDPTR,
        r"(paged_)?(kv|k)_(page_)?indptr|indptr(_kv|_k)?|cu_seq_?lens?_(kv|k)|cum_seq_lens?_(kv|k)",
        ranks=(1,),
    ),
    _Rule(Role.PAGE_IDS, r"(paged_)?(kv_)?(page_)?(indices|page_ids)", ranks=(1,)),
    _Rule(Role.LAST_PAGE_LEN, r".*last_page_lens?", ranks=(1,)),
    _Rule(Role.BLOCK_TABLE, r"(block|page)_tables?", ranks=(2,)),
    _Rule(
        Role.SEQ_LENS,
        r"(kv_|cache_|context_)?seq_?lens?(_kv|_k)?|kv_lens?(_arr)?|context_lens?",
        ranks=(1,),
    ),
    _Rule(Role.TOKEN_INDICES, r"sparse_indices|topk_indices|indices", _ATTENTION, ranks=(2,)),
    _Rule(Role.POSITIONS, r"(.*_)?(positions?|pos_ids|position_ids)", ranks=(1, 2)),
    _Rule(
        Role.STATE_SLOTS,
        r".*(state|cache|slot|pool).*_(indices|index|ids)|(cache|state)_(indices|slots)",
        ranks=(1,),
    ),
    _Rule(
        Role.EXPERT_IDS,
        r"topk_(ids|idx|experts)|token_selected_experts|(selected_)?experts?(_ids)?",
        ranks=(2,),
    ),
    _Rule(Role.TOP_K, r"top_?ks?(_arr)?", ranks=(1,)),
    _Rule(Role.TOKEN_IDS, r"(input|token)_ids", ranks=(1, 2)),
)

_FLOAT_RULES = (
    _Rule(Role.PROBS, r"(target_|draft_)?probs", ranks=(1, 2, 3)),
    _Rule(Role.TOP_P, r"top_?ps?(_arr)?", ranks=(1,)),
    _Rule(Role.MIN_P, r"min_?ps?(_arr)?", ranks=(1,)),
    _Rule(Role.TEMPERATURE, r"temperatures?(_arr)?", ranks=(1, 2)),
    _Rule(Role.ROUTING_LOGITS, r"(routing|router|gating|gate)_(logits|scores|output)", ranks=(2,)),
    _Rule(Role.ROUTING_BIAS, r"routing_bias|(.*_)?correction_bias", ranks=(1,)),
    _Rule(Role.EXPERT_WEIGHTS, r"topk_(weights|scores)|token_final_scales", ranks=(2,)),
    _Rule(Role.ROPE_TABLE, r"(cos_sin|cos|sin)(_cache|_table)?", ranks=(2, 3)),
    _Rule(Role.LOG_DECAY, r"A_log"),
    _Rule(Role.NEGATIVE_DECAY, r"A", _SSM),
    _Rule(Role.DT_BIAS, r"dt_bias"),
    _Rule(Role.UNIT, r"beta", _DELTA),
    _Rule(Role.DECAY, r"g|gate|alpha", _DELTA),
    _Rule(Role.GATE, r"a|b", _DELTA),
    _Rule(Role.GATE, r"dt|B|C|D", _SSM),
    _Rule(Role.UNIT_KEY, r"k|key", _DELTA),
    _Rule(Role.STATE, r".*states?(_.*)?", f"{_DELTA}|{_SSM}"),
    _Rule(Role.SCALE, r"(.*_)?(scales?|sf|scale_inv)(_.*)?"),
    _Rule(Role.LATENT, r"(ckv|kv|latent|compressed_kv)(_cache)?", r"(mla|dsa|nsa|sparse_mla).*"),
    _Rule(
        Role.KEY, r"(paged_)?(k|key|kpe|k_pe|k_rope)(_cache|_nope)?|(kpe|k_pe)_cache", _ATTENTION
    ),
    _Rule(Role.VALUE, r"(paged_)?(v|value|kv)(_cache)?", _ATTENTION),
    _Rule(Role.QUERY, r"(q|query)(_.*)?", _ATTENTION),
    _Rule(Role.OPERAND, r"A|a|x|input|mat1|lhs|hidden_states|activations?", _GEMM),
    _Rule(Role.WEIGHT, r".*", _GEMM),
    _Rule(Role.WEIGHT, r"(.*_)?(weights?|proj|gamma|embedding)(_.*)?|w\d*(_.*)?|bias"),
)


def role_of(op_type: str, one: Input) -> Role:
    """The first role of the registry that fits."""
    rules: Iterable[_Rule] = _FLOAT_RULES if one.is_float else _INTEGER_RULES
    found = next((rule.role for rule in rules if rule.fits(op_type, one)), None)
    if found is Role.DECAY and "log" in one.description.lower():
        return Role.LOG_GATE
    return found or (Role.ACTIVATION if one.is_float else Role.INTEGER)
