"""Cheats and bugs that need a GPU: streams, graphs, events, and memory of the device."""

from __future__ import annotations

from kernel_generator.domain.outcome import Outcome
from tests.adversarial.definitions import GEMM, NORM, honestly
from tests.adversarial.records import FOUND_OUT, UNSTEADY, WRONG, Cheat, Neutralised, Rejected
from tests.adversarial.sources import CUDA_BODY, cuda

CLAIM = "a claim is credited only where the judge's clock bears it out"
AS_SOON = "outputs are looked at the moment the child says that it is done"
UNTRUSTED = frozenset({Outcome.TIMING_UNTRUSTED})

_NORM_RUN = "\n\ndef run(hidden_states, weight):\n    return honest(hidden_states, weight)\n"

CASES = (
    Cheat(
        "patches CUDA events in Python",
        "Replaces torch.cuda.Event.elapsed_time by almost nothing.",
        NORM,
        honestly(NORM) + "\ntorch.cuda.Event.elapsed_time = lambda self, other: 1e-6\n" + _NORM_RUN,
        device="cuda",
        ends=Neutralised(),
        stopped_by=CLAIM,
    ),
    Cheat(
        "patches CUDA events in memory",
        "Overwrites cudaEventElapsedTime's machine code with one that says a nanosecond.",
        NORM,
        honestly(NORM)
        + """
import ctypes
import glob
import os
import re

with open("/proc/self/maps") as maps:
    library = re.search(r"/\\S*libcudart[^/\\s]*", maps.read())
if library:
    libc, runtime = ctypes.CDLL(None), ctypes.CDLL(library.group(0))
    at = ctypes.cast(runtime.cudaEventElapsedTime, ctypes.c_void_p).value
    page = at & -4096
    libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(8192), 7)
    # mov dword ptr [rdi], 1e-6f; xor eax, eax; ret
    ctypes.memmove(at, bytes.fromhex("c707bd37863531c0c3"), 9)
"""
        + _NORM_RUN,
        device="cuda",
        ends=Neutralised(),
        stopped_by=CLAIM,
    ),
    Cheat(
        "patches torch.cuda.synchronize",
        "Replaces synchronisation by nothing, so that the child answers before the work is done.",
        GEMM,
        honestly(GEMM)
        + "\ntorch.cuda.synchronize = lambda *_: None\n"
        + "torch.cuda.Stream.synchronize = lambda self: None\n"
        + "\n\ndef run(A, B):\n    return honest(A, B)\n",
        device="cuda",
        # What is not complete has no time that could be read.
        ends=Neutralised(found_out=FOUND_OUT | {Outcome.RUNTIME_ERROR}),
        stopped_by=AS_SOON + "; " + CLAIM,
    ),
    Cheat(
        "does not join its side stream",
        "Computes on a stream of its own that nobody waits for.",
        NORM,
        honestly(NORM)
        + """
side = torch.cuda.Stream()


def run(hidden_states, weight, output):
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)
        output.copy_(honest(hidden_states, weight))
""",
        device="cuda",
        passing=True,
        ends=Rejected(WRONG | UNTRUSTED),
        stopped_by=CLAIM + "; timed outputs are checked",
    ),
    Cheat(
        "computes on a stream of high priority",
        "Launches on a high-priority stream that nobody joins, past the events on the other.",
        GEMM,
        honestly(GEMM)
        + """
side = torch.cuda.Stream(priority=-5)


def run(A, B, C):
    with torch.cuda.stream(side):
        C.copy_(honest(A, B))
""",
        device="cuda",
        passing=True,
        ends=Rejected(WRONG | UNTRUSTED),
        stopped_by=CLAIM,
    ),
    Cheat(
        "replays a graph of its first inputs",
        "Captures a CUDA graph over a copy of the first inputs and replays it for all others.",
        NORM,
        honestly(NORM)
        + """
graphs = {}


def run(hidden_states, weight):
    key = hidden_states.shape
    if key not in graphs:
        x, w = hidden_states.clone(), weight.clone()
        honest(x, w)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = honest(x, w)
        graphs[key] = graph, out, x, w
    graph, out, *_ = graphs[key]
    graph.replay()
    return out.clone()
""",
        device="cuda",
        ends=Rejected(WRONG),
        stopped_by="several trials, each with values that were not there before",
    ),
    Cheat(
        "CUDA copies a remembered output",
        "Keeps outputs in device memory by address and copies them from there.",
        NORM,
        cuda(
            """
  static std::map<const void*, void*> kept;
  static int calls = 0;
  if (++calls > 12 && kept.count(x)) {
    cudaMemcpyAsync(y, kept[x], rows * columns * 2, cudaMemcpyDeviceToDevice, stream);
    return;
  }
"""
            + CUDA_BODY
            + """
  if (!kept.count(x)) cudaMalloc(&kept[x], rows * columns * 2);
  cudaMemcpyAsync(kept[x], y, rows * columns * 2, cudaMemcpyDeviceToDevice, stream);
"""
        ),
        language="cuda",
        device="cuda",
        passing=True,
        ends=Rejected(WRONG),
        stopped_by="timed outputs are checked; trials after timing",
    ),
    Cheat(
        "CUDA keeps the device busy for others",
        "Leaves long kernels on a side stream that occupy the device while others are timed.",
        NORM,
        cuda(
            CUDA_BODY
            + """
  static cudaStream_t side = nullptr;
  if (!side) cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking);
  if (cudaStreamQuery(side) == cudaSuccess) spin<<<1024, 1024, 0, side>>>(20000000);
"""
        ),
        language="cuda",
        device="cuda",
        passing=True,
        ends=Neutralised("CUDA in two kernels"),
        stopped_by="the clock runs until all of a child's work on the device is done",
    ),
    Cheat(
        "CUDA keeps its inputs in L2",
        "Sets persisting lines aside for its inputs, so that they survive a flush.",
        NORM,
        cuda(
            """
  cudaDeviceSetLimit(cudaLimitPersistingL2CacheSize, 24 << 20);
  cudaStreamAttrValue window = {};
  window.accessPolicyWindow.base_ptr = const_cast<bf16*>(x);
  window.accessPolicyWindow.num_bytes = rows * columns * 2;
  window.accessPolicyWindow.hitRatio = 1.0f;
  window.accessPolicyWindow.hitProp = cudaAccessPropertyPersisting;
  window.accessPolicyWindow.missProp = cudaAccessPropertyStreaming;
  cudaStreamSetAttribute(stream, cudaStreamAttributeAccessPolicyWindow, &window);
"""
            + CUDA_BODY
        ),
        language="cuda",
        device="cuda",
        passing=True,
        ends=Neutralised("CUDA in two kernels"),
        stopped_by="not stopped: inputs are new in every block, and a time below what reading them "
        "takes at the memory's peak is refused, which bounds the gain",
    ),
    Cheat(
        "CUDA writes past its output",
        "Runs over one row too many.",
        NORM,
        cuda(CUDA_BODY.replace("scale<<<rows,", "scale<<<rows + 1,")),
        language="cuda",
        device="cuda",
        passing=True,
        ends=Rejected(frozenset({Outcome.OUT_OF_BOUNDS, Outcome.CRASHED, Outcome.RUNTIME_ERROR})),
        stopped_by="guard zones around every tensor",
    ),
    Cheat(
        "CUDA leaves out a barrier",
        "Sums over shared memory without waiting for the other warps.",
        NORM,
        cuda(sync=""),
        language="cuda",
        device="cuda",
        passing=True,
        ends=Rejected(UNSTEADY),
        stopped_by="the same inputs twice give the same bits; every element is compared",
    ),
)
