"""A model that is asked elsewhere: requests go out as files, replies come in as files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from kernel_generator.runs.store import Store
from tests.cli.commands import UNTIMED, Shell, at
from tests.loopback import LoopbackServer, fails
from tests.runs.sets import OP_TYPE, RIGHT, WRONG, write_definition

if TYPE_CHECKING:
    from pathlib import Path

OFFLINE = ("optimize", "set", "--model", "offline", *UNTIMED)


@pytest.fixture
def run(shell: Shell) -> str:
    """A run that waits for its first reply."""
    ran = shell.run(*OFFLINE)
    assert ran.code == 1
    [found] = shell.run("runs", "--json").document["runs"]
    assert found["state"] == "waits for a reply"
    assert f"run {found['run']} waits for a reply: kernel-generator prompts export" in ran.err
    return found["run"]


def answer(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)


def test_the_round_trip_across_two_machines(shell: Shell, tmp_path: Path, run: str) -> None:
    """What leaves the first machine is a folder of prompts, what comes back one of replies."""
    for number, reply in ((1, WRONG), (2, RIGHT)):
        out, back = f"out-{number}", tmp_path / f"back-{number}"
        ran = shell.run("prompts", "export", run, out)
        assert ran.out.split() == [f"{out}/{run}-r{number}.md"]
        prompt = (tmp_path / out / f"{run}-r{number}.md").read_text()
        assert "<!-- system -->" in prompt
        assert "scale_add" in prompt
        assert ("wrong values" in prompt) is (number == 2)
        answer(back, f"{run}-r{number}.reply.md", reply)
        ran = shell.run("replies", "import", run, back, "--author", "a colleague")
        assert ran.out.split() == [f"{run}-r{number}.reply.md"]
        ran = shell.run("resume", run)
    assert ran.code == 0, ran.err
    [saved] = (tmp_path / "set" / "solutions" / OP_TYPE / "scale_add").glob("*.json")
    assert '"author": "a colleague"' in saved.read_text()
    shown = shell.run("show", run, "--json").document
    assert [a["outcome"] for a in shown["attempts"]] == ["WRONG_VALUES", "CORRECT_NOT_MEASURED"]


def test_a_run_that_still_waits_says_so_again_and_asks_once(
    shell: Shell, run: str, own_store: Path
) -> None:
    ran = shell.run("resume", run)
    assert ran.code == 1
    assert f"run {run} waits for a reply" in ran.err
    kinds = [event.kind for event in Store(own_store).events(run)]
    assert kinds == ["asked", "resumed"]


def test_a_reply_that_is_brought_twice_is_known(shell: Shell, tmp_path: Path, run: str) -> None:
    answer(tmp_path / "back", f"{run}-r1.reply.md", WRONG)
    ran = shell.run("replies", "import", run, "back")
    assert ran.err.endswith(f"1 taken, 0 known already; to go on: kernel-generator resume {run}\n")
    ran = shell.run("replies", "import", run, "back")
    assert ran.code == 0
    assert "0 taken, 1 known already" in ran.err


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("{run}-r2.reply.md", RIGHT, "answers a request that run {run} never made"),
        ("{run}-r1-s2.reply.md", RIGHT, "answers a request that run {run} never made"),
        ("{run}-r1.reply.md", " \n", "is empty: write the reply into it, or remove it"),
        ("{run}-r01.reply.md", RIGHT, "is not how a reply's file is called"),
        ("{run}-r1-s1.reply.md", RIGHT, "is not how a reply's file is called"),
    ],
    ids=["a later round", "another sample", "empty", "another number", "the first sample"],
)
def test_a_reply_that_cannot_be_taken_is_told_and_none_is_taken(
    shell: Shell, tmp_path: Path, run: str, name: str, text: str, says: str
) -> None:
    answer(tmp_path / "back", f"{run}-r1.reply.md", RIGHT)
    answer(tmp_path / "back", name.format(run=run), text)
    ran = shell.run("replies", "import", run, "back")
    assert ran.code == 2, ran.err
    assert says.format(run=run) in ran.err
    assert len(ran.errors) == 1
    assert "waits for a reply" in shell.run("runs", "--json").out


def test_another_answer_to_what_was_answered_is_refused(
    shell: Shell, tmp_path: Path, run: str
) -> None:
    answer(tmp_path / "back", f"{run}-r1.reply.md", WRONG)
    shell.run("replies", "import", run, "back", "--author", "one")
    answer(tmp_path / "back", f"{run}-r1.reply.md", RIGHT)
    ran = shell.run("replies", "import", run, "back")
    assert ran.code == 2
    assert "answers anew what was answered before, by one" in ran.err


@pytest.mark.parametrize("what", ["pipe", "device"])
def test_what_is_no_file_holds_nobody_up(shell: Shell, tmp_path: Path, run: str, what: str) -> None:
    (tmp_path / "back").mkdir()
    odd = tmp_path / "back" / f"{run}-r1.reply.md"
    if what == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to("/dev/zero")
    ran = shell.run("replies", "import", run, "back")
    assert ran.code == 2
    assert "is no ordinary file" in ran.err


def test_a_run_that_asks_its_model_itself_takes_no_files(shell: Shell, tmp_path: Path) -> None:
    with LoopbackServer([fails(401)]) as server:
        shell.run("optimize", "set", *at(server), *UNTIMED)
    [found] = shell.run("runs", "--json").document["runs"]
    answer(tmp_path / "back", f"{found['run']}-r1.reply.md", RIGHT)
    ran = shell.run("replies", "import", found["run"], "back")
    assert ran.code == 2
    assert "asks 'some/model:1' itself: it takes no files" in ran.err


def test_replies_of_other_runs_and_other_files_are_passed_over(
    shell: Shell, tmp_path: Path, run: str
) -> None:
    answer(tmp_path / "back", "deadbeef-r1.reply.md", RIGHT)
    answer(tmp_path / "back", "notes.md", "to be done")
    ran = shell.run("replies", "import", run, "back")
    assert ran.code == 1
    assert "0 taken, 0 known already" in ran.err
    assert f"not there: {run}-r1.reply.md" in ran.err
    assert "nearly so" not in ran.err


@pytest.mark.parametrize(
    "name", ["{run}-r1.reply.txt", "{run}-r1-reply.md", "{run}-1.reply.md", "{run}-r1.Reply.md"]
)
def test_a_file_that_is_called_nearly_right_is_named(
    shell: Shell, tmp_path: Path, run: str, name: str
) -> None:
    name = name.format(run=run)
    shell.run("prompts", "export", run, "back")
    answer(tmp_path / "back", name, RIGHT)
    ran = shell.run("replies", "import", run, "back")
    assert ran.code == 1
    assert f"not there: {run}-r1.reply.md\ncalled nearly so, and not taken: {name}\n" in ran.err


def test_who_answered_is_named_and_shown(shell: Shell, tmp_path: Path, run: str) -> None:
    answer(tmp_path / "back", f"{run}-r1.reply.md", "no program at all")
    ran = shell.run("replies", "import", run, "back", "--author", "  ")
    assert ran.code == 2
    assert "--author is blank" in ran.err
    shell.run("replies", "import", run, "back", "--author", "a colleague")
    shell.run("resume", run)
    assert "a colleague" in shell.run("show", run).out
    [attempt] = shell.run("show", run, "--json").document["attempts"]
    assert attempt["answered_by"] == "a colleague"


def test_all_that_waits_goes_out_and_comes_back_at_once(shell: Shell, tmp_path: Path) -> None:
    write_definition(tmp_path / "set", "other", sizes=(3,))
    named = ("--store", "my runs.db")
    ran = shell.run(*OFFLINE, *named)
    assert "failed 0, waiting 2" in ran.out
    wait = "2 requests wait for replies: kernel-generator prompts export --all DIR --store "
    assert f"{wait}'my runs.db'" in ran.err
    assert "my runs.db', and: resume" in ran.err
    ran = shell.run("prompts", "export", "--all", "back", *named)
    assert "2 requests of 2 runs wait for replies" in ran.err
    for path in ran.out.split():
        (tmp_path / path).with_suffix(".reply.md").write_text("no program at all")
    ran = shell.run("replies", "import", "--all", "back", *named)
    assert ran.code == 0
    assert "2 taken, 0 known already; to go on: kernel-generator resume --all" in ran.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["prompts", "export", "nothing", "out"], "unknown run 'nothing'"),
        (["replies", "import", "nothing", "back"], "unknown run 'nothing'"),
        (["replies", "import", "{run}", "missing"], "there is no folder 'missing'"),
        (["prompts", "export", "{run}", "set/definitions.json"], "cannot be written"),
        (["generate", "set", "-d", "scale_add", "--model", "offline"], "optimize alone"),
        (["prompts", "export", "{run}"], "name a run and a folder"),
        (["replies", "import", "--all", "{run}", "back"], "name the folder alone"),
    ],
    ids=["export unknown", "import unknown", "no folder", "a file", "generate", "one", "both"],
)
def test_bad_input_is_told_in_a_sentence(
    shell: Shell, tmp_path: Path, run: str, arguments: list[str], says: str
) -> None:
    (tmp_path / "set" / "definitions.json").write_text("{}")
    ran = shell.run(*(argument.format(run=run) for argument in arguments))
    assert ran.code == 2
    assert says in ran.err
