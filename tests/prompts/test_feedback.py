"""Feedback: each class of outcome carries what its author can act on, and nothing of ours."""

from __future__ import annotations

from kernel_generator.domain.evaluation import Evaluation, Mismatch, WorkloadEvaluation
from kernel_generator.domain.outcome import Outcome
from kernel_generator.prompts.feedback import MAX_FEEDBACK_CHARS, feedback
from tests.prompts import records

NVCC_OUTPUT = """\
TVM-FFI compilation failed for 'attempt': ninja exited with status 1
stdout:
[1/2] /usr/local/cuda/bin/nvcc --generate-dependencies -c /tmp/b1/kernel.cu -o cuda_0.o
FAILED: [code=2] cuda_0.o
/usr/local/cuda/bin/nvcc --generate-dependencies-with-compile -c /tmp/b1/kernel.cu -o cuda_0.o
/tmp/cache/tvm_ffi/tvm_ffi_attempt_ab12/kernel.cu(12): error: identifier "blockIds" is undefined
    int i = blockIds.x; // a/b/c
            ^

1 error detected in the compilation of "/tmp/cache/tvm_ffi/tvm_ffi_attempt_ab12/kernel.cu".
ninja: build stopped: subcommand failed.
"""

TRACEBACK = """\
Traceback (most recent call last):
  File "/opt/kernel_generator/sandbox/child.py", line 80, in call
    function(*arguments)
  File "/tmp/sandbox/pkg/main.py", line 7, in run
    out.copy_(helper(x))
  File "/tmp/sandbox/pkg/helper.py", line 2, in helper
    return x.reshape(7)
  File "/usr/lib/python3/site-packages/torch/_tensor.py", line 99, in reshape
    return handle(x)
RuntimeError: shape '[7]' is invalid for input of size 12
"""


def workload(outcome: Outcome, index: int = 0, **changes: object) -> WorkloadEvaluation:
    source = records.WORKLOADS[index]
    values: dict[str, object] = {"uuid": source.uuid, "axes": source.axes, "outcome": outcome}
    return WorkloadEvaluation(**(values | changes))  # type: ignore[arg-type]


def told(evaluation: Evaluation, language: str = "triton", **files: str) -> str:
    named = {name.replace("_", "."): text for name, text in files.items()} or None
    return feedback(records.attempt(evaluation, language, named), records.brief(language))


MISMATCH = Mismatch(
    output="out",
    wrong=100,
    total=192,
    first_index=(0, 3),
    first_got=0.0,
    first_expected=1.25,
    worst_index=(2, 63),
    worst_got=-4.0,
    worst_expected=8.5,
    relative_l2=0.43,
    note="the last 64 columns are all zeros",
)


def test_a_compile_error_is_the_compilers_lines_about_the_source() -> None:
    text = told(Evaluation(outcome=Outcome.COMPILE_ERROR, message=NVCC_OUTPUT), "cuda")
    assert 'kernel.cu(12): error: identifier "blockIds" is undefined' in text
    assert "int i = blockIds.x; // a/b/c" in text
    for noise in ("ninja", "/tmp", "FAILED", "nvcc"):
        assert noise not in text


def test_a_long_compile_error_is_clipped_after_the_first_errors() -> None:
    errors = "".join(f"/tmp/b/kernel.cu({i}): error: number {i}\n" for i in range(1, 1000))
    text = told(Evaluation(outcome=Outcome.COMPILE_ERROR, message=errors), "cuda")
    assert "kernel.cu(1): error: number 1" in text
    assert "959 more lines with errors left out" in text
    assert "number 500" not in text


def test_a_compile_error_of_python_shows_the_line() -> None:
    message = (
        "Traceback (most recent call last):\n"
        '  File "/usr/lib/python3/importlib/__init__.py", line 126, in import_module\n'
        "    return _bootstrap._gcd_import(name)\n"
        '  File "/tmp/x/main.py", line 3\n    def run(x:\n           ^\n'
        "SyntaxError: '(' was never closed\n"
    )
    text = told(Evaluation(outcome=Outcome.COMPILE_ERROR, message=message))
    assert 'File "main.py", line 3' in text
    assert "def run(x:" in text
    assert "SyntaxError: '(' was never closed" in text
    assert "importlib" not in text


def test_a_runtime_error_keeps_the_candidates_own_frames_and_the_exception() -> None:
    found = Evaluation(
        outcome=Outcome.RUNTIME_ERROR,
        workloads=(workload(Outcome.RUNTIME_ERROR, message=TRACEBACK),),
    )
    text = told(found, main_py="...", helper_py="...")
    assert 'File "main.py", line 7, in run' in text
    assert "return x.reshape(7)" in text
    assert "RuntimeError: shape '[7]' is invalid for input of size 12" in text
    assert "On rows=3" in text
    for ours in ("child.py", "site-packages", "handle(x)", "/tmp"):
        assert ours not in text


