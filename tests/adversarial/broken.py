"""Broken and destructive candidates, as a table: what each does, and the outcomes it may have.

All are kernels of `double` (tests/evaluation/judging.py), or of its GPU twin for those of device
'cuda'. What floods or forks bounds itself, so that a judge without limits survives it.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernel_generator.domain.outcome import Outcome

RESULT = frozenset({Outcome.PASSED, Outcome.CORRECT_NOT_MEASURED})
BUILD = frozenset({Outcome.COMPILE_ERROR})
ERROR = frozenset({Outcome.RUNTIME_ERROR})
CRASH = frozenset({Outcome.CRASHED})
LATE = frozenset({Outcome.TIMEOUT})
BOUND = frozenset({Outcome.RESOURCE_LIMIT})

_GOOD = "\n\ndef run(x):\n    return x * 2\n"


@dataclass(frozen=True)
class Broken:
    """One broken candidate."""

    name: str
    source: str
    outcomes: frozenset[Outcome]
    language: str = "python"
    entry: str = ""
    passing: bool = False
    device: str = "any"
    contained: bool = False
    """Run at isolation level 'strict' only."""
    quick: bool = False


CPP_HEAD = """
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>

void run(tvm::ffi::TensorView x, tvm::ffi::TensorView y) {
  BODY
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
"""

CUDA_HEAD = """
#include <cuda_runtime.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>

__global__ void kernel(const float* x, float* y, volatile int* flag) {
  BODY
}

void run(tvm::ffi::TensorView x, tvm::ffi::TensorView y) {
  static int* flag = nullptr;
  if (!flag) {
    cudaMalloc(&flag, sizeof(int));
    cudaMemset(flag, 0, sizeof(int));
  }
  kernel<<<1, 64>>>(static_cast<float*>(x.data_ptr()), static_cast<float*>(y.data_ptr()), flag);
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
"""

BROKEN = (
    Broken("NUL bytes", "def run(x):\n    return x * 2\n\0\n", BUILD, quick=True),
    Broken("ten megabytes of comments", _GOOD + "# " + "x" * 10_000_000 + "\n", RESULT),
    Broken("ten megabytes of one expression", _GOOD + "y = " + "(" * 10_000_000 + "\n", BUILD),
    Broken(
        "ten megabytes of comments that never end",
        CPP_HEAD.replace("BODY", "") + "/* " * 3_400_000,
        BUILD,
        language="cpp",
        passing=True,
    ),
    Broken("syntax error", "def run(x:\n", BUILD, quick=True),
    Broken("import error", "import no_such_module\n" + _GOOD, BUILD),
    Broken("missing entry point", _GOOD, BUILD, entry="main.py::missing"),
    Broken("too many parameters", "def run(x, y, z):\n    return x * 2\n", BUILD | ERROR),
    Broken("too few parameters", "def run():\n    return 1\n", BUILD | ERROR),
    Broken("endless import", "while True:\n    pass\n" + _GOOD, LATE),
    Broken("endless call", "def run(x):\n    while True:\n        pass\n", LATE),
    Broken(
        "endless call without the interpreter's lock",
        "import ctypes\n\n\ndef run(x):\n    ctypes.CDLL(None).pause()\n",
        LATE,
    ),
    Broken(
        "endless exit",
        "import atexit\nimport time\n\n\n@atexit.register\ndef stay():\n    time.sleep(600)\n"
        + _GOOD,
        RESULT,
    ),
    Broken(
        "endless destructor",
        "class Stay:\n    def __del__(self):\n        while True:\n            pass\n\n\n"
        "stay = Stay()\n" + _GOOD,
        RESULT,
    ),
    Broken(
        "ignores being asked to end",
        "import signal\n\nfor number in (1, 2, 3, 15):\n    signal.signal(number, signal.SIG_IGN)\n"
        "\n\ndef run(x):\n    while True:\n        pass\n",
        LATE,
    ),
    Broken("os._exit while it is imported", "import os\n\nos._exit(0)\n", CRASH),
    Broken(
        "os._exit in a call", "import os\n\n\ndef run(x):\n    os._exit(3)\n", CRASH, quick=True
    ),
    Broken("sys.exit in a call", "import sys\n\n\ndef run(x):\n    sys.exit(0)\n", ERROR | CRASH),
    Broken(
        "segmentation fault", "import ctypes\n\n\ndef run(x):\n    ctypes.string_at(0)\n", CRASH
    ),
    Broken(
        "stack overflow in Python",
        "def run(x):\n    return run(x)\n",
        ERROR | CRASH,
    ),
    Broken(
        "stack overflow in native code",
        "import sys\n\n\ndef run(x):\n    sys.setrecursionlimit(10**9)\n    nested = []\n"
        "    for _ in range(200_000):\n        nested = [nested]\n    repr(nested)\n",
        CRASH,
    ),
    Broken(
        "fork bomb",
        # At most 3,000 processes, for at most ten seconds.
        "import os\nimport time\n\n\ndef run(x):\n"
        "    end, born = time.monotonic() + 10, os.open('born', os.O_CREAT | os.O_RDWR)\n"
        "    while time.monotonic() < end and os.fstat(born).st_size < 3000:\n"
        "        os.write(born, b'1')\n"
        "        os.fork()\n"
        "    time.sleep(max(0, end - time.monotonic()))\n"
        "    return x * 2\n",
        BOUND | ERROR | LATE | CRASH,
        contained=True,
    ),
    Broken(
        "a terabyte at once",
        "import torch\n\n\ndef run(x):\n    return torch.empty(1 << 38)\n",
        BOUND,
        quick=True,
    ),
    Broken(
        "memory without end",
        # At most 8 GiB.
        "def run(x):\n    hoard = [bytearray(b'x') * (64 << 20) for _ in range(128)]\n"
        "    raise MemoryError(len(hoard))\n",
        # Touching so much takes longer than a call may, on a busy machine.
        BOUND | LATE,
        contained=True,
    ),
    Broken(
        "disk without end",
        # At most 8 GiB.
        "import os\n\n\ndef run(x):\n    piece = os.urandom(1 << 20) * 64\n"
        "    with open(os.path.join(os.environ['HOME'], 'filler'), 'wb') as file:\n"
        "        for _ in range(128):\n            file.write(piece)\n    return x * 2\n",
        BOUND | ERROR | CRASH | LATE,
        contained=True,
    ),
    Broken(
        "file handles without end",
        "import os\n\n\ndef run(x):\n"
        "    kept = [os.open('/dev/null', os.O_RDONLY) for _ in range(100_000)]\n"
        "    return x * 2\n",
        BOUND | ERROR | CRASH | RESULT,
    ),
    Broken(
        "threads without end",
        # At most 3,000, for at most ten seconds.
        "import threading\nimport time\n\n\ndef run(x):\n    end = time.monotonic() + 10\n"
        "    for _ in range(3000):\n"
        "        threading.Thread(\n"
        "            target=lambda: time.sleep(max(0, end - time.monotonic())), daemon=True\n"
        "        ).start()\n"
        "    return x * 2\n",
        BOUND | ERROR | CRASH | RESULT | LATE,
        contained=True,
    ),
    Broken(
        "a gigabyte of prints",
        "told = []\n\n\ndef run(x):\n    while len(told) < 1000:\n        told.append(None)\n"
        "        print('x' * 1_000_000)\n    return x * 2\n",
        RESULT | LATE | BOUND,
    ),
    Broken(
        "deleted working directory",
        "import os\nimport shutil\n\nshutil.rmtree(os.getcwd(), ignore_errors=True)\n" + _GOOD,
        RESULT | ERROR | BUILD,
    ),
    Broken(
        "signals to the parent",
        "import os\nimport signal\n\n\ndef run(x):\n    if os.getppid() > 1:\n"
        "        os.kill(os.getppid(), signal.SIGUSR1)\n    return x * 2\n",
        RESULT | ERROR,
    ),
    Broken(
        "signals to everybody",
        # Where it sees more than a sandbox's own processes, it does nothing.
        "import os\nimport signal\n\n\ndef run(x):\n"
        "    if len(list(filter(str.isdigit, os.listdir('/proc')))) > 12:\n"
        "        raise SystemError('not alone')\n"
        "    os.kill(-1, signal.SIGKILL)\n"
        "    return x * 2\n",
        RESULT | CRASH | ERROR | BOUND,
        contained=True,
    ),
    Broken(
        "closes every file handle",
        "import os\n\n\ndef run(x):\n    os.closerange(0, 4096)\n    return x * 2\n",
        CRASH | {Outcome.TAMPERED},
    ),
    Broken(
        "an exception that cannot be shown",
        "class Odd(Exception):\n    def __str__(self):\n        raise self\n\n\n"
        "def run(x):\n    raise Odd\n",
        ERROR,
    ),
    Broken(
        "C++ that does not compile",
        CPP_HEAD.replace("BODY", "undeclared();"),
        BUILD,
        language="cpp",
        passing=True,
    ),
    Broken(
        "C++ that takes forever to compile",
        CPP_HEAD.replace("BODY", "static_assert(forever<0>::value == 1);").replace(
            "void run",
            "template <int N> struct forever {\n"
            "  static constexpr long work(long n) {\n"
            "    long sum = 0;\n    for (long i = 0; i < n; ++i) sum += i % 7;\n    return sum;\n"
            "  }\n"
            "  static constexpr long value = work(30000000) + forever<N + 1>::value;\n"
            "};\ntemplate <> struct forever<800> { static constexpr long value = 1; };\n\nvoid run",
            1,
        ),
        BUILD | LATE,
        language="cpp",
        passing=True,
    ),
    Broken(
        "C++ that aborts",
        CPP_HEAD.replace("BODY", "std::abort();").replace(
            "#include", "#include <cstdlib>\n#include", 1
        ),
        CRASH,
        language="cpp",
        passing=True,
    ),
    Broken(
        "illegal memory access on the device",
        CUDA_HEAD.replace("BODY", "y[(1ll << 40) + threadIdx.x] = 1;"),
        ERROR | CRASH | {Outcome.OUT_OF_BOUNDS},
        language="cuda",
        passing=True,
        device="cuda",
    ),
    Broken(
        "deadlocked kernel",
        CUDA_HEAD.replace("BODY", "while (*flag == 0) {}"),
        LATE,
        language="cuda",
        passing=True,
        device="cuda",
    ),
    Broken(
        "a trap on the device",
        CUDA_HEAD.replace("BODY", "__trap();"),
        ERROR | CRASH,
        language="cuda",
        passing=True,
        device="cuda",
    ),
    Broken(
        "resets the device",
        CUDA_HEAD.replace("BODY", "y[threadIdx.x] = 1;").replace(
            "  static int* flag", "  cudaDeviceReset();\n  static int* flag"
        ),
        ERROR | CRASH | {Outcome.WRONG_VALUES},
        language="cuda",
        passing=True,
        device="cuda",
    ),
)
