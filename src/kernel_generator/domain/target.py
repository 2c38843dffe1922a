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
    """L2 of a GPU, last-level cache of a CPU."""
    peak_tflops: dict[str, float] = field(default_factory=dict[str, float])
    """Dense peak by format ('bf16 tensor', 'fp32', ...), 1e12 operations per second."""
    copy_gb_s: float | None = None
    """What a large device-to-device copy was measured to move, read and written bytes together;
    None where nobody measured."""
    measured_tflops: dict[str, float] = field(default_factory=dict[str, float])
    """What the best matrix products were measured to reach, by format; empty where nobody did."""
    ceiling_gb_s: float | None = None
    """Peak bandwidth of the fastest product among `product_names`, where it is not
    `bandwidth_gb_s`."""
    ceiling_tflops: dict[str, float] = field(default_factory=dict[str, float])
    """Peak rates of a mode or product that is faster than what `peak_tflops` says, by format."""
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
    """Product names as they stand in the driver's device name; see `matches`."""

    @property
    def is_gpu(self) -> bool:
        """True for CUDA targets."""
        return self.kind == "cuda"

    def matches(self, device_name: str) -> bool:
        """True where the driver's device name, 'NVIDIA A100-SXM4-80GB' say, is this product.

        Whole words are compared: 'RTX A1000' is no A100, 'GH200 480GB' no H200, and the laptop
        parts sold under a desktop name are other chips.
        """
        words = _words(device_name)
        if "laptop" in words:
            return False
        return any(
            words[i : i + len(product)] == product
            for product in map(_words, self.product_names)
            for i in range(len(words))
        )


def _words(name: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in name.lower()).split()