def test_an_exceptions_own_many_lines_are_kept() -> None:
    message = (
        "Traceback (most recent call last):\n"
        '  File "/tmp/x/main.py", line 9, in run\n    kernel[(1,)](x)\n'
        "triton.compiler.errors.CompilationError: at 3:4:\n"
        "def kernel(x):\n    y = x[0]\n    ^\nunsupported index\n"
    )
    text = told(Evaluation(outcome=Outcome.RUNTIME_ERROR, message=message))
    assert "y = x[0]" in text
    assert "unsupported index" in text


def test_a_crash_shows_what_the_process_printed_last() -> None:
    found = Evaluation(
        outcome=Outcome.CRASHED,
        message="the process ended by signal 11 (SIGSEGV)",
        log="\n".join(f"line {i}" for i in range(100)),
    )
    text = told(found, "cpp")
    assert "signal 11" in text
    assert "line 99" in text
    assert "line 10\n" not in text


def test_wrong_values_tell_output_count_first_worst_and_where() -> None:
    found = Evaluation(
        outcome=Outcome.WRONG_VALUES,
        workloads=(
            workload(Outcome.PASSED, 0),
            workload(Outcome.WRONG_VALUES, 1, mismatches=(MISMATCH,)),
        ),
    )
    text = told(found)
    assert "On rows=4096: WRONG_VALUES" in text
    assert "output `out`: 100 of 192 elements are wrong (52.1 %), relative L2 error 0.43" in text
    assert "first out[0, 3] is 0, expected 1.25" in text
    assert "worst out[2, 63] is -4, expected 8.5" in text
    assert "the last 64 columns are all zeros" in text
    assert "Correct on: rows=3." in text


def test_a_failure_on_a_held_out_size_is_called_so() -> None:
    failing = WorkloadEvaluation(
        uuid="another", axes={"rows": 7}, outcome=Outcome.WRONG_VALUES, mismatches=(MISMATCH,)
    )
    text = told(Evaluation(outcome=Outcome.WRONG_VALUES, workloads=(failing,)))
    assert "On rows=7 (a held-out size)" in text


def test_a_wrong_shape_tells_the_judges_message() -> None:
    failing = workload(Outcome.WRONG_SHAPE, message="out has shape [3, 32], expected [3, 64]")
    text = told(Evaluation(outcome=Outcome.WRONG_SHAPE, workloads=(failing,)))
    assert "out has shape [3, 32], expected [3, 64]" in text


def test_a_timeout_is_told() -> None:
    text = told(Evaluation(outcome=Outcome.TIMEOUT, message="no answer within 30 s"))
    assert text.startswith("TIMEOUT")
    assert "no answer within 30 s" in text


def test_a_pass_tells_times_speedups_and_the_distance_to_the_floor() -> None:
    text = told(records.passed())
    assert "rows=3: 10 µs, 2.00× reference (1.90–2.10), 0.80× torch.compile" in text
    assert "floor 5 µs, so 50 % of what is possible" in text
    assert "Overall (geometric mean): 2.00× the reference's speed" in text
    assert "first call" not in text


def test_a_slow_first_call_is_told() -> None:
    assert "first call 4.2 s" in told(records.passed(first_call_us=4.2e6))


def test_a_floor_that_is_not_known_is_not_shown_as_reached() -> None:
    text = told(records.passed(floor_us=None))
    assert "floor not known" in text
    assert "%" not in text.split("rows=3")[1]


def test_what_could_not_be_tried_here_is_no_failure() -> None:
    found = Evaluation(
        outcome=Outcome.CORRECT_NOT_MEASURED,
        workloads=(workload(Outcome.CORRECT_NOT_MEASURED), workload(Outcome.NOT_RUN, 1)),
    )
    text = told(found)
    assert "NOT_RUN" not in text
    assert "rows=4096" not in text


def test_an_unreadable_reply_tells_its_reason() -> None:
    cases = {
        Outcome.MALFORMED_REPLY: "reply format",
        Outcome.EMPTY_REPLY: "complete source files",
        Outcome.TRUNCATED_REPLY: "write less",
        Outcome.REFUSED_REPLY: "performance engineering",
    }
    for outcome, advice in cases.items():
        text = feedback(records.unreadable(outcome, "because of this"), records.brief())
        assert text.startswith(outcome.value)
        assert "because of this" in text
        assert advice in text


def test_everything_is_capped() -> None:
    failing = tuple(
        WorkloadEvaluation(
            uuid=str(i),
            axes={"rows": i},
            outcome=Outcome.RUNTIME_ERROR,
            message=f"Error {i}\n" * 10_000,
        )
        for i in range(500)
    )
    found = Evaluation(
        outcome=Outcome.RUNTIME_ERROR, message="x" * 10**6, log="y " * 10**6, workloads=failing
    )
    assert len(told(found)) < MAX_FEEDBACK_CHARS + 100
