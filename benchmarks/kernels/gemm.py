"""Matrix products: eight CUDA kernels that nvcc compiles, each with tiles of its own, and eight
Python ones for a machine without a GPU."""

from __future__ import annotations

from kernels.family import Family, bundled, constants, solution

NAME = "gemm_n1024_k1024"
_PICKS = (3, 5)
"""256 and 1024 rows."""
_CPU_PICKS = (1, 2)

_SOURCE = """\
// C = A * B^T on tensor cores. A block's tiles of A and B go through registers into one of two
// buffers in shared memory while the other is multiplied; the sums are taken in float32.
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <mma.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/function.h>

#include <cstdint>

namespace {

using nvcuda::wmma::accumulator;
using nvcuda::wmma::col_major;
using nvcuda::wmma::fragment;
using nvcuda::wmma::matrix_a;
using nvcuda::wmma::matrix_b;
using nvcuda::wmma::row_major;

constexpr int kThreads = 32 * WARPS_M * WARPS_N;
constexpr int kVector = 8;               // bfloat16 values in 16 bytes
constexpr int kPitch = TILE_K + 8;       // of a row in shared memory: keeps banks apart
constexpr int kPerRow = TILE_K / kVector;
constexpr int kLoadsA = TILE_M * kPerRow / kThreads;
constexpr int kLoadsB = TILE_N * kPerRow / kThreads;
constexpr int kFragmentsM = TILE_M / WARPS_M / 16;
constexpr int kFragmentsN = TILE_N / WARPS_N / 16;
static_assert(kLoadsA * kThreads == TILE_M * kPerRow && kLoadsA > 0, "A tile is shared evenly");
static_assert(kLoadsB * kThreads == TILE_N * kPerRow && kLoadsB > 0, "B tile is shared evenly");
static_assert(kFragmentsM * WARPS_M * 16 == TILE_M && kFragmentsN * WARPS_N * 16 == TILE_N, "");

struct Operands {
  __nv_bfloat16 a[2][TILE_M * kPitch];
  __nv_bfloat16 b[2][TILE_N * kPitch];
};

union Shared {
  Operands operands;
  float sums[WARPS_M * WARPS_N][16 * 16];
};

// Thread t's i-th 16 bytes of a tile of `matrix` (rows of k values); zero past `rows`.
__device__ __forceinline__ uint4 Fetch(const __nv_bfloat16* matrix, int first, int rows, int k,
                                       int at_k, int i) {
  const int piece = threadIdx.x + i * kThreads;
  const int row = first + piece / kPerRow;
  if (row >= rows) return make_uint4(0, 0, 0, 0);
  const int64_t at = static_cast<int64_t>(row) * k + at_k + piece % kPerRow * kVector;
  return *reinterpret_cast<const uint4*>(matrix + at);
}

__device__ __forceinline__ void Put(__nv_bfloat16* tile, uint4 value, int i) {
  const int piece = threadIdx.x + i * kThreads;
  *reinterpret_cast<uint4*>(tile + piece / kPerRow * kPitch + piece % kPerRow * kVector) = value;
}

__global__ void __launch_bounds__(kThreads)
    Gemm(const __nv_bfloat16* __restrict__ a, const __nv_bfloat16* __restrict__ b,
         __nv_bfloat16* __restrict__ c, int m, int n, int k) {
  __shared__ __align__(128) Shared shared;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int first_m = blockIdx.y * TILE_M, first_n = blockIdx.x * TILE_N;
  const int warp_m = warp / WARPS_N * (TILE_M / WARPS_M);
  const int warp_n = warp % WARPS_N * (TILE_N / WARPS_N);

  fragment<accumulator, 16, 16, 16, float> sums[kFragmentsM][kFragmentsN];
  for (int i = 0; i < kFragmentsM; ++i) {
    for (int j = 0; j < kFragmentsN; ++j) nvcuda::wmma::fill_fragment(sums[i][j], 0.0f);
  }

  uint4 next_a[kLoadsA], next_b[kLoadsB];
#pragma unroll
  for (int i = 0; i < kLoadsA; ++i) next_a[i] = Fetch(a, first_m, m, k, 0, i);
#pragma unroll
  for (int i = 0; i < kLoadsB; ++i) next_b[i] = Fetch(b, first_n, n, k, 0, i);

  const int steps = k / TILE_K;
  for (int step = 0; step < steps; ++step) {
    __nv_bfloat16* tile_a = shared.operands.a[step % 2];
    __nv_bfloat16* tile_b = shared.operands.b[step % 2];
#pragma unroll
    for (int i = 0; i < kLoadsA; ++i) Put(tile_a, next_a[i], i);
#pragma unroll
    for (int i = 0; i < kLoadsB; ++i) Put(tile_b, next_b[i], i);
    // One barrier a step is enough: a buffer is written again two steps later, and between lies
    // the next step's barrier, which no warp passes before all have read this one.
    __syncthreads();
    if (step + 1 < steps) {
#pragma unroll
      for (int i = 0; i < kLoadsA; ++i) {
        next_a[i] = Fetch(a, first_m, m, k, (step + 1) * TILE_K, i);
      }
#pragma unroll
      for (int i = 0; i < kLoadsB; ++i) {
        next_b[i] = Fetch(b, first_n, n, k, (step + 1) * TILE_K, i);
      }
    }
#pragma unroll
    for (int at = 0; at < TILE_K; at += 16) {
      fragment<matrix_a, 16, 16, 16, __nv_bfloat16, row_major> left[kFragmentsM];
      fragment<matrix_b, 16, 16, 16, __nv_bfloat16, col_major> right[kFragmentsN];
#pragma unroll
      for (int i = 0; i < kFragmentsM; ++i) {
        nvcuda::wmma::load_matrix_sync(left[i], tile_a + (warp_m + i * 16) * kPitch + at, kPitch);
      }
#pragma unroll
      for (int j = 0; j < kFragmentsN; ++j) {
        nvcuda::wmma::load_matrix_sync(right[j], tile_b + (warp_n + j * 16) * kPitch + at, kPitch);
      }
#pragma unroll
      for (int i = 0; i < kFragmentsM; ++i) {
#pragma unroll
        for (int j = 0; j < kFragmentsN; ++j) {
          nvcuda::wmma::mma_sync(sums[i][j], left[i], right[j], sums[i][j]);
        }
      }
    }
  }

  __syncthreads();  // the sums go where the operands were
  float* mine = shared.sums[warp];
#pragma unroll
  for (int i = 0; i < kFragmentsM; ++i) {
#pragma unroll
    for (int j = 0; j < kFragmentsN; ++j) {
      nvcuda::wmma::store_matrix_sync(mine, sums[i][j], 16, nvcuda::wmma::mem_row_major);
      __syncwarp();
      const int row = first_m + warp_m + i * 16 + lane / 2;
      const int column = first_n + warp_n + j * 16 + lane % 2 * kVector;
      if (row < m) {
        __align__(16) __nv_bfloat16 out[kVector];
        for (int v = 0; v < kVector; ++v) {
          out[v] = __float2bfloat16_rn(mine[lane / 2 * 16 + lane % 2 * kVector + v]);
        }
        *reinterpret_cast<uint4*>(c + static_cast<int64_t>(row) * n + column) =
            *reinterpret_cast<const uint4*>(out);
      }
      __syncwarp();
    }
  }
}

void Run(tvm::ffi::TensorView a, tvm::ffi::TensorView b, tvm::ffi::TensorView c) {
  const int m = static_cast<int>(a.size(0)), k = static_cast<int>(a.size(1));
  const int n = static_cast<int>(b.size(0));
  if (m == 0) return;
  if (n % TILE_N != 0 || k % TILE_K != 0) {
    TVM_FFI_THROW(ValueError) << "n and k must be multiples of the tile";
  }
  const DLDevice device = a.device();
  auto stream =
      static_cast<cudaStream_t>(TVMFFIEnvGetStream(device.device_type, device.device_id));
  const dim3 grid(n / TILE_N, (m + TILE_M - 1) / TILE_M);
  Gemm<<<grid, kThreads, 0, stream>>>(static_cast<const __nv_bfloat16*>(a.data_ptr()),
                                      static_cast<const __nv_bfloat16*>(b.data_ptr()),
                                      static_cast<__nv_bfloat16*>(c.data_ptr()), m, n, k);
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) TVM_FFI_THROW(RuntimeError) << cudaGetErrorString(status);
}

}  // namespace

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, Run);
"""