_HOPPER_FEATURES = (
    "wgmma: asynchronous warp-group MMA (4 warps, M=64, N up to 256) reading A and B from shared "
    "memory; the peak tensor rates need it, mma.sync reaches about two thirds of them",
    "TMA: cp.async.bulk.tensor moves whole tiles between global and shared memory from one thread, "
    "swizzled, bounds-checked, completing on an mbarrier; multicast within a cluster",
    "mbarrier with transaction counts for producer/consumer pipelines between warp groups",
    "thread-block clusters of up to 8 blocks (16 if opted in) with distributed shared memory",
    "setmaxnreg moves registers from producer to consumer warp groups",
    "fp8 (e4m3, e5m2) tensor cores, twice the bf16 rate",
)

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
            peak_tflops={
                "fp8 tensor": 1979.0,
                "int8 tensor": 1979.0,
                "bf16 tensor": 989.0,
                "fp16 tensor": 989.0,
                "tf32 tensor": 494.0,
                "fp32": 67.0,
            },
            # Both measured on an SXM5.
            copy_gb_s=3000.0,
            measured_tflops={"bf16 tensor": 800.0, "fp16 tensor": 800.0},
            # NVIDIA H100 NVL product brief.
            ceiling_gb_s=3938.0,
            features=_HOPPER_FEATURES,
            source="NVIDIA H100 datasheet (SXM5 80 GB), H100 architecture whitepaper, "
            "CUDA Hopper tuning guide",
            product_names=("H100",),
            min_cuda=(12, 0),
        ),
        Target(
            name="H200",
            kind="cuda",
            architecture="9.0a",
            multiprocessors=132,
            memory_gib=141,
            bandwidth_gb_s=4800.0,
            shared_memory_kib=227,
            l2_mib=50,
            peak_tflops={
                "fp8 tensor": 1979.0,
                "int8 tensor": 1979.0,
                "bf16 tensor": 989.0,
                "fp16 tensor": 989.0,
                "tf32 tensor": 494.0,
                "fp32": 67.0,
            },
            features=_HOPPER_FEATURES,
            source="NVIDIA H200 datasheet (SXM 141 GB), H100 architecture whitepaper, "
            "CUDA Hopper tuning guide",
            product_names=("H200",),
            min_cuda=(12, 0),
        ),
        Target(
            name="B200",
            kind="cuda",
            architecture="10.0a",
            multiprocessors=148,
            memory_gib=180,
            bandwidth_gb_s=8000.0,
            shared_memory_kib=227,
            l2_mib=126,
            peak_tflops={
                "fp4 tensor": 9000.0,
                "fp8 tensor": 4500.0,
                "int8 tensor": 4500.0,
                "bf16 tensor": 2250.0,
                "fp16 tensor": 2250.0,
                "tf32 tensor": 1100.0,
                "fp32": 75.0,
            },
            features=(
                "tcgen05.mma: one thread issues tensor-core work whose accumulators live in Tensor "
                "Memory; Hopper's wgmma does not exist here and mma.sync is far below peak",
                "TMEM: 256 KB of Tensor Memory per SM (128 lanes x 512 columns of 32 bits), "
                "allocated with tcgen05.alloc, read back with tcgen05.ld",
                "2-SM MMA: two blocks of a cluster (cta_group::2) share one MMA up to M=256",
                "block-scaled fp4 (nvfp4, mxfp4), fp6 and fp8 formats in the tensor cores",
                "TMA, mbarrier, clusters and setmaxnreg as on Hopper; cluster launch control for "
                "dynamic persistent scheduling",
                "two dies with one address space: an L2 half is nearer to each die",
            ),
            source="NVIDIA HGX B200 datasheet (1,000 W), CUDA Blackwell tuning guide, PTX ISA "
            "(tcgen05)",
            product_names=("B200", "GB200"),
            min_cuda=(12, 8),
        ),
        Target(
            name="A100",
            kind="cuda",
            architecture="8.0",
            multiprocessors=108,
            memory_gib=80,
            bandwidth_gb_s=2039.0,
            shared_memory_kib=163,
            l2_mib=40,
            peak_tflops={
                "int8 tensor": 624.0,
                "bf16 tensor": 312.0,
                "fp16 tensor": 312.0,
                "tf32 tensor": 156.0,
                "fp32": 19.5,
            },
            features=(
                "cp.async copies global to shared memory without registers: build a multi-stage "
                "ring with cp.async.commit_group / wait_group",
                "mma.sync m16n8k16 on bf16 and fp16, m16n8k8 on tf32, fed by ldmatrix",
                "bf16 and tf32 tensor cores; no fp8",
                "L2 residency control (access policy window); L2 is two partitions of 20 MB",
                "warp-wide integer reductions (redux.sync); no TMA, no wgmma, no clusters",
            ),
            source="NVIDIA A100 datasheet (SXM 80 GB), A100 architecture whitepaper, CUDA Ampere "
            "tuning guide",
            product_names=("A100",),
            min_cuda=(11, 0),
        ),
        Target(
            name="V100",
            kind="cuda",
            architecture="7.0",
            multiprocessors=80,
            memory_gib=32,
            bandwidth_gb_s=900.0,
            shared_memory_kib=96,
            l2_mib=6,
            peak_tflops={"fp16 tensor": 125.0, "fp16": 31.4, "fp32": 15.7},
            features=(
                "first tensor cores: fp16 operands only, mma.sync m8n8k4 or the wmma API",
                "no bf16, tf32 or int8 tensor cores; bf16 arithmetic has to be done in fp32",
                "no cp.async: stage global to shared memory through registers, double-buffered",
                "independent thread scheduling: use the *_sync warp intrinsics with a mask",
            ),
            source="NVIDIA V100 datasheet (SXM2 32 GB), V100 architecture whitepaper, CUDA Volta "
            "tuning guide; CUDA 13.0 release notes and Triton 3.3 for the end of support",
            product_names=("V100",),
            min_cuda=(9, 0),
            last_cuda=(12, 9),
            last_triton="3.2",
        ),
        Target(
            name="L40S",
            kind="cuda",
            architecture="8.9",
            multiprocessors=142,
            memory_gib=48,
            bandwidth_gb_s=864.0,
            shared_memory_kib=99,
            l2_mib=96,
            peak_tflops={
                "fp8 tensor": 733.0,
                "int8 tensor": 733.0,
                "bf16 tensor": 362.0,
                "fp16 tensor": 362.0,
                "tf32 tensor": 183.0,
                "fp32": 91.6,
            },
            features=(
                "fp8 (e4m3, e5m2) through mma.sync m16n8k32",
                "large L2 before slow GDDR6: order tiles so that re-used operands stay in L2",
                "cp.async and ldmatrix as on Ampere; no TMA, no wgmma, no clusters",
                "1,536 resident threads and 100 KB of shared memory per SM",
            ),
            source="NVIDIA L40S datasheet, NVIDIA Ada GPU architecture whitepaper, CUDA Ada tuning "
            "guide",
            product_names=("L40S",),
            min_cuda=(11, 8),
        ),
        Target(
            name="RTX4090",
            kind="cuda",
            architecture="8.9",
            multiprocessors=128,
            memory_gib=24,
            bandwidth_gb_s=1008.0,
            shared_memory_kib=99,
            l2_mib=72,
            peak_tflops={
                "fp8 tensor": 330.3,
                "int8 tensor": 660.6,
                "bf16 tensor": 165.2,
                "fp16 tensor": 165.2,
                "tf32 tensor": 82.6,
                "fp32": 82.6,
            },
            # With fp16 accumulation.
            ceiling_tflops={"fp8 tensor": 660.6, "fp16 tensor": 330.3},
            features=(
                "tensor rates are with fp32 accumulation; fp16 accumulation doubles fp16 and fp8",
                "fp8 (e4m3, e5m2) through mma.sync m16n8k32",
                "large L2 before slower GDDR6X: order tiles so that re-used operands stay in L2",
                "cp.async and ldmatrix as on Ampere; no TMA, no wgmma, no clusters",
                "1,536 resident threads and 100 KB of shared memory per SM",
            ),
            source="NVIDIA Ada GPU architecture whitepaper (GeForce RTX 4090), CUDA Ada tuning "
            "guide",
            product_names=("RTX 4090",),
            min_cuda=(11, 8),
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


def target_of_device(device_name: str) -> Target | None:
    """The target that the driver's device name belongs to, or None where the table has none."""
    return next((t for t in TARGETS.values() if t.matches(device_name)), None)
