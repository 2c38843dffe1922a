"""A trace set is read file by file: what is bad is named and skipped, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from flashinfer_bench.data import Evaluation, EvaluationStatus, Trace
from flashinfer_bench.data.trace import Correctness, Environment, Performance

from kernel_generator import load_traceset
from kernel_generator.domain.errors import TraceSetError, UnknownName
from kernel_generator.runs.tracesets import definition_of, workloads_of
from tests.runs.sets import (
    OP_TYPE,
    a_solution,
    as_nobody,
    listing,
    workload_line,
    write_definition,
)

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLE = Path(__file__).parents[2] / "examples" / "traceset"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with one good definition of two workloads."""
    write_definition(tmp_path, "good")
    return tmp_path


def problems_of(root: Path) -> list[str]:
    """What loading complains of, paths relative to the set, with the good parts checked."""
    traceset, problems = load_traceset(root)
    assert list(traceset.definitions) == ["good"]
    assert [w.uuid for w in workloads_of(traceset, "good")] == ["n3", "n64"]
    return [str(p).removeprefix(f"{root}/") for p in problems]


def test_a_good_set_is_read_without_complaint_and_without_a_trace_of_reading() -> None:
    before = listing(EXAMPLE)
    traceset, problems = load_traceset(EXAMPLE)
    assert problems == []
    assert len(traceset.definitions) >= 8
    assert listing(EXAMPLE) == before


@pytest.mark.parametrize("spelt", [str, Path], ids=["text", "path"])
def test_the_path_may_be_text_or_a_path(root: Path, spelt: Callable[[Path], str | Path]) -> None:
    assert load_traceset(spelt(root))[0].root == root


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{oops", "Invalid JSON: key must be a string at line 1 column 2"),
        (b"", "Invalid JSON: EOF while parsing a value"),
        (b"\xff\xfe{}", "is not UTF-8 text: invalid start byte (byte 1)"),
        (b"[]", "Input should be an object"),
        (b'{"name": "bad"}', "op_type: Field required"),
    ],
    ids=["malformed", "empty", "not UTF-8", "not an object", "wrong schema"],
)
@pytest.mark.parametrize("kind", ["definitions", "solutions"])
def test_one_bad_file_is_named_and_skipped(
    root: Path, kind: str, content: bytes, words: str
) -> None:
    bad = root / kind / OP_TYPE / "bad.json"
    bad.parent.mkdir(parents=True, exist_ok=True)
    bad.write_bytes(content)
    [problem] = problems_of(root)
    assert problem.startswith(f"{kind}/{OP_TYPE}/bad.json: ")
    assert words.replace("op_type", "definition" if kind == "solutions" else "op_type") in problem


@pytest.mark.parametrize("kind", ["definitions", "solutions"])
def test_what_is_no_file_at_all_is_named_and_skipped(root: Path, kind: str) -> None:
    folder = root / kind / "odd"
    (folder / "folder.json").mkdir(parents=True)
    (folder / "gone.json").symlink_to("nowhere")
    assert problems_of(root) == [
        f"{kind}/odd/folder.json: cannot be read: Is a directory",
        f"{kind}/odd/gone.json: cannot be read: No such file or directory",
    ]


def test_a_bad_workload_line_costs_that_line(root: Path) -> None:
    file = root / "workloads" / OP_TYPE / "good.jsonl"
    first, second = file.read_text().splitlines()
    other = workload_line("good", 5).replace('"axes"', '"axis"')
    file.write_text(f"{first}\n\nnot json\n{other}\n{second}")
    malformed, incomplete = problems_of(root)
    assert malformed.startswith(f"workloads/{OP_TYPE}/good.jsonl:3: Invalid JSON")
    assert incomplete.startswith(f"workloads/{OP_TYPE}/good.jsonl:4: workload.axes: Field required")


def test_a_line_separator_inside_a_string_ends_no_line(root: Path) -> None:
    file = root / "traces" / OP_TYPE / "good.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(a_trace("good", log="one\u2028two\x85three") + "\n", encoding="utf-8")
    assert problems_of(root) == []
    assert len(load_traceset(root)[0].traces["good"]) == 1


def test_a_workload_given_twice_counts_once(root: Path) -> None:
    with (root / "workloads" / OP_TYPE / "good.jsonl").open("a") as file:
        file.write(workload_line("good", 3) + "\n")
    assert problems_of(root) == [
        f"workloads/{OP_TYPE}/good.jsonl:3: a second workload with uuid n3"
    ]


