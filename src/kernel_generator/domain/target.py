"""What a kernel is written for: the hardware table, with the source of each figure.

Rates are the vendors' dense peak rates; a measured ceiling takes precedence where one exists.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kernel_generator.domain.errors import UnknownName


@dataclass(frozen=True)
class Target:
    """One kind of processor that kernels are generated for."""

    name: str
    kind: str
    """'cuda' or 'cpu'."""
    architecture: str = ""
    """CUDA architecture as the builder takes it, '9.0a' for example; empty for a CPU."""
    multiprocessors: int = 0
    memory_gib: int = 0
    bandwidth_gb_s: float = 0.0
    """Peak device-memory bandwidth, 1e9 bytes per second; 0 where unknown."""
    shared_memory_kib: int = 0
    """Most shared memory one block can have."""
    l2_mib: float = 0.0
    peak_tflops: dict[str, float] = field(default_factory=dict[str, float])
    """Dense peak by format ('bf16 tensor', 'fp32', ...), 1e12 operations per second."""
    features: tuple[str, ...] = ()
    """What the chip adds over its predecessors and how a kernel reaches it."""
    source: str = ""
    """Where the figures are from."""
    min_cuda: tuple[int, int] = (0, 0)
    """First nvcc release that knows the architecture."""
    last_cuda: tuple[int, int] | None = None
    """Last nvcc release that still serves it; None while current ones do."""
    last_triton: str | None = None
    """Last Triton release that still serves it; None while current ones do."""
    product_names: tuple[str, ...] = ()
    """Substrings by which the driver's device name is recognised."""

    @property
    def is_gpu(self) -> bool:
        """True for CUDA targets."""
        return self.kind == "cuda"


TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target(
            name="H100",
            kind="cuda",
            architecture="9.0a",
            multiprocessors=132,
            memory_gib=80,
            bandwidth_gb_s=3350.0,
            shared_memory_kib=227,
            l2_mib=50,
            peak_tflops={"bf16 tensor": 989.0, "fp16 tensor": 989.0, "fp32": 67.0},
            product_names=("H100",),
            min_cuda=(12, 0),
        ),
        Target(name="CPU", kind="cpu"),
    )
}
"""By canonical name."""


def find_target(name: str) -> Target:
    """The target of that name, in any case.

    Raises `UnknownName` with the closest names.
    """
    for known, target in TARGETS.items():
        if known.lower() == name.strip().lower():
            return target
    raise UnknownName("target", name, list(TARGETS))
