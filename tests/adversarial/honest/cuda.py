"""Honest solutions that need a GPU."""

from __future__ import annotations

from tests.adversarial.definitions import GEMM, NORM, honestly
from tests.adversarial.records import Honest
from tests.adversarial.sources import cuda

CASES = (
    Honest(
        "CUDA in two kernels",
        "Launches two kernels, with a workspace kept between calls.",
        NORM,
        cuda(),
        language="cuda",
        device="cuda",
        passing=True,
    ),
    Honest(
        "CUDA with atomics",
        "Adds up with atomics whose order varies, and says so.",
        NORM,
        "// kernel-generator: non-deterministic\n"
        + cuda("""
  cudaMemsetAsync(workspace(rows), 0, rows * sizeof(float), stream);
  atomic_sums<<<rows, 256, 0, stream>>>(x, workspace(rows), columns);
  scale<<<rows, 256, 0, stream>>>(x, w, workspace(rows), y, columns);
"""),
        language="cuda",
        device="cuda",
        passing=True,
        label="non-deterministic",
    ),
    Honest(
        "joins its side stream",
        "Computes half on a stream of its own and waits for it.",
        NORM,
        honestly(NORM)
        + """
side = torch.cuda.Stream()


def run(hidden_states, weight, output):
    half, main = len(output) // 2, torch.cuda.current_stream()
    side.wait_stream(main)
    with torch.cuda.stream(side):
        output[half:] = honest(hidden_states[half:], weight)
    output[:half] = honest(hidden_states[:half], weight)
    main.wait_stream(side)
""",
        device="cuda",
        passing=True,
    ),
    Honest(
        "replays a graph of its own",
        "Copies its inputs into a captured CUDA graph, replays it and copies the result out.",
        NORM,
        honestly(NORM)
        + """
graphs = {}


def run(hidden_states, weight, output):
    key = hidden_states.shape
    if torch.cuda.is_current_stream_capturing():
        output.copy_(honest(hidden_states, weight))
        return
    if key not in graphs:
        x, w = hidden_states.clone(), weight.clone()
        honest(x, w)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = honest(x, w)
        graphs[key] = graph, out, x, w
    graph, out, x, w = graphs[key]
    x.copy_(hidden_states)
    w.copy_(weight)
    graph.replay()
    output.copy_(out)
""",
        device="cuda",
        passing=True,
    ),
    Honest(
        "uses tensor cores in bfloat16",
        "Multiplies in bfloat16 with float32 accumulation where the reference multiplies float32.",
        GEMM,
        "import torch\n\n\ndef run(A, B, C):\n    torch.matmul(A, B.T, out=C)\n",
        device="cuda",
        passing=True,
        label="torch",
    ),
)
