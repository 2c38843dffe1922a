"""A task: one definition, its workloads (searched and held-out), a target and a language."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from flashinfer_bench import Definition, Workload

    from kernel_generator.domain.target import Target

LANGUAGES: tuple[str, ...] = ("triton", "cuda", "cpp", "python")
"""Languages a kernel may be asked for in; each is a `flashinfer_bench.SupportedLanguages` value."""

SEARCHED_WORKLOADS = 4
"""At most this many workloads are searched on; the rest are held out for the final check."""


@dataclass(frozen=True)
class Toolchain:
    """Versions found on this machine, as told to the author. None: not installed."""

    python: str
    torch: str | None = None
    triton: str | None = None
    cuda: str | None = None
    """nvcc's release, '13.0' for example."""
    compiler: str | None = None
    """The C++ compiler's name and version."""
    cpu: str = ""
    """CPU model name."""
    cores: int = 1
    vector_extensions: tuple[str, ...] = ()
    """'avx2', 'avx512f', 'amx_bf16' and the like, from the operating system."""
    gpu: str | None = None
    """Name of the GPU that will judge, or None."""


@dataclass(frozen=True)
class Floor:
    """The least work a workload takes, whatever the kernel."""

    declared_bytes: int
    """Bytes of all declared inputs and outputs."""
    compulsory_bytes: int | None = None
    """Bytes that any kernel must move; None where indices decide which bytes are touched."""
    operations: int | None = None
    """Floating-point operations counted in the reference; None where not counted."""


@dataclass(frozen=True)
class Brief:
    """What an author is told of a task: everything a prompt is rendered from."""

    definition: Definition
    workloads: tuple[Workload, ...]
    """The searched workloads, by size, smallest first."""
    target: Target
    language: str
    toolchain: Toolchain
    floors: dict[str, Floor] = field(default_factory=dict[str, "Floor"])
    """By workload uuid."""
    held_out: int = 0
    """How many further workloads the final check uses."""


@dataclass(frozen=True)
class Task:
    """What is to be solved."""

    definition: Definition
    searched: tuple[Workload, ...]
    held_out: tuple[Workload, ...]
    target: Target
    language: str
    root: Path | None = None
    """Folder that safetensors paths of the workloads are relative to."""

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """All workloads, searched first."""
        return self.searched + self.held_out
