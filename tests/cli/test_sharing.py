"""Runs that go from one store to another as a bundle, and results as files of a trace set."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from flashinfer_bench import TraceSet

from kernel_generator import load_traceset
from kernel_generator.domain.outcome import Outcome
from kernel_generator.runs.bundle import Bundle
from kernel_generator.runs.store import Store
from tests.cli.commands import UNTIMED, Shell, at
from tests.loopback import LoopbackServer, says
from tests.runs.kept import keep_run
from tests.runs.sets import OP_TYPE, RIGHT, WRONG, an_evaluation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.commands import Ran


@pytest.fixture
def run(shell: Shell) -> str:
    """A run that has one wrong version and goes on."""
    with LoopbackServer([says(WRONG), says(WRONG)]) as server:
        shell.run("optimize", "set", *at(server), *UNTIMED, "--max-tokens", 150)
    [found] = shell.run("runs", "--json").document["runs"]
    return found["run"]


def exported(shell: Shell, run: str, folder: str = "out", store: str | None = None) -> Path:
    ran = shell.run("export", run, folder, *(() if store is None else ("--store", store)))
    assert ran.code == 0, ran.err
    assert ran.out.split()[0] == f"{folder}/{run}.bundle.json"
    return shell.folder / folder / f"{run}.bundle.json"


def imported(shell: Shell, bundle: Path, store: str = "elsewhere.db") -> Ran:
    return shell.run("import", bundle, "--store", store)


def test_a_run_goes_on_on_another_machine(shell: Shell, run: str) -> None:
    ran = imported(shell, exported(shell, run))
    assert ran.code == 0, ran.err
    assert ran.out.split() == [run]
    assert f"to go on: kernel-generator resume {run} --traceset DIR" in ran.err
    here, there = (
        shell.run("show", run, "--json", *where).document
        for where in ((), ("--store", "elsewhere.db"))
    )
    assert here == there
    assert [attempt["outcome"] for attempt in there["attempts"]] == ["WRONG_VALUES"] * 2
    with LoopbackServer([says(RIGHT)]) as server:
        ran = shell.run(
            *("resume", run, "--base-url", server.base_url),
            *("--traceset", "set", "--store", "elsewhere.db", "--max-tokens", 10_000),
        )
    assert ran.code == 0, ran.err
    assert len(server.requests) == 1

    # What it has become there is added to what is known here, once.
    ran = shell.run("export", run, "back", "--store", "elsewhere.db")
    bundle = shell.folder / "back" / f"{run}.bundle.json"
    assert "was known already" not in shell.run("import", bundle).err
    assert "was known already" in shell.run("import", bundle).err
    assert "was known already" in shell.run("import", exported(shell, run, "old")).err
    [found] = shell.run("runs", "--json").document["runs"]
    assert found["over"]


def test_what_passed_is_a_trace_set_that_flashinfer_bench_reads(shell: Shell) -> None:
    with LoopbackServer([says(WRONG), says(RIGHT)]) as server:
        ran = shell.run("optimize", "set", *at(server), *UNTIMED)
    assert ran.code == 0, ran.err
    [found] = shell.run("runs", "--json").document["runs"]
    for _ in range(2):
        exported(shell, found["run"])
    read = TraceSet.from_path(str(shell.folder / "out"))
    [solution] = read.solutions["scale_add"]
    assert "y = x * 2 + 1" in solution.sources[0].content or solution.sources
    assert read.definitions["scale_add"].op_type == OP_TYPE
    (shell.folder / "set").rename(shell.folder / "moved")
    ran = shell.run("export", found["run"], "bare")
    assert ran.code == 0
    assert "no traces: the run's trace set is not here" in ran.err
    assert not (shell.folder / "bare" / "definitions").exists()
    ran = shell.run("export", found["run"], "whole", "--traceset", "moved")
    assert (shell.folder / "whole" / "definitions").exists()


def resealed(bundle: Path, document: dict[str, Any]) -> None:
    """Written by somebody who makes the digest anew."""
    with contextlib.suppress(ValueError):
        document = json.loads(Bundle.model_validate(document).sealed().dumped())
    bundle.write_text(json.dumps(document))


def key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def without_a_text(bundle: dict[str, Any]) -> None:
    bundle["texts"].popitem()


def with_another_text(bundle: dict[str, Any]) -> None:
    name = next(iter(bundle["texts"]))
    bundle["texts"][name] = '"something else"'


def with_an_event_of_another_kind(bundle: dict[str, Any]) -> None:
    bundle["events"][0]["document"]["proposal"] = "nonsense"


def with_an_event_without_texts(bundle: dict[str, Any]) -> None:
    del bundle["events"][0]["document"]["texts"]


def of_a_later_version(bundle: dict[str, Any]) -> None:
    bundle["version"] = 3


def with_a_path_as_its_id(bundle: dict[str, Any]) -> None:
    bundle["run_id"] = "../../etc"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without_a_text, "is missing"),
        (with_another_text, "was altered"),
        (with_an_event_of_another_kind, "cannot be read"),
        (with_an_event_without_texts, "event 1 names no texts"),
        (of_a_later_version, "is no bundle of a run: version"),
        (with_a_path_as_its_id, "is no bundle of a run: run_id"),
    ],
)
def test_a_bundle_that_is_not_whole_is_refused_and_nothing_kept(
    shell: Shell, run: str, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    bundle = exported(shell, run)
    document = json.loads(bundle.read_text())
    change(document)
    resealed(bundle, document)
    ran = imported(shell, bundle)
    assert ran.code in (1, 2)
    [error] = ran.errors
    assert says in error
    assert shell.run("runs", "--json", "--store", "elsewhere.db").document["runs"] == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"kind": "x"}', "\x00"])
def test_a_file_that_is_no_bundle_is_refused(shell: Shell, text: str) -> None:
    (shell.folder / "bundle.json").write_text(text)
    ran = imported(shell, shell.folder / "bundle.json")
    assert ran.code == 2
    assert len(ran.errors) == 1
    assert imported(shell, shell.folder / "nothing.json").code == 2
    assert imported(shell, shell.folder).code == 2


def test_a_run_that_went_on_otherwise_is_not_mixed(shell: Shell, run: str) -> None:
    bundle = exported(shell, run)
    document = json.loads(bundle.read_text())
    document["events"][0]["at"] = "2001-01-01T00:00:00+00:00"
    resealed(bundle, document)
    ran = shell.run("import", bundle)
    assert ran.code == 2
    assert "went on otherwise" in ran.err


def test_what_comes_from_elsewhere_is_judged_in_full_isolation(shell: Shell, run: str) -> None:
    bundle = exported(shell, run)
    document = json.loads(bundle.read_text())
    document["settings"]["isolation"] = "process"
    resealed(bundle, document)
    assert imported(shell, bundle).code == 0
    [found] = Store(shell.folder / "elsewhere.db").runs()
    assert found.settings["isolation"] == "strict"


def test_what_is_told_to_go_on_with_names_the_store(shell: Shell) -> None:
    store, loaded = Store(shell.folder / "first.db"), load_traceset("set")[0]
    run = keep_run(store, loaded, an_evaluation(sizes=(3,)), reason=None)
    shell.run("export", run, "out", "--store", "first.db")
    ran = imported(shell, shell.folder / "out" / f"{run}.bundle.json", "else where.db")
    assert f"resume {run} --traceset DIR --store 'else where.db'" in ran.err


def test_a_run_is_forgotten_where_that_is_asked_for(shell: Shell, own_store: Path) -> None:
    store, loaded = Store(own_store), load_traceset("set")[0]
    first, second = (keep_run(store, loaded, an_evaluation(sizes=(3,))) for _ in range(2))
    with store.working_on(first):
        assert "is being worked on" in shell.run("runs", "--delete", first).err
    document = shell.run("runs", "--delete", first, "--json").document
    assert [run["run"] for run in document["runs"]] == [second]
    assert shell.run("runs", "--delete", first).code == 2


def test_an_unknown_run_is_not_exported(shell: Shell, run: str) -> None:
    ran = shell.run("export", run[:-1], "out")
    assert ran.code == 2
    assert run in ran.err
    assert not (shell.folder / "out").exists()
    (shell.folder / "file").write_text("")
    assert "cannot be written" in shell.run("export", run, "file").err


@pytest.mark.slow
def test_what_passed_elsewhere_is_judged_here_before_it_is_saved_and_needs_no_key(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLM_API_KEY")
    correct = an_evaluation(Outcome.CORRECT_NOT_MEASURED, sizes=(3,))
    store, loaded = Store(shell.folder / "first.db"), load_traceset("set")[0]
    run = keep_run(store, loaded, correct, target="V100", model="gpt-5")
    ran = imported(shell, exported(shell, run, store="first.db"))
    assert "what passed there is judged again here before it is saved" in ran.err
    ran = shell.run("resume", run, "--store", "elsewhere.db", "--json")
    assert ran.code == 0, ran.err
    assert "judged elsewhere, was judged again here: CORRECT_NOT_MEASURED" in ran.err
    assert len(list((shell.folder / "set" / "solutions").rglob("*.json"))) == 1
