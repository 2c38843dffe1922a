"""Results are written whole or not at all, over nothing, under names that nothing else has."""

from __future__ import annotations

import json
import math
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from flashinfer_bench import TraceSet

from kernel_generator import load_traceset
from kernel_generator.domain.errors import TraceSetError
from kernel_generator.domain.outcome import Outcome
from kernel_generator.generator import GeneratedSolution
from kernel_generator.runs.journal import known_run
from kernel_generator.runs.results import save_result
from kernel_generator.runs.saving import (
    rescue_solution,
    save_solution,
    save_traces,
    slug,
    writable_root,
)
from kernel_generator.runs.store import Store
from tests.runs.kept import keep_run
from tests.runs.sets import (
    OP_TYPE,
    a_solution,
    a_traceset,
    an_evaluation,
    as_nobody,
    listing,
    run_python,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[2]
FOLDER = f"solutions/{OP_TYPE}/scale_add"
TRACES = f"traces/{OP_TYPE}/scale_add.jsonl"


@pytest.fixture
def traceset(tmp_path: Path) -> TraceSet:
    """One definition, two workloads."""
    return a_traceset(tmp_path)


def reread(root: Path) -> TraceSet:
    """The set as FlashInfer-Bench itself reads it, which gives up on anything wrong."""
    return TraceSet.from_path(str(root))


# --- files and names -------------------------------------------------------------------------


def test_a_solution_is_written_where_flashinfer_bench_looks(
    traceset: TraceSet, tmp_path: Path
) -> None:
    path, written = save_solution(a_solution("mine"), traceset, None)
    assert path == tmp_path / FOLDER / "an-author_optimized_solution_1.json"
    assert reread(tmp_path).solutions == {"scale_add": [written]}
    assert traceset.get_solution("mine") == written
    assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444, "readable like any other file"


@pytest.mark.parametrize(
    ("author", "file"),
    [
        ("openai/gpt-5:free", "openai-gpt-5-free_optimized_solution_1.json"),
        ("../../etc/passwd", "etc-passwd_optimized_solution_1.json"),
        ("名前", "unnamed_optimized_solution_1.json"),
        ("a b\tc", "a-b-c_optimized_solution_1.json"),
    ],
)
def test_any_models_name_makes_a_safe_file_name(
    traceset: TraceSet, tmp_path: Path, author: str, file: str
) -> None:
    path, written = save_solution(a_solution(author=author), traceset, None)
    assert path == tmp_path / FOLDER / file
    assert written.author == author, "the name itself is kept"
    assert reread(tmp_path).get_solution("a_solution") is not None


@pytest.mark.parametrize("text", ["x", "gpt-4o", "a/b:c", "..", "", "-"])
def test_a_slug_is_one_safe_path_component(text: str) -> None:
    assert Path(slug(text)).name == slug(text) not in ("", ".", "..")


def test_files_are_numbered_and_none_is_overwritten(traceset: TraceSet, tmp_path: Path) -> None:
    first, _ = save_solution(a_solution("one"), traceset, None)
    kept = first.read_bytes()
    second, _ = save_solution(a_solution("two"), traceset, None)
    assert second.name == "an-author_optimized_solution_2.json"
    assert first.read_bytes() == kept
    assert len(reread(tmp_path).solutions["scale_add"]) == 2


def test_a_name_that_another_definition_has_taken_gets_a_number(tmp_path: Path) -> None:
    traceset = a_traceset(tmp_path, "scale_add", "other")
    save_solution(a_solution("same", definition="other"), traceset, None)
    _, written = save_solution(a_solution("same"), traceset, None)
    assert written.name == "same_2"
    _, again = save_solution(a_solution("same"), traceset, None)
    assert again.name == "same_3"
    assert {s.name for ss in reread(tmp_path).solutions.values() for s in ss} == {
        "same",
        "same_2",
        "same_3",
    }


def test_a_name_in_a_file_that_was_not_loaded_is_taken_too(
    traceset: TraceSet, tmp_path: Path
) -> None:
    (tmp_path / "solutions").mkdir()
    late = a_solution("same").model_dump_json()
    (tmp_path / "solutions" / "written_meanwhile.json").write_text(late)
    (tmp_path / "solutions" / "malformed.txt.json").write_text("{")
    assert save_solution(a_solution("same"), traceset, None)[1].name == "same_2"


def test_a_renamed_copy_is_another_solution(traceset: TraceSet) -> None:
    first, second = (save_solution(a_solution("same"), traceset, None)[1] for _ in range(2))
    assert first != second
    assert first.hash() != second.hash()


SAVE_FIVE = """
import sys
from kernel_generator import load_traceset
from kernel_generator.runs.saving import save_solution
from tests.runs.sets import a_solution, an_evaluation
traceset, _ = load_traceset(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(5):
    print(save_solution(a_solution("same"), traceset, an_evaluation())[0], flush=True)
"""


@pytest.mark.slow
def test_eight_programs_saving_at_once_neither_overwrite_nor_repeat_a_name(
    traceset: TraceSet, tmp_path: Path
) -> None:
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", SAVE_FIVE, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        for _ in range(8)
    ]
    for program in programs:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
    for program in programs:
        assert program.stdin is not None
        program.stdin.write("\n")
        program.stdin.flush()
    paths = [line for program in programs for line in program.communicate()[0].split()]
    assert len(set(paths)) == 40
    again = reread(tmp_path)
    assert len(again.solutions["scale_add"]) == 40
    assert len(again.traces["scale_add"]) == 80
    assert {t.solution for t in again.traces["scale_add"]} == {
        s.name for s in again.solutions["scale_add"]
    }