def _tiles(m: int, n: int, k: int, warps_m: int, warps_n: int) -> dict[str, int]:
    return {"TILE_M": m, "TILE_N": n, "TILE_K": k, "WARPS_M": warps_m, "WARPS_N": warps_n}


_VERSIONS = (
    _tiles(32, 32, 64, 2, 2),
    _tiles(64, 32, 32, 2, 2),
    _tiles(64, 64, 32, 2, 2),
    _tiles(64, 64, 64, 2, 2),
    _tiles(32, 128, 32, 1, 4),
    _tiles(128, 64, 32, 4, 2),
    _tiles(64, 128, 32, 2, 4),
    _tiles(128, 128, 32, 2, 4),
)

_PYTHON = """\
\"\"\"A block of output features at a time.\"\"\"
import torch


def run(A, B, C):
    for start in range(0, B.shape[0], FEATURES):
        some = slice(start, start + FEATURES)
        C[:, some] = (A.float() @ B[some].float().T).to(C.dtype)
"""
_FEATURES = (32, 64, 96, 128, 256, 384, 512, 1024)


def cuda_family() -> Family:
    """Eight CUDA kernels for the bundled definition."""
    definition, workloads = bundled(NAME, _PICKS)
    return Family(
        "gemm",
        "CUDA GEMM",
        definition,
        workloads,
        tuple(
            solution(
                NAME, f"gemm_cuda_{i}", "cuda", constants(tiles, "#define {name} {value}") + _SOURCE
            )
            for i, tiles in enumerate(_VERSIONS)
        ),
    )


def python_family() -> Family:
    """Eight Python kernels for the bundled definition."""
    definition, workloads = bundled(NAME, _CPU_PICKS)
    return Family(
        "gemm",
        "Python GEMM",
        definition,
        workloads,
        tuple(
            solution(NAME, f"gemm_python_{i}", "python", f"FEATURES = {features}\n{_PYTHON}")
            for i, features in enumerate(_FEATURES)
        ),
    )
