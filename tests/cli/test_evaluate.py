"""`evaluate`: what it tells of a kernel, and what it leaves in the trace set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from flashinfer_bench import TraceSet
from safetensors.torch import save_file

from kernel_generator import load_traceset
from kernel_generator.inert import inert
from kernel_generator.runs.saving import save_solution
from tests.cli.commands import ON_SET, Shell
from tests.runs.sets import (
    OP_TYPE,
    REFERENCE,
    a_solution,
    cpp_reply,
    listing,
    workload_line,
    write_definition,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text"),
    [("k.py", REFERENCE), ("k.json", a_solution().model_dump_json())],
    ids=["plain source", "Solution JSON"],
)
def test_evaluate_takes_a_plain_source_or_a_solution(
    shell: Shell, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    before = listing(tmp_path)
    ran = shell.run("evaluate", *ON_SET, "--target", "V100", "--solution", name, "--json")
    assert ran.code == 0
    assert ran.document["outcome"] == "CORRECT_NOT_MEASURED"
    assert ran.document["complete"]
    assert "CORRECT_NOT_MEASURED: correct on every workload" in ran.err
    assert listing(tmp_path) == before, "judging leaves nothing in the set"


def test_evaluate_tells_what_is_wrong_and_exits_1(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "k.py").write_text("def run(x):\n    return x * 2\n")
    ran = shell.run("evaluate", *ON_SET, "--target", "V100", "--solution", "k.py")
    assert ran.code == 1
    assert "WRONG_VALUES: an output differs from the reference" in ran.out
    assert "y: 3 of 3 elements wrong; first at [0]: got" in ran.out


def test_what_a_kernel_says_does_nothing_to_the_terminal(shell: Shell, tmp_path: Path) -> None:
    says = r"'\x1b]0;TITLE\x07\x1b[2J\r\u202eall fine'"
    (tmp_path / "k.py").write_text(f"def run(x):\n    raise ValueError({says})\n")
    ran = shell.run("evaluate", *ON_SET, "--target", "V100", "--solution", "k.py")
    assert ran.code == 1
    assert "TITLE" in ran.out
    assert ran.out == inert(ran.out)
    assert ran.err == inert(ran.err)


@pytest.mark.slow
def test_evaluate_builds_and_measures_a_cpp_file(shell: Shell, tmp_path: Path) -> None:
    reply = cpp_reply("for (int64_t i = 0; i < x.size(0); ++i) out[i] = in[i] * 2 + 1;")
    (tmp_path / "k.cpp").write_text(reply.partition("```cpp kernel.cpp\n")[2].partition("```")[0])
    ran = shell.run("evaluate", *ON_SET, "--target", "CPU", "--solution", "k.cpp", "--json")
    assert ran.code == 0
    assert ran.document["outcome"] == "PASSED"
    assert set(ran.document["baselines"]) == {"reference", "torch.compile"}


@pytest.mark.slow
def test_baselines_that_were_asked_for_are_the_ones_compared_with(
    shell: Shell, tmp_path: Path
) -> None:
    loaded = load_traceset(tmp_path / "set")[0]
    save_solution(a_solution("another"), loaded, None)
    save_solution(a_solution("broken", source="def run(x):\n    return missing\n"), loaded, None)
    (tmp_path / "k.py").write_text(REFERENCE)
    asked = ("evaluate", *ON_SET, "-t", "CPU", "-s", "k.py", "--json")
    ran = shell.run(*asked, "--baseline", "another", "--baseline", "broken")
    assert ran.code == 0
    assert set(ran.document["baselines"]) == {"reference", "another"}
    assert set(ran.document["unusable_baselines"]) == {"broken"}
    assert "no figure against broken: with n=3: NameError: name 'missing' is not" in ran.err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torch.compil", "unknown baseline 'torch.compil': did you mean 'torch.compile' or "),
        ("cuBLAS", "there is no 'cuBLAS' to compare with: 'scale_add' is of type 'elementwise'"),
        ("of_other", "the solution 'of_other' solves 'other', so it is no baseline for"),
    ],
    ids=["unknown", "not for this task", "of another definition"],
)
def test_a_baseline_that_cannot_be_had_is_said_before_anything_runs(
    shell: Shell, tmp_path: Path, name: str, words: str
) -> None:
    write_definition(tmp_path / "set", "other")
    other = a_solution("of_other", definition="other")
    save_solution(other, load_traceset(tmp_path / "set")[0], None)
    (tmp_path / "k.py").write_text("raise SystemExit('nobody runs this')\n")
    ran = shell.run("evaluate", *ON_SET, "-t", "CPU", "-s", "k.py", "--baseline", name)
    assert ran.code == 2
    assert words in ran.errors[0]


def test_figures_that_are_no_numbers_are_printed_as_json_has_them(
    shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "k.py").write_text(
        "def run(x):\n    y = x * 2\n    y[0], y[1] = float('nan'), float('inf')\n    return y\n"
    )
    ran = shell.run("evaluate", *ON_SET, "--target", "V100", "-s", "k.py", "--json")
    assert ran.code == 1
    [mismatch] = ran.document["workloads"][0]["mismatches"]
    assert mismatch["first_got"] == "NaN"
    assert mismatch["relative_l2"] == "NaN"


@pytest.mark.slow
def test_a_compilers_output_is_cut_down_to_the_error(shell: Shell, tmp_path: Path) -> None:
    reply = cpp_reply("for (int64_t i = 0; i < length; ++i) out[i] = in[i];")
    (tmp_path / "k.cpp").write_text(reply.partition("```cpp kernel.cpp\n")[2].partition("```")[0])
    ran = shell.run("evaluate", *ON_SET, "--target", "CPU", "--solution", "k.cpp")
    assert ran.code == 1
    assert "COMPILE_ERROR" in ran.out
    assert "was not declared in this scope" in ran.out
    assert "ninja" not in ran.out
    assert "FAILED: " not in ran.out


def test_what_cannot_be_done_here_is_said(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "k.py").write_text(REFERENCE)
    ran = shell.run("evaluate", *ON_SET, "--target", "V100", "--solution", "k.py")
    assert ran.code == 0
    assert "note: no V100 on this machine" in ran.err


# --- traces ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_traces_of_a_solution_in_the_set_are_appended_on_request(
    shell: Shell, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    path, _ = save_solution(a_solution(), load_traceset(root)[0], None)
    asked = ("evaluate", *ON_SET, "--target", "CPU", "--solution", path)
    assert "timed by " in shell.run(*asked).out
    assert not (root / "traces").exists()
    ran = shell.run(*asked, "--save-traces")
    assert ran.code == 0
    assert "1 traces were appended" in ran.err
    [trace] = TraceSet.from_path(str(root)).traces["scale_add"]
    assert trace.solution == "a_solution"


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (None, "has no solution 'a_solution', so its traces would be nobody's"),
        ("def run(x):\n    return 1 + x * 2\n", "the trace set's solution 'a_solution' is another"),
    ],
    ids=["unknown", "another of that name"],
)
def test_traces_of_a_solution_that_the_set_does_not_hold_are_refused(
    shell: Shell, tmp_path: Path, held: str | None, words: str
) -> None:
    if held is not None:
        save_solution(a_solution(source=held), load_traceset(tmp_path / "set")[0], None)
    (tmp_path / "k.json").write_text(a_solution().model_dump_json())
    ran = shell.run("evaluate", *ON_SET, "-t", "CPU", "-s", "k.json", "--save-traces")
    assert ran.code == 2
    assert words in ran.errors[0]


# --- a set without its blobs -----------------------------------------------------------------


@pytest.fixture
def without_blobs(tmp_path: Path) -> Path:
    """A set as people download it: captured tensors are named and not there."""
    root = tmp_path / "set"
    gone = {"type": "safetensors", "path": "./blob/workloads/gone.safetensors", "tensor_key": "x"}
    for name, inputs in (("captured", [gone, gone]), ("mixed", [gone, None])):
        write_definition(root, name, sizes=())
        lines = [workload_line(name, 3 + i, x) for i, x in enumerate(inputs)]
        (root / "workloads" / OP_TYPE / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "k.py").write_text(REFERENCE)
    return root


def test_a_set_without_its_blobs_is_listed_whole(shell: Shell, without_blobs: Path) -> None:
    ran = shell.run("list", without_blobs, "--json")
    assert ran.code == 0
    assert ran.document["problems"] == []
    found = {d["name"]: d["workloads"] for d in ran.document["definitions"]}
    assert found == {"captured": 2, "mixed": 2, "scale_add": 1}


@pytest.mark.parametrize(("name", "count"), [("captured", 2), ("mixed", 1)])
def test_inputs_made_up_for_missing_blobs_are_told_beside_the_result(
    shell: Shell, without_blobs: Path, name: str, count: int
) -> None:
    ran = shell.run("evaluate", without_blobs, "-d", name, "-t", "V100", "-s", "k.py")
    assert ran.code == 0
    assert "CORRECT_NOT_MEASURED" in ran.out
    assert f"synthetic values for 'x' on {count} of 2 workloads" in ran.out


@pytest.mark.slow
def test_no_trace_is_written_of_workloads_with_inputs_made_up(
    shell: Shell, without_blobs: Path
) -> None:
    path, _ = save_solution(a_solution(definition="mixed"), load_traceset(without_blobs)[0], None)
    asked = ("evaluate", without_blobs, "-d", "mixed", "-t", "CPU", "-s", path)
    ran = shell.run(*asked, "--save-traces")
    assert "1 traces were appended" in ran.err
    [trace] = TraceSet.from_path(str(without_blobs)).traces["mixed"]
    assert trace.workload.uuid == "n4"


def test_workloads_that_could_not_be_run_are_told_beside_the_result(
    shell: Shell, without_blobs: Path
) -> None:
    blob = without_blobs / "blob" / "workloads" / "gone.safetensors"
    blob.parent.mkdir(parents=True)
    save_file({"x": torch.ones(5)}, blob)
    ran = shell.run("evaluate", without_blobs, "-d", "mixed", "-t", "V100", "-s", "k.py")
    assert ran.code == 0
    assert "CORRECT_NOT_MEASURED" in ran.out
    assert "1 of 2 workloads cannot be run here: " in ran.out
    assert "the workload says torch.float32 [3]" in ran.out


def test_a_definition_none_of_whose_blobs_fits_is_bad_input(
    shell: Shell, without_blobs: Path
) -> None:
    blob = without_blobs / "blob" / "workloads" / "gone.safetensors"
    blob.parent.mkdir(parents=True)
    save_file({"x": torch.ones(5)}, blob)
    ran = shell.run("evaluate", without_blobs, "-d", "captured", "-t", "V100", "-s", "k.py")
    assert ran.code == 2
    assert "none of the workloads of 'captured' can be run here" in ran.errors[0]


def test_definitions_that_lack_no_blob_are_judged_as_ever(
    shell: Shell, without_blobs: Path
) -> None:
    ran = shell.run("evaluate", without_blobs, "-d", "scale_add", "-t", "V100", "-s", "k.py")
    assert ran.code == 0
    assert "synthetic" not in ran.out
