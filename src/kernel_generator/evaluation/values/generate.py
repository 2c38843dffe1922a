"""Drawing a workload's inputs, and varying them cheaply between timing blocks.

What decides (extents, the sequences of a batch, single numbers) is made on the CPU; tensors are
made on the device they stay on. `vary` never waits for that device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from flashinfer_bench.data import ScalarInput

from kernel_generator.evaluation.values import captured, integers, scalars, sequences
from kernel_generator.evaluation.values.call import Call
from kernel_generator.evaluation.values.floats import FRESH, VARIED, Floats, Pool, responds
from kernel_generator.evaluation.values.noise import Source
from kernel_generator.evaluation.values.record import CPU, Values, Variant, Where
from kernel_generator.evaluation.values.roles import SEQUENCE_ROLES, Input, Role

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from flashinfer_bench import Definition, Workload

    from kernel_generator.evaluation.values.sequences import Batch


@dataclass(frozen=True)
class _Given:
    """What a workload gives, before anything is made of it."""

    call: Call
    scalars: dict[str, int | float | bool]
    known: dict[str, torch.Tensor]
    """Captured tensors, on the device."""
    batch: Batch | None
    """As captured, and made where it is not; on the device."""
    synthetic: tuple[str, ...]


def draw(
    definition: Definition,
    workload: Workload,
    root: Path | None,
    generator: torch.Generator,
    variant: Variant = Variant.RANDOM,
    where: Where = CPU,
) -> Values:
    """One set of inputs. Captured ones keep their index structure, on other pages and in another
    order, with other floats; where their file is missing they are generated and named as synthetic.

    All of it comes from `generator`, which is of the CPU. Raises `InputsUnavailable` where the
    workload does not fit the definition, a file does not fit the workload, or a dtype is not known.
    """
    given = _given(definition, workload, root, generator, where)
    floats = _floats_of(given.call, variant, generator, where, FRESH, given.scalars)
    tensors, batch = _rearranged(given.call, given.known, given.batch, floats)
    return _values(given, tensors, variant, where, batch)


def as_described(
    definition: Definition,
    workload: Workload,
    root: Path | None,
    generator: torch.Generator,
    where: Where = CPU,
) -> Values:
    """The inputs that the workload describes: captured ones bit by bit, the others as `draw` makes
    them. Captured ones whose file is missing are generated and named as synthetic.

    Raises as `draw`.
    """
    given = _given(definition, workload, root, generator, where)
    call = given.call
    floats = _floats_of(call, Variant.RANDOM, generator, where, FRESH, given.scalars)
    tensors = {} if given.batch is None else sequences.write(call, given.batch)
    tensors.update(given.known)
    for name, role in call.roles.items():
        if name not in tensors:
            one = call.inputs[name]
            tensors[name] = (
                floats.make(one, role)
                if one.is_float
                else integers.make(call, one, _alone(role), floats.source)
            )
    return _values(given, tensors, Variant.RANDOM, where, given.batch)


def vary(
    definition: Definition, workload: Workload, values: Values, generator: torch.Generator
) -> Values:
    """Other values of the same shapes, variant, device and index structure: sequences in another
    order, on other pages, with other floats. `values`, drawn for this workload, is left as it is.

    All of it comes from `generator`, which is of the CPU. Costs about what writing the memory does,
    and on a GPU nothing is copied to or from it.
    """
    call = Call.of(definition, workload)
    known = {n: t for n, t in values.tensors.items() if n in call.captured - {*values.synthetic}}
    floats = _floats_of(call, values.variant, generator, values.where, VARIED, values.scalars)
    tensors, batch = _rearranged(call, known, values.batch, floats)
    return replace(values, tensors=tensors, scalars=dict(values.scalars), batch=batch)


def vary_many(
    definition: Definition,
    workload: Workload,
    values: Values,
    generator: torch.Generator,
    count: int,
) -> dict[str, torch.Tensor] | None:
    """So many sets as `vary` would make them, all at once: by input, [count, *shape].

    None where each has to be made by itself, for its inputs have an index structure or are captured
    ones, or where numbers come from a pool, of which each set is to have its own.
    """
    call = Call.of(definition, workload)
    plain = values.batch is None and not call.captured - {*values.synthetic}
    if not plain or values.where.pooled or not all(call.inputs[n].is_float for n in call.roles):
        return None
    floats = _floats_of(call, values.variant, generator, values.where, VARIED, values.scalars)
    made: dict[str, torch.Tensor] = {}
    for name, role in call.roles.items():
        one = call.inputs[name]
        assert one.shape is not None
        made[name] = floats.make(replace(one, shape=(count, *one.shape)), role)
    return made


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


def _given(
    definition: Definition,
    workload: Workload,
    root: Path | None,
    generator: torch.Generator,
    where: Where,
) -> _Given:
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
    batch = None
    if sequences.describes_sequences(call):
        batch = sequences.make(call, known, generator).on(where.device)
    return _Given(
        call,
        numbers,
        {n: t.to(where.device, non_blocking=True) for n, t in known.items()},
        batch,
        tuple(n for n in call.inputs if n in call.captured and n not in here),
    )


def _floats_of(
    call: Call,
    variant: Variant,
    generator: torch.Generator,
    where: Where,
    pool: Pool,
    numbers: Mapping[str, float],
) -> Floats:
    source = Source.of(generator, where.device)
    offset = int(numbers.get("local_expert_offset", 0))
    return Floats(call, variant, source, pool if where.pooled else None, offset)


def _values(
    given: _Given,
    tensors: Mapping[str, torch.Tensor],
    variant: Variant,
    where: Where,
    batch: Batch | None,
) -> Values:
    return Values(
        {n: tensors[n] for n in given.call.roles},
        given.scalars,
        given.synthetic,
        _unvaried(given.call, given.known),
        variant,
        where,
        batch,
    )


def _rearranged(
    call: Call, known: Mapping[str, torch.Tensor], batch: Batch | None, floats: Floats
) -> tuple[dict[str, torch.Tensor], Batch | None]:
    """New tensors in declared order, and the batch that they describe."""
    numbers = floats.source.numbers
    pages = _page_map(call, numbers)
    made: dict[str, torch.Tensor] = {}
    if batch is not None:
        batch = sequences.permuted(batch, pages, numbers)
        made.update(sequences.write(call, batch))
    made.update(_indices(call, known, pages, floats.source, made))
    made.update(_floats(call, known, floats))
    return {n: made[n] for n in call.roles}, batch


def _float_inputs(call: Call) -> dict[str, Input]:
    return {n: i for n, i in call.inputs.items() if n in call.roles and i.is_float}


def _page_map(call: Call, generator: torch.Generator) -> torch.Tensor | None:
    """Where each page of the cache moves to."""
    if not call.having(Role.PAGE_IDS, Role.BLOCK_TABLE, Role.TOKEN_INDICES):
        return None
    return torch.randperm(call.num_pages, generator=generator, device=generator.device)


def _alone(role: Role) -> Role:
    """What a description of sequences is where its shape does not fit the batch's."""
    return Role.INTEGER if role in SEQUENCE_ROLES else role


def _indices(
    call: Call,
    known: Mapping[str, torch.Tensor],
    pages: torch.Tensor | None,
    source: Source,
    sequenced: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Integers other than the description of sequences, and what of that one did not fit."""
    made: dict[str, torch.Tensor] = {}
    for name, role in call.roles.items():
        one = call.inputs[name]
        if one.is_float or name in sequenced:
            continue
        if name not in known:
            made[name] = integers.make(call, one, _alone(role), source)
            continue
        moved = integers.shuffled(call, known[name], role, pages, source.numbers)
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
            made[name] = captured.resampled(call, one, role, known[name], floats.source)
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
