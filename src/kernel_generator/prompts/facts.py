"""What a brief says, as rows of plain text for the templates: no figure is invented here.

What is not known is said to be not known, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernel_generator.prompts.conventions import element_type

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashinfer_bench import Definition, Workload

    from kernel_generator.domain.attempt import Attempt
    from kernel_generator.domain.target import Target
    from kernel_generator.domain.task import Brief, Floor, Toolchain

MAX_EARLIER_ATTEMPTS = 12
"""Outcomes of at most this many earlier attempts are told, the latest."""

_SIGNIFICANT_BITS = {
    "float32": 24,
    "float16": 11,
    "bfloat16": 8,
    "float8_e4m3fn": 4,
    "float8_e5m2": 3,
    "float4_e2m1": 2,
}


@dataclass(frozen=True)
class AxisRow:
    """One axis of the definition."""

    name: str
    kind: str
    description: str


@dataclass(frozen=True)
class TensorRow:
    """One input or output."""

    name: str
    type: str
    description: str


@dataclass(frozen=True)
class WorkloadRow:
    """One searched workload with its floor."""

    sizes: str
    inputs: str
    bytes: str
    operations: str


def axis_rows(definition: Definition) -> tuple[AxisRow, ...]:
    """Every axis, with its value where it is constant."""
    constants = definition.const_axes
    return tuple(
        AxisRow(
            name=name,
            kind=f"constant, {constants[name]}" if name in constants else "variable",
            description=axis.description or "",
        )
        for name, axis in definition.axes.items()
    )


def tensor_rows(definition: Definition, language: str, *, inputs: bool) -> tuple[TensorRow, ...]:
    """Inputs or outputs in calling order, with the element type where the language needs one."""
    rows: list[TensorRow] = []
    for name, spec in (definition.inputs if inputs else definition.outputs).items():
        dtype = spec.dtype.value
        if spec.shape is not None:
            text = f"{dtype} [{', '.join(spec.shape)}]"
        else:
            text = f"{dtype} scalar" if inputs else f"{dtype} tensor without dimensions"
        c_type = element_type(language, dtype)
        if c_type is not None and (spec.shape is not None or not inputs):
            text += f" (element type {c_type})"
        rows.append(TensorRow(name=name, type=text, description=spec.description or ""))
    return tuple(rows)


def workload_rows(brief: Brief) -> tuple[WorkloadRow, ...]:
    """The searched workloads in the brief's order."""
    return tuple(_workload_row(w, brief) for w in brief.workloads)


def sizes(axes: Mapping[str, int]) -> str:
    """'batch=4, seq=128', or a phrase where no axis varies."""
    if not axes:
        return "the only size"
    return ", ".join(f"{name}={value}" for name, value in axes.items())


def tolerances(definition: Definition) -> str:
    """What the outputs' dtypes can hold, in words."""
    told: dict[str, None] = {}
    for spec in definition.outputs.values():
        bits = _SIGNIFICANT_BITS.get(spec.dtype.value)
        precision = f"{bits} significant bits" if bits is not None else "exact"
        told[f"{spec.dtype.value}: {precision}"] = None
    return "; ".join(told)


def target_lines(target: Target, toolchain: Toolchain) -> tuple[str, ...]:
    """The target's card, a line per fact."""
    if not target.is_gpu:
        extensions = ", ".join(toolchain.vector_extensions) or "not known"
        lines = [
            f"CPU: {toolchain.cpu or 'model not known'}, {toolchain.cores} "
            f"core{'s' if toolchain.cores != 1 else ''}",
            f"Vector extensions: {extensions}",
        ]
        if not target.source:
            return (*lines, "Memory bandwidth and peak rates are not known")
        rates = ", ".join(f"{form} {rate:.2g}" for form, rate in target.peak_tflops.items())
        return (
            *lines,
            f"{target.memory_gib} GB of memory, copied at {target.bandwidth_gb_s:.0f} GB/s (reads "
            f"and writes together); last-level cache {target.l2_mib:g} MB",
            f"Matrix products reach, in TFLOP/s: {rates}",
            f"Figures: {target.source}",
        )
    rates = ", ".join(f"{form} {rate:g}" for form, rate in target.peak_tflops.items())
    return (
        f"Architecture {target.architecture}, {target.multiprocessors} SMs, "
        f"{target.memory_gib} GB at {target.bandwidth_gb_s:,.0f} GB/s, L2 {target.l2_mib:g} MB, "
        f"up to {target.shared_memory_kib} KiB shared memory per block",
        f"Peak dense rates in TFLOP/s (TOP/s for integers): {rates}",
        *target.features,
        f"Figures from: {target.source}",
    )


