"""`resume`, `runs` and `show`: runs that were stopped go on where they were."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kernel_generator import load_traceset
from kernel_generator.runs.journal import note_saved
from kernel_generator.runs.store import Store
from tests.cli.commands import KEY, UNTIMED, Shell, at, start
from tests.loopback import LoopbackServer, fails, says, stalls_before_answering
from tests.running import soon
from tests.runs.kept import keep_run
from tests.runs.sets import OP_TYPE, RIGHT, WRONG, a_traceset, an_evaluation, write_definition

if TYPE_CHECKING:
    from tests.cli.commands import Ran


def stopped_after_a_wrong_version(shell: Shell, *options: object) -> str:
    """A run whose provider went away in its second round; its id."""
    with LoopbackServer([says(WRONG), fails(401)]) as server:
        ran = shell.run("optimize", "set", *at(server), *UNTIMED, *options)
    assert ran.code == 3
    return ids_of(shell.run("runs", "--json"))[-1]


def ids_of(ran: Ran) -> list[str]:
    return [run["run"] for run in ran.document["runs"]]


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_asks_for_nothing_twice(shell: Shell, tmp_path: Path) -> None:
    run = stopped_after_a_wrong_version(shell)
    with LoopbackServer([says(RIGHT)]) as server:
        ran = shell.run("resume", run, "--base-url", server.base_url)
    assert ran.code == 0, ran.err
    [request] = server.requests
    assert "WRONG_VALUES" in str(request.body) or "wrong values" in str(request.body)
    assert "round 1 draft: WRONG_VALUES" in ran.err
    assert "round 2 repair: CORRECT_NOT_MEASURED" in ran.err
    [saved] = (tmp_path / "set" / "solutions" / OP_TYPE / "scale_add").glob("*.json")
    assert f"_r2_{run}" in saved.read_text()
    assert f"saved set/solutions/{OP_TYPE}/scale_add/{saved.name}" in ran.err.replace(
        f"{tmp_path}/", ""
    )


def test_a_run_that_has_ended_is_left_alone(shell: Shell) -> None:
    with LoopbackServer([says(RIGHT)]) as server:
        shell.run("optimize", "set", *at(server), *UNTIMED)
        [run] = ids_of(shell.run("runs", "--json"))
        ran = shell.run("resume", run)
        every = shell.run("resume", "--all")
    assert ran.code == every.code == 0
    assert f"run {run} has ended: a version passed on all workloads" in ran.err
    assert "no run waits to go on" in every.err
    assert len(server.requests) == 1


def test_what_another_machine_saved_is_saved_here(
    shell: Shell, tmp_path: Path, own_store: Path
) -> None:
    store = Store(own_store)
    run = keep_run(store, load_traceset("set")[0], an_evaluation(sizes=(3,)), traceset="/there")
    note_saved(store, run, Path("/there/solutions/x.json"), f"scale_add_r1_{run}")
    ran = shell.run("resume", run)
    assert ran.code == 2
    assert "where it was moved, say so with --traceset DIR" in ran.err
    for _ in range(2):
        ran = shell.run("resume", run, "--traceset", "set", "--json")
        assert ran.code == 0, ran.err
        [saved] = (tmp_path / "set" / "solutions").rglob("*.json")
        [row] = ran.document["definitions"]
        assert Path(row["file"]).absolute() == saved


def test_what_passed_and_was_not_saved_is_saved_without_asking(
    shell: Shell, tmp_path: Path
) -> None:
    blocked = tmp_path / "set" / "solutions"
    blocked.mkdir()
    (blocked / OP_TYPE).write_text("in the way")
    with LoopbackServer([says(RIGHT)]) as server:
        assert shell.run("optimize", "set", *at(server), *UNTIMED).code == 1
    (blocked / OP_TYPE).unlink()
    [summary] = shell.run("runs", "--json").document["runs"]
    assert summary["state"].endswith("not saved yet")
    ran = shell.run("resume", "--all", "--json")
    assert ran.code == 0, ran.err
    [row] = ran.document["definitions"]
    assert row["solved"]
    assert len(server.requests) == 1


@pytest.mark.slow
def test_all_that_stopped_go_on_and_one_that_cannot_does_not_stop_the_rest(
    shell: Shell, tmp_path: Path
) -> None:
    write_definition(tmp_path / "set", "second", sizes=(3,))
    first = stopped_after_a_wrong_version(shell, "-d", "scale_add")
    stopped_after_a_wrong_version(shell, "-d", "second")
    (tmp_path / "set" / "definitions" / OP_TYPE / "scale_add.json").unlink()
    with LoopbackServer([says(RIGHT)]) as server:
        ran = shell.run("resume", "--all", "--base-url", server.base_url)
    assert ran.code == 1
    assert f"run {first}: error: unknown definition 'scale_add'" in ran.err
    assert "processed 2 of 2, successful 1, failed 1" in ran.out


@pytest.mark.slow
def test_a_run_that_its_provider_stopped_goes_on_and_saves_its_best_once(
    shell: Shell, tmp_path: Path, own_store: Path
) -> None:
    timed = ("--language", "python", "--target", "CPU", "--keep-improving", "--rounds", 3)
    with LoopbackServer([says(RIGHT), fails(401)]) as server:
        ran = shell.run("optimize", "set", *at(server), *timed)
    assert ran.code == 0
    assert "stopped with what had passed" in ran.err
    [summary] = shell.run("runs", "--json").document["runs"]
    assert not summary["over"]
    content = own_store.read_bytes() + own_store.with_name("runs.db-wal").read_bytes()
    assert b"127.0.0.1" not in content
    with LoopbackServer([says(WRONG), says(WRONG)]) as server:
        ran = shell.run("resume", "--all", "--base-url", server.base_url)
    assert ran.code == 0, ran.err
    assert len(server.requests) == 2
    assert len(list((tmp_path / "set" / "solutions").rglob("*.json"))) == 1
    [summary] = shell.run("runs", "--json").document["runs"]
    assert summary["over"]


@pytest.mark.slow
def test_a_trace_set_that_was_moved_is_found_where_it_is_said_to_be(
    shell: Shell, tmp_path: Path
) -> None:
    run = stopped_after_a_wrong_version(shell)
    (tmp_path / "set").rename(tmp_path / "moved")
    ran = shell.run("resume", run, "--base-url", "http://127.0.0.1:9/v1")
    assert ran.code == 2
    assert "where it was moved, say so with --traceset DIR" in ran.err
    with LoopbackServer([says(RIGHT)]) as server:
        ran = shell.run("resume", run, "--base-url", server.base_url, "--traceset", "moved")
    assert ran.code == 0, ran.err


def test_a_run_that_cannot_be_read_leaves_the_others_alone(shell: Shell, own_store: Path) -> None:
    stopped_after_a_wrong_version(shell)
    store = Store(own_store)
    store.begin("fromthefuture", {"definition": "scale_add", "unheard_of": 1})
    ran = shell.run("runs")
    assert ran.code == 0
    assert "1 in " in ran.out
    assert "run fromthefuture cannot be read, another version of this program" in ran.err
    assert shell.run("show", "fromthefuture").code == 2


def test_a_task_that_cannot_be_worked_on_here_is_not_tried_again(
    shell: Shell, tmp_path: Path
) -> None:
    write_definition(tmp_path / "set", sizes=(3,), reference="def run(x):\n    raise ValueError\n")
    with LoopbackServer() as server:
        ran = shell.run("optimize", "set", *at(server), *UNTIMED)
    assert ran.code == 1
    ran = shell.run("resume", "--all")
    assert "no run waits to go on" in ran.err


@pytest.mark.slow
def test_a_trace_set_that_was_edited_is_told_with_what_changed(
    shell: Shell, tmp_path: Path
) -> None:
    run = stopped_after_a_wrong_version(shell)
    write_definition(tmp_path / "set", sizes=(3, 5), description="said better")
    with LoopbackServer([says(RIGHT)]) as server:
        ran = shell.run("resume", run, "--base-url", server.base_url)
    assert "note: scale_add: since the run began, the description has changed" in ran.err
    assert "since the run began, workload n5 is new" in ran.err


EDITED = "def run(x):\n    return x * 7 - 1\n"


def test_a_run_whose_reference_was_edited_does_not_go_on(shell: Shell, tmp_path: Path) -> None:
    run = stopped_after_a_wrong_version(shell)
    write_definition(tmp_path / "set", sizes=(3,), reference=EDITED)
    with LoopbackServer([says(RIGHT)]) as server:
        ran = shell.run("resume", run, "--base-url", server.base_url)
    assert server.requests == []
    assert "the reference has changed" in ran.err
    assert "put back what was there, or begin anew" in ran.err
    assert not list((tmp_path / "set" / "solutions").rglob("*.json"))


def test_what_passed_is_not_saved_into_a_trace_set_that_was_edited(
    shell: Shell, tmp_path: Path, own_store: Path
) -> None:
    run = keep_run(Store(own_store), load_traceset("set")[0], an_evaluation(sizes=(3,)))
    write_definition(tmp_path / "set", sizes=(3,), reference=EDITED)
    ran = shell.run("resume", run)
    assert ran.code == 2
    [error] = ran.errors
    assert f"since run {run} began, the reference has changed" in error
    assert not list((tmp_path / "set").rglob("solutions/**/*.json"))
    ran = shell.run("export", run, "out")
    assert ran.code == 0
    assert "no traces: since the run began, the reference has changed" in ran.err
    assert not (tmp_path / "out" / "traces").exists()


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(shell: Shell, tmp_path: Path, own_store: Path) -> None:
    with LoopbackServer([says(WRONG), stalls_before_answering()]) as server:
        program = start(
            *("optimize", "set", *at(server), *UNTIMED),
            folder=tmp_path,
            LLM_API_KEY=KEY,
            KERNEL_GENERATOR_STORE=str(own_store),
        )
        assert soon(lambda: len(server.requests) == 2), "the second request is under way"
        program.send_signal(signal.SIGKILL)
        program.wait()
    [run] = ids_of(shell.run("runs", "--json"))
    with LoopbackServer([says(RIGHT)]) as server:
        ran = shell.run("resume", run, "--base-url", server.base_url)
    assert ran.code == 0, ran.err
    assert len(server.requests) == 1
    shown = shell.run("show", run, "--json").document
    assert [a["outcome"] for a in shown["attempts"]] == ["WRONG_VALUES", "CORRECT_NOT_MEASURED"]


def test_a_run_that_somebody_works_on_is_refused(shell: Shell, own_store: Path) -> None:
    run = stopped_after_a_wrong_version(shell)
    with Store(own_store).working_on(run):
        ran = shell.run("resume", run, "--base-url", "http://127.0.0.1:9/v1")
    assert ran.code == 2
    assert ran.err.count(f"run {run} is being worked on by another program") == 1


def test_a_run_is_shown_with_its_attempts(shell: Shell) -> None:
    run = stopped_after_a_wrong_version(shell)
    ran = shell.run("show", run)
    assert ran.code == 0
    assert f"run {run}, begun 20" in ran.out
    assert "some/model:1 writes python for V100; 5 rounds, 'refine'" in ran.out
    assert "WRONG_VALUES" in ran.out
    assert "not ended; 2 requests noted, 1 replies" in ran.out
    assert "nothing was saved" in ran.out
    assert KEY not in ran.out
    document = shell.run("show", run, "--json").document
    assert document["made"] == 1
    assert document["attempts"][0]["purpose"] == "draft"


def test_no_key_and_no_address_is_in_the_store(shell: Shell, own_store: Path) -> None:
    stopped_after_a_wrong_version(shell)
    content = own_store.read_bytes() + own_store.with_name("runs.db-wal").read_bytes()
    assert b"some/model:1" in content
    assert KEY.encode() not in content
    assert b"127.0.0.1" not in content


@pytest.mark.parametrize(
    ("arguments", "says_what"),
    [
        (["resume"], "error: name a run, or give --all"),
        (["resume", "abc", "--all"], "error: name a run, or give --all"),
        (["resume", ""], "error: unknown run ''"),
        (["resume", "abc"], "error: unknown run 'abc': there are none; looked in '"),
        (["show", "abc"], "error: unknown run 'abc': there are none"),
        (["runs", "--store", "set"], "is a folder: name a file"),
        (["optimize", "set", *UNTIMED, "--store", "set/x.db/y"], "with --store"),
    ],
    ids=[
        "nothing",
        "both",
        "an unset variable",
        "resume unknown",
        "show unknown",
        "a folder",
        "below a file",
    ],
)
def test_bad_input_is_told_in_a_sentence(
    shell: Shell, tmp_path: Path, arguments: list[str], says_what: str
) -> None:
    (tmp_path / "set" / "x.db").write_text("")
    if arguments[0] == "optimize":
        arguments = [*arguments, "--model", "some/model:1", "--base-url", "http://127.0.0.1:9/v1"]
    ran = shell.run(*arguments)
    assert ran.code == 2
    assert says_what in ran.err
    assert len(ran.errors) == 1


def test_an_empty_store_has_no_runs(shell: Shell) -> None:
    ran = shell.run("runs")
    assert ran.code == 0
    assert "0 in " in ran.out


def test_runs_are_kept_where_they_are_asked_to_be(shell: Shell, tmp_path: Path) -> None:
    a_traceset(tmp_path / "set", sizes=(3,))
    with LoopbackServer([says(RIGHT)]) as server:
        shell.run("optimize", "set", *at(server), *UNTIMED, "--store", "mine/runs.db")
    assert (tmp_path / "mine" / "runs.db").is_file()
    assert ids_of(shell.run("runs", "--json")) == []
    assert len(ids_of(shell.run("runs", "--json", "--store", "mine/runs.db"))) == 1