def test_threads_saving_at_once_neither_overwrite_nor_repeat_a_name(
    traceset: TraceSet, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(8) as pool:
        saved = list(
            pool.map(lambda _: save_solution(a_solution("same"), traceset, None), range(24))
        )
    assert len({path for path, _ in saved}) == 24
    assert len(reread(tmp_path).solutions["scale_add"]) == 24


# --- traces ----------------------------------------------------------------------------------


def test_measured_evaluations_are_appended_as_traces(traceset: TraceSet, tmp_path: Path) -> None:
    _, written = save_solution(
        a_solution(), traceset, an_evaluation(speedup=2.5, absolute=0.125, relative=0.75)
    )
    traces = reread(tmp_path).traces["scale_add"]
    assert [t.workload.uuid for t in traces] == ["n3", "n64"]
    for trace in traces:
        evaluation = trace.evaluation
        assert trace.solution == written.name
        assert evaluation is not None
        assert evaluation.performance is not None
        assert evaluation.correctness is not None
        assert evaluation.performance.speedup_factor == 2.5
        assert evaluation.performance.reference_latency_ms == pytest.approx(0.025)
        assert evaluation.performance.latency_ms == pytest.approx(0.01)
        assert evaluation.correctness.max_absolute_error == 0.125
        assert evaluation.correctness.max_relative_error == 0.75
        assert evaluation.environment.hardware == "a CPU"


@pytest.mark.parametrize("figure", [math.inf, math.nan])
def test_error_figures_that_are_no_numbers_stay_what_they_are(
    traceset: TraceSet, tmp_path: Path, figure: float
) -> None:
    save_solution(a_solution(), traceset, an_evaluation(absolute=figure, relative=figure))
    trace = reread(tmp_path).traces["scale_add"][0]
    assert trace.evaluation is not None
    assert trace.evaluation.correctness is not None
    assert trace.evaluation.correctness.max_relative_error == pytest.approx(figure, nan_ok=True)


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.PASSED])
def test_what_was_not_measured_leaves_no_trace(
    traceset: TraceSet, tmp_path: Path, outcome: Outcome
) -> None:
    save_solution(a_solution(), traceset, an_evaluation(outcome))
    assert not (tmp_path / "traces").exists()


