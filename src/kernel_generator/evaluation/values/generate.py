"""Drawing a workload's inputs, and varying them cheaply between timing blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from flashinfer_bench.data import ScalarInput

from kernel_generator.evaluation.values import captured, integers, scalars, sequences
from kernel_generator.evaluation.values.call import Call
from kernel_generator.evaluation.values.floats import Floats, responds
from kernel_generator.evaluation.values.record import Values, Variant
from kernel_generator.evaluation.values.roles import SEQUENCE_ROLES, Input, Role

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from flashinfer_bench import Definition, Workload


def draw(
    definition: Definition,
    workload: Workload,
    root: Path | None,
    generator: torch.Generator,
    variant: Variant = Variant.RANDOM,
) -> Values:
    """One set of inputs. Captured ones keep their index structure, on other pages and in another
    order, with other floats; where their file is missing they are generated and named as synthetic.

    All of it comes from `generator`. Raises `InputsUnavailable` where the workload does not fit
    the definition, a file does not fit the workload, or a dtype is not known.
    """
    call = Call.of(definition, workload)
    here = captured.read(call, workload, root)
    numbers: dict[str, int | float | bool] = {}
    for name, one in call.inputs.items():
        described = workload.inputs[name]
        if one.shape is not None:
            continue
        if isinstance(described, ScalarInput):
            numbers[name] = described.value
        elif name in here:
            numbers[name] = here[name].item()
        else:
            numbers[name] = scalars.make(call, one, generator)

    known = {n: t for n, t in here.items() if call.inputs[n].shape is not None}
    pages = _page_map(call, generator)
    tensors: dict[str, torch.Tensor] = {}
    if sequences.describes_sequences(call):
        batch = sequences.make(call, known, generator)
        tensors.update(sequences.write(call, sequences.permuted(batch, pages, generator)))
    tensors.update(_indices(call, known, pages, generator, tensors))
    floats = Floats(call, variant, generator, pooled=False, local_offset=_offset(numbers))
    tensors.update(_floats(call, known, floats))
    return Values(
        {n: tensors[n] for n in call.roles},
        numbers,
        tuple(n for n in call.inputs if n in call.captured and n not in here),
        _unvaried(call, known),
        variant,
    )


def vary(
    definition: Definition, workload: Workload, values: Values, generator: torch.Generator
) -> Values:
    """Other values of the same shapes, variant and index structure: sequences in another order, on
    other pages, with other floats. `values` is left as it is.

    Fills large tensors from a pool of new numbers, so it costs about what writing the memory does.
    """
    call = Call.of(definition, workload)
    pages = _page_map(call, generator)
    known = {n: t for n, t in values.tensors.items() if n in call.captured - {*values.synthetic}}
    tensors: dict[str, torch.Tensor] = {}
    if sequences.describes_sequences(call):
        batch = sequences.read(call, values.tensors)
        tensors.update(sequences.write(call, sequences.permuted(batch, pages, generator)))
    tensors.update(_indices(call, known, pages, generator, tensors))
    floats = Floats(
        call, values.variant, generator, pooled=True, local_offset=_offset(values.scalars)
    )
    tensors.update(_floats(call, known, floats))
    return Values(
        {n: tensors[n] for n in call.roles},
        dict(values.scalars),
        values.synthetic,
        values.unvaried,
        values.variant,
    )


def variants(definition: Definition) -> tuple[Variant, ...]:
    """The variants that make a difference to this definition, RANDOM first.

    Another variant draws what RANDOM does.
    """
    axes = dict.fromkeys(definition.var_axes, 1)
    call = Call.sketch(definition, axes)
    return tuple(
        v
        for v in Variant
        if v is Variant.RANDOM
        or any(responds(call, one, call.roles[n], v) for n, one in _float_inputs(call).items())
    )


def _float_inputs(call: Call) -> dict[str, Input]:
    return {n: i for n, i in call.inputs.items() if n in call.roles and i.is_float}


def _page_map(call: Call, generator: torch.Generator) -> torch.Tensor | None:
    """Where each page of the cache moves to."""
    if not call.having(Role.PAGE_IDS, Role.BLOCK_TABLE, Role.TOKEN_INDICES):
        return None
    return torch.randperm(call.num_pages, generator=generator)


def _offset(numbers: Mapping[str, float]) -> int:
    return int(numbers.get("local_expert_offset", 0))


def _indices(
    call: Call,
    known: Mapping[str, torch.Tensor],
    pages: torch.Tensor | None,
    generator: torch.Generator,
    sequenced: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Integers other than the description of sequences, and what of that one did not fit."""
    made: dict[str, torch.Tensor] = {}
    for name, role in call.roles.items():
        one = call.inputs[name]
        if one.is_float or name in sequenced:
            continue
        if name not in known:
            plain = Role.INTEGER if role in SEQUENCE_ROLES else role
            made[name] = integers.make(call, one, plain, generator)
            continue
        moved = integers.shuffled(call, known[name], role, pages, generator)
        made[name] = known[name].clone() if moved is None else moved
    return made


def _floats(
    call: Call, known: Mapping[str, torch.Tensor], floats: Floats
) -> dict[str, torch.Tensor]:
    made: dict[str, torch.Tensor] = {}
    for name, one in _float_inputs(call).items():
        role = call.roles[name]
        special = floats.variant is not Variant.RANDOM
        if name in known and not (special and responds(call, one, role, floats.variant)):
            made[name] = captured.resampled(call, one, role, known[name], floats.generator)
        else:
            made[name] = floats.make(one, role)
    return made


def _unvaried(call: Call, known: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    return tuple(
        f"input '{name}' ({str(call.inputs[name].dtype).removeprefix('torch.')} "
        f"{list(known[name].shape)}) is the captured one in every trial: what its integers mean is "
        f"not known for operator '{call.op_type}'"
        for name, role in call.roles.items()
        if name in known and role in (Role.INTEGER, Role.PACKED_CACHE)
    )