def versions(toolchain: Toolchain) -> str:
    """Versions found on the machine, in one line."""
    found = (
        ("Python", toolchain.python),
        ("torch", toolchain.torch),
        ("Triton", toolchain.triton),
        ("CUDA", toolchain.cuda),
        ("C++ compiler", toolchain.compiler),
    )
    return ", ".join(f"{name} {version or 'not installed'}" for name, version in found)


def machine_note(brief: Brief) -> str:
    """What the judging machine lacks, where that changes what can be found out; else empty."""
    if not brief.target.is_gpu or brief.toolchain.gpu is not None:
        return ""
    how = {
        "triton": "Triton runs in its interpreter, for correctness only",
        "cuda": "the code is compiled but cannot be run",
    }.get(brief.language, "the code cannot be timed")
    return f"The judging machine has no GPU: {how}. Write for {brief.target.name} all the same."


def is_sampling(definition: Definition) -> bool:
    """True where the outputs are random draws."""
    return "sampling" in definition.op_type.lower()


def earlier_outcomes(history: Sequence[Attempt]) -> str:
    """One line on how the attempts so far ended; empty where there are none."""
    shown = list(enumerate(history, start=1))[-MAX_EARLIER_ATTEMPTS:]
    return "; ".join(f"#{i} {_ended(a)}" for i, a in shown)


def quantity(value: float, unit: str) -> str:
    """`value` with a decimal prefix: 12.6 M of a unit, for bytes and operations."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.0f} {unit}"


def microseconds(value: float) -> str:
    """A time given in microseconds, in the unit that reads best."""
    if value < 0.1:
        return "under 0.1 µs"
    if value >= 1e6:
        return f"{value / 1e6:.3g} s"
    if value >= 1e4:
        return f"{value / 1e3:.3g} ms"
    return f"{value:.3g} µs" if value < 1e3 else f"{value:.0f} µs"


def _ended(attempt: Attempt) -> str:
    text = f"{attempt.proposal.purpose.value}: {attempt.outcome.value}"
    if attempt.duplicate_of is not None:
        return f"{text} (the same source as #{attempt.duplicate_of + 1})"
    return text if attempt.speedup is None else f"{text} ({attempt.speedup:.2f}×)"


def _workload_row(workload: Workload, brief: Brief) -> WorkloadRow:
    captured = [name for name, spec in workload.inputs.items() if spec.type == "safetensors"]
    inputs = [
        f"{name} = {spec.value!r}"
        for name, spec in workload.inputs.items()
        if spec.type == "scalar"
    ]
    if captured:
        inputs.append(f"{', '.join(captured)} captured from real use")
    floor = brief.floors.get(workload.uuid)
    return WorkloadRow(
        sizes=sizes(workload.axes),
        inputs="; ".join(inputs),
        bytes=_bytes(floor, brief.target),
        operations=_operations(floor),
    )


def _bytes(floor: Floor | None, target: Target) -> str:
    if floor is None:
        return "in bytes not known (not worked out for this workload)"
    if floor.compulsory_bytes is None:
        declared = quantity(floor.declared_bytes, "B")
        return (
            "in bytes not known (indices decide which bytes are touched; "
            f"all declared tensors hold {declared})"
        )
    text = quantity(floor.compulsory_bytes, "B")
    if target.bandwidth_gb_s > 0:
        text += f" ({microseconds(floor.compulsory_bytes / target.bandwidth_gb_s / 1e3)} at peak)"
    return text


def _operations(floor: Floor | None) -> str:
    if floor is None:
        return "operations not known (not worked out for this workload)"
    if floor.operations is None:
        return "operations not known (the reference's could not be counted)"
    text = quantity(floor.operations, "FLOP")
    if floor.compulsory_bytes:
        text += f", {floor.operations / floor.compulsory_bytes:.3g} a byte"
    return text