def test_traces_go_on_a_line_of_their_own_after_a_file_without_a_last_newline(
    traceset: TraceSet, tmp_path: Path
) -> None:
    save_solution(a_solution("one"), traceset, an_evaluation())
    file = tmp_path / TRACES
    file.write_text(file.read_text().rstrip("\n"))
    save_solution(a_solution("two"), traceset, an_evaluation())
    assert len(reread(tmp_path).traces["scale_add"]) == 4
    assert "\n\n" not in file.read_text()


def test_the_evaluation_is_no_part_of_the_file(traceset: TraceSet, tmp_path: Path) -> None:
    generated = GeneratedSolution.of(a_solution(), an_evaluation())
    path, _ = save_solution(generated, traceset, generated.evaluation)
    assert set(json.loads(path.read_text())) == set(a_solution().model_dump())


def test_a_set_that_lost_the_workloads_takes_the_solution_without_traces(
    traceset: TraceSet, tmp_path: Path
) -> None:
    traceset.workloads = {}
    path, _ = save_solution(a_solution(), traceset, an_evaluation())
    assert path.is_file()
    assert not (tmp_path / "traces").exists()


def test_traces_of_a_solution_in_the_set_can_be_added_later(
    traceset: TraceSet, tmp_path: Path
) -> None:
    _, written = save_solution(a_solution(), traceset, None)
    assert save_traces(written, traceset, an_evaluation()) == 2
    assert {t.solution for t in reread(tmp_path).traces["scale_add"]} == {written.name}
    assert len(traceset.traces["scale_add"]) == 2


def test_traces_of_a_solution_that_did_not_pass_are_none(
    traceset: TraceSet, tmp_path: Path
) -> None:
    _, written = save_solution(a_solution(), traceset, None)
    assert save_traces(written, traceset, an_evaluation(Outcome.WRONG_VALUES)) == 0
    assert not (tmp_path / "traces").exists()


@pytest.mark.parametrize("source", ["", "def run(x):\n    return x\n"], ids=["unknown", "another"])
def test_traces_of_a_solution_that_the_set_does_not_hold_are_refused(
    traceset: TraceSet, tmp_path: Path, source: str
) -> None:
    if source:
        save_solution(a_solution(source=source), traceset, None)
    with pytest.raises(TraceSetError, match="traces"):
        save_traces(a_solution(), traceset, an_evaluation())
    assert not (tmp_path / "traces").exists()


# --- a run's result, which may be saved again -------------------------------------------------


def test_what_was_saved_and_not_noted_is_found_and_not_written_again(
    traceset: TraceSet, tmp_path: Path
) -> None:
    store = Store(tmp_path / "runs.db")
    run = keep_run(store, traceset)
    path = save_result(known_run(store, run), store, traceset)
    kept = listing(tmp_path / "solutions") | listing(tmp_path / "traces")
    store.close()
    with sqlite3.connect(store.path) as connection:
        assert connection.execute("DELETE FROM events WHERE kind = 'saved'").rowcount == 1
    assert not known_run(store, run).history.is_saved
    again, _ = load_traceset(tmp_path)
    assert save_result(known_run(store, run), store, again) == path
    assert listing(tmp_path / "solutions") | listing(tmp_path / "traces") == kept
    assert known_run(store, run).history.is_saved
    assert len(again.solutions["scale_add"]) == 1
    assert len(again.traces["scale_add"]) == 2


def test_traces_that_a_kill_left_out_are_added(traceset: TraceSet, tmp_path: Path) -> None:
    verdict = an_evaluation()
    first = save_solution(a_solution("mine"), traceset, verdict, once=True)
    kept = (tmp_path / TRACES).read_text()
    for left in ("", kept.splitlines(keepends=True)[0]):
        (tmp_path / TRACES).write_text(left)
        assert save_solution(a_solution("mine"), traceset, verdict, once=True) == first
        read = reread(tmp_path)
        assert len(read.solutions["scale_add"]) == 1
        assert len(read.traces["scale_add"]) == 2


def test_another_solution_of_that_name_is_not_taken_for_it(traceset: TraceSet) -> None:
    save_solution(a_solution("mine", source="def run(x):\n    return x\n"), traceset, None)
    assert save_solution(a_solution("mine"), traceset, None, once=True)[1].name == "mine_2"


