"""Kernels in C++, CUDA and Triton that several cases share, with a place for what differs."""

from __future__ import annotations

IN_A_TRAIN = """
import sys


def train():
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_name not in ("_train", "_gated_train"):
        frame = frame.f_back
    return frame


"""
"""The judge's train that called whoever calls `train`'s caller; None where there is none."""

RAW_MEMORY = """
import ctypes


class Memory:
    def __init__(self, pointer, nbytes):
        self.__cuda_array_interface__ = {
            "shape": (nbytes,), "typestr": "|u1", "data": (pointer, False), "version": 3
        }


def reach(first, nbytes):
    # What lies at a tensor and behind it, as numbers of its kind.
    pointer = first.data_ptr()
    if first.is_cuda:
        raw = torch.as_tensor(Memory(pointer, nbytes), device="cuda")
    else:
        here = (ctypes.c_uint8 * nbytes).from_address(pointer)
        raw = torch.frombuffer(here, dtype=torch.uint8)
    return raw.view(first.dtype)


def spread(tensors):
    # Tensors that lie at equal distances, as one.
    first, second = tensors[0], tensors[1]
    step = second.data_ptr() - first.data_ptr()
    found = reach(first, step * (len(tensors) - 1) + first.nbytes)
    apart = step // first.element_size()
    return torch.as_strided(found, (len(tensors), *first.shape), (apart, *first.stride()))


"""
"""Memory beyond the tensors that a candidate is handed, after `import torch`."""

CPP_NORM = """
#include <cmath>
#include <cstdint>
#include <cstring>
#include <chrono>
#include <map>
#include <thread>
#include <vector>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>

static float widen(uint16_t bits) {
  uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

static uint16_t narrow(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static void one_row(const uint16_t* x, const uint16_t* w, uint16_t* y, int64_t columns) {
  float sum = 0;
  for (int64_t j = 0; j < columns; ++j) sum += widen(x[j]) * widen(x[j]);
  const float scale = 1.0f / std::sqrt(sum / columns + 1e-6f);
  for (int64_t j = 0; j < columns; ++j) y[j] = narrow(widen(x[j]) * scale * widen(w[j]));
}

static void all_rows(
    const uint16_t* x, const uint16_t* w, uint16_t* y, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; ++i) one_row(x + i * columns, w, y + i * columns, columns);
}

void run(
    tvm::ffi::TensorView hidden_states, tvm::ffi::TensorView weight, tvm::ffi::TensorView output) {
  const auto* x = static_cast<const uint16_t*>(hidden_states.data_ptr());
  const auto* w = static_cast<const uint16_t*>(weight.data_ptr());
  auto* y = static_cast<uint16_t*>(output.data_ptr());
  const int64_t rows = output.size(0), columns = output.size(1);
  BODY
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
"""

CUDA_NORM = """
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <cstdint>
#include <map>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/function.h>

using bf16 = __nv_bfloat16;

__global__ void sums(const bf16* x, float* sum, int columns) {
  float mine = 0;
  for (int j = threadIdx.x; j < columns; j += blockDim.x) {
    const float v = __bfloat162float(x[blockIdx.x * columns + j]);
    mine += v * v;
  }
  __shared__ float partial[256];
  partial[threadIdx.x] = mine;
  __syncthreads();
  for (int half = 128; half > 0; half /= 2) {
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    SYNC
  }
  if (threadIdx.x == 0) sum[blockIdx.x] = partial[0];
}

__global__ void scale(const bf16* x, const bf16* w, const float* sum, bf16* y, int columns) {
  const float s = rsqrtf(sum[blockIdx.x] / columns + 1e-6f);
  for (int j = threadIdx.x; j < columns; j += blockDim.x) {
    const int at = blockIdx.x * columns + j;
    y[at] = __float2bfloat16(__bfloat162float(x[at]) * s * __bfloat162float(w[j]));
  }
}

__global__ void atomic_sums(const bf16* x, float* sum, int columns) {
  float mine = 0;
  for (int j = threadIdx.x; j < columns; j += blockDim.x) {
    const float v = __bfloat162float(x[blockIdx.x * columns + j]);
    mine += v * v;
  }
  atomicAdd(sum + blockIdx.x, mine);
}

__global__ void spin(long long cycles) {
  const long long began = clock64();
  while (clock64() - began < cycles) {}
}

static float* workspace(int rows) {
  static float* kept = nullptr;
  static int size = 0;
  if (rows > size) {
    if (kept) cudaFree(kept);
    cudaMalloc(&kept, rows * sizeof(float));
    size = rows;
  }
  return kept;
}

void run(
    tvm::ffi::TensorView hidden_states, tvm::ffi::TensorView weight, tvm::ffi::TensorView output) {
  const auto* x = static_cast<const bf16*>(hidden_states.data_ptr());
  const auto* w = static_cast<const bf16*>(weight.data_ptr());
  auto* y = static_cast<bf16*>(output.data_ptr());
  const int rows = output.size(0), columns = output.size(1);
  auto device = hidden_states.device();
  auto stream = static_cast<cudaStream_t>(
      TVMFFIEnvGetStream(device.device_type, device.device_id));
  BODY
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
"""

CUDA_BODY = """
  sums<<<rows, 256, 0, stream>>>(x, workspace(rows), columns);
  scale<<<rows, 256, 0, stream>>>(x, w, workspace(rows), y, columns);
"""

TRITON_NORM = """
import torch
import triton
import triton.language as tl


DECORATION
@triton.jit
def kernel(x, w, y, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    mask = at < columns
    v = tl.load(x + row * columns + at, mask=mask, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(v * v, axis=0) / columns + 1e-6)
    u = tl.load(w + at, mask=mask, other=0.0).to(tl.float32)
    BODY
    tl.store(y + row * columns + at, (v * scale * u).to(tl.bfloat16), mask=mask)


def run(hidden_states, weight, output):
    rows, columns = hidden_states.shape
    LAUNCH
"""

TRITON_LAUNCH = "kernel[(rows,)](hidden_states, weight, output, columns, BLOCK=2048)"


def cpp(body: str) -> str:
    """A C++ kernel of the normalisation whose `run` does `body`."""
    return CPP_NORM.replace("BODY", body)


def cuda(body: str = CUDA_BODY, sync: str = "__syncthreads();") -> str:
    """A CUDA kernel of the normalisation whose `run` does `body`."""
    return CUDA_NORM.replace("BODY", body).replace("SYNC", sync)


def triton(body: str = "pass", launch: str = TRITON_LAUNCH, decoration: str = "") -> str:
    """A Triton kernel of the normalisation."""
    text = TRITON_NORM.replace("BODY", body).replace("LAUNCH", launch)
    return text.replace("DECORATION\n", decoration)