def test_an_evaluation_among_the_workloads_is_none(root: Path) -> None:
    with (root / "workloads" / OP_TYPE / "good.jsonl").open("a") as file:
        file.write(a_trace("good") + "\n")
    assert problems_of(root) == [f"workloads/{OP_TYPE}/good.jsonl:3: this line is not a workload"]


def test_a_workload_among_the_evaluations_is_none(root: Path) -> None:
    (root / "traces").mkdir()
    (root / "traces" / "good.jsonl").write_text(workload_line("good", 9) + "\n")
    assert problems_of(root) == ["traces/good.jsonl:1: this line is not an evaluation"]


def test_workloads_of_no_definition_are_named(root: Path) -> None:
    (root / "workloads" / OP_TYPE / "orphan.jsonl").write_text(workload_line("orphan", 3) + "\n")
    assert problems_of(root) == [
        "workloads/**/orphan.jsonl: 1 workloads of 'orphan', which has no definition"
    ]


def test_a_solution_name_given_twice_counts_once_and_both_files_are_named(root: Path) -> None:
    folder = root / "solutions"
    folder.mkdir()
    for file in ("a.json", "b.json"):
        (folder / file).write_text(a_solution("same", definition="good").model_dump_json())
    [problem] = problems_of(root)
    assert problem.startswith("solutions/b.json: a second solution named 'same' (the first is in ")
    assert "solutions/a.json)" in problem
    traceset, _ = load_traceset(root)
    assert [s.name for s in traceset.solutions["good"]] == ["same"]


def test_a_definition_given_twice_counts_once(root: Path) -> None:
    good = (root / "definitions" / OP_TYPE / "good.json").read_text()
    (root / "definitions" / OP_TYPE / "zz.json").write_text(good)
    assert problems_of(root) == [f"definitions/{OP_TYPE}/zz.json: a second definition named 'good'"]


def test_everything_bad_at_once_creates_and_changes_nothing(root: Path) -> None:
    (root / "definitions" / "bad.json").write_text("{")
    (root / "traces").mkdir()
    (root / "traces" / "bad.jsonl").write_text("{\n[\n")
    before = listing(root)
    assert len(problems_of(root)) == 3
    assert listing(root) == before


@pytest.mark.parametrize("missing", ["nowhere", "nowhere/deeper"])
def test_a_missing_path_is_said_and_not_made(tmp_path: Path, missing: str) -> None:
    with pytest.raises(TraceSetError, match=r"there is no trace set at .*the path does not exist"):
        load_traceset(tmp_path / missing)
    assert listing(tmp_path) == {}


def test_a_folder_of_something_else_is_said_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(TraceSetError, match="not a FlashInfer-Bench trace set: it has no defini"):
        load_traceset(tmp_path)
    assert listing(tmp_path) == {"photos": -1}


def test_a_file_is_no_trace_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceSetError, match="not a FlashInfer-Bench trace set"):
        load_traceset(tmp_path / "file")


def test_a_folder_that_may_not_be_read_is_said_instead_of_found_empty(root: Path) -> None:
    (root / "definitions").chmod(0o000)
    try:
        said = as_nobody(
            "from kernel_generator import load_traceset\n"
            "from kernel_generator.domain.errors import TraceSetError\n"
            f"try: load_traceset({str(root)!r})\n"
            "except TraceSetError as error: print(error)",
            root,
        )
    finally:
        (root / "definitions").chmod(0o755)
    assert said == f"'{root}' cannot be read: Permission denied"


def test_an_unknown_definition_offers_the_closest(root: Path) -> None:
    traceset, _ = load_traceset(root)
    with pytest.raises(UnknownName, match="unknown definition 'god': did you mean 'good'"):
        definition_of(traceset, "god")


def a_trace(definition: str, log: str = "") -> str:
    """An evaluation as FlashInfer-Bench stores it."""
    evaluation = Evaluation(
        status=EvaluationStatus.PASSED,
        environment=Environment(hardware="a CPU"),
        timestamp="2026-01-01",
        log=log,
        correctness=Correctness(),
        performance=Performance(),
    )
    workload = Trace.model_validate_json(workload_line(definition, 9)).workload
    return Trace(
        definition=definition, workload=workload, solution="s", evaluation=evaluation
    ).model_dump_json()


def test_traces_are_read_per_definition(root: Path) -> None:
    (root / "traces").mkdir()
    (root / "traces" / "any.jsonl").write_text(a_trace("good") + "\n")
    traceset, problems = load_traceset(root)
    assert problems == []
    [trace] = traceset.traces["good"]
    assert json.loads(trace.model_dump_json())["solution"] == "s"