# --- what cannot be written ------------------------------------------------------------------


def test_a_set_in_memory_has_no_folder_to_save_to() -> None:
    with pytest.raises(TraceSetError, match=r"no folder: load one with load_traceset\(path\)"):
        save_solution(a_solution(), TraceSet(), None)


def test_a_solution_of_no_definition_here_is_refused(traceset: TraceSet, tmp_path: Path) -> None:
    before = listing(tmp_path)
    with pytest.raises(TraceSetError, match="has no definition 'foreign'"):
        save_solution(a_solution(definition="foreign"), traceset, None)
    assert listing(tmp_path) == before


TRY_TO_SAVE = """
from kernel_generator import load_traceset
from kernel_generator.domain.errors import KernelGeneratorError
from kernel_generator.runs.saving import save_solution
from tests.runs.sets import a_solution, an_evaluation
traceset, _ = load_traceset({root!r})
try:
    print(save_solution(a_solution({name!r}, source={source!r}), traceset, an_evaluation())[0])
except KernelGeneratorError as error:
    print(type(error).__name__, error)
"""


def trying(root: Path, name: str = "s", source: str = "def run(x):\n    return x\n") -> str:
    return TRY_TO_SAVE.format(root=str(root), name=name, source=source)


@pytest.fixture
def closed(traceset: TraceSet, tmp_path: Path) -> Iterator[Path]:
    """A set whose solutions nobody may add to."""
    folder = tmp_path / "solutions"
    folder.mkdir()
    folder.chmod(0o555)
    yield tmp_path
    folder.chmod(0o755)


def test_a_read_only_folder_is_said_with_what_to_do(closed: Path) -> None:
    before = listing(closed)
    said = as_nobody(trying(closed), closed)
    assert said == (
        f"TraceSetError '{closed}/solutions' is not writable, so no result could be saved there: "
        "use a copy of the trace set"
    )
    assert listing(closed) == before


def test_a_set_that_can_be_written_is_found_so(traceset: TraceSet, tmp_path: Path) -> None:
    assert writable_root(traceset) == tmp_path
    assert not (tmp_path / "solutions").exists(), "looking creates nothing"


def limited_to(size: int, code: str) -> str:
    """What a program prints to whose files the system gives only so many bytes."""
    limit = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
    )
    return run_python("import kernel_generator.runs.saving, tests.runs.sets\n" + limit + code)


def test_a_full_disk_leaves_no_part_of_a_solution(traceset: TraceSet, tmp_path: Path) -> None:
    said = limited_to(2000, trying(tmp_path, source="# " + "x" * 4000 + "\ndef run(x): ..."))
    assert said.startswith("SaveFailed the solution could not be written below ")
    assert "File too large" in said
    assert [p for p in listing(tmp_path) if p.endswith((".json", ".tmp")) and FOLDER in p] == []
    reread(tmp_path)


def test_a_disk_that_fills_up_while_tracing_leaves_neither_solution_nor_trace(
    traceset: TraceSet, tmp_path: Path
) -> None:
    save_solution(a_solution("earlier"), traceset, an_evaluation())
    kept = listing(tmp_path)
    size = kept[TRACES] + 100
    assert limited_to(size, trying(tmp_path, "later")).startswith("SaveFailed")
    assert listing(tmp_path) == kept
    assert len(reread(tmp_path).traces["scale_add"]) == 2


def test_what_failed_once_can_be_saved_again(traceset: TraceSet, tmp_path: Path) -> None:
    assert limited_to(100, trying(tmp_path)).startswith("SaveFailed")
    assert save_solution(a_solution("s"), load_traceset(tmp_path)[0], an_evaluation())[1].name == (
        "s"
    )


def test_a_rescued_solution_can_be_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    paths = [rescue_solution(a_solution("a/b")) for _ in range(2)]
    assert [p.name for p in paths] == ["rescued_a-b_1.json", "rescued_a-b_2.json"]
    assert json.loads(paths[0].read_text())["name"] == "a/b"
