"""`generate`: what it prints where, what it saves, and how it exits."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import pytest
from flashinfer_bench import TraceSet

from tests.cli.commands import KEY, ON_SET, UNTIMED, Shell, at, start, then
from tests.loopback import LoopbackServer, fails, says, stalls_midway
from tests.runs.sets import (
    OP_TYPE,
    RIGHT,
    a_traceset,
    listing,
)

ASKED = (*ON_SET, "-l", "python", "-t", "CPU")


def test_generate_saves_each_sample_and_prints_where(shell: Shell, tmp_path: Path) -> None:
    with LoopbackServer([says(RIGHT)] * 3) as server:
        ran = shell.run("generate", *ON_SET, "-k", 3, *at(server), "-l", "python", "-t", "CPU")
    assert ran.code == 0
    folder = f"set/solutions/{OP_TYPE}/scale_add"
    assert ran.out.splitlines() == [
        f"{folder}/some-model-1_optimized_solution_{n}.json" for n in (1, 2, 3)
    ]
    assert len(TraceSet.from_path(str(tmp_path / "set")).solutions["scale_add"]) == 3
    assert server.keys == {KEY}


def test_generate_prints_the_solutions_as_they_were_saved(shell: Shell) -> None:
    with LoopbackServer([says(RIGHT)]) as server:
        ran = shell.run("generate", *ON_SET, *at(server), "-l", "python", "-t", "CPU", "--json")
    assert ran.code == 0
    [solution] = ran.document["solutions"]
    assert ran.document["evaluated"] is False
    assert json.loads(Path(ran.document["files"][0]).read_text()) == solution


def test_generate_without_a_readable_reply_exits_1(shell: Shell, tmp_path: Path) -> None:
    with LoopbackServer([says("no code")] * 2) as server:
        ran = shell.run("generate", *ON_SET, *at(server), "-l", "python", "-t", "CPU", "--json")
    assert ran.code == 1
    assert ran.document["solutions"] == []
    assert "0 of 1 solutions could be read; MALFORMED_REPLY" in ran.errors[0]
    assert not (tmp_path / "set" / "solutions").exists()


def test_a_refused_key_exits_3_and_is_shown_nowhere(shell: Shell) -> None:
    with LoopbackServer([fails(401, f"Incorrect API key provided: {KEY}")]) as server:
        ran = shell.run("generate", *ON_SET, *at(server), "-l", "python", "-t", "CPU", "--json")
    assert ran.code == 3
    assert "rejected the key from LLM_API_KEY (401)" in ran.document["error"]["message"]
    assert KEY not in ran.out + ran.err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interruption_before_anything_passed_says_so(tmp_path: Path, how: int) -> None:
    a_traceset(tmp_path / "set", sizes=(3,))
    before = listing(tmp_path)
    arrived = threading.Event()
    with LoopbackServer([then(arrived.set, stalls_midway())]) as server:
        program = start(
            *("generate", *ON_SET, *at(server), "--language", "python", "--target", "CPU"),
            "--json",
            folder=tmp_path,
        )
        assert arrived.wait(60)
        program.send_signal(how)
        out, err = program.communicate(timeout=60)
    assert program.returncode == 130, err
    assert err.splitlines()[-1] == "interrupted"
    assert json.loads(out)["error"]["kind"] == "Interrupted"
    assert listing(tmp_path) == before


def test_progress_tells_what_each_sample_took(shell: Shell) -> None:
    with LoopbackServer([says("no code"), says(RIGHT)]) as server:
        ran = shell.run("generate", *ASKED, *at(server))
    assert ran.code == 0
    assert "some/model:1 writes python for CPU; 1 independent samples" in ran.err
    assert "sample 1, round 1 draft: MALFORMED_REPLY" in ran.err
    assert "sample 1: read scale_add_some-model-1_python_r2_" in ran.err
    assert "1 of 1 samples could be read; 200 + 40 tokens, cost unknown" in ran.err


def test_what_cannot_be_done_here_is_said(shell: Shell) -> None:
    with LoopbackServer([says(RIGHT)]) as server:
        ran = shell.run("generate", *ON_SET, *UNTIMED, *at(server))
    assert "note: no V100 on this machine" in ran.err


def test_a_refusal_after_a_readable_sample_saves_that_one_and_exits_3(
    shell: Shell, tmp_path: Path
) -> None:
    with LoopbackServer([says(RIGHT), fails(401)]) as server:
        ran = shell.run("generate", *ASKED, "-k", 2, *at(server), "--json")
    assert ran.code == 3
    assert "error: 1 of 2 solutions could be read; " in ran.errors[0]
    assert "(401)" in ran.document["message"]
    [file] = ran.document["files"]
    assert (tmp_path / file).is_file()


def test_every_sample_that_cannot_be_saved_is_rescued(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelter = tmp_path / "tmp"
    shelter.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(shelter))
    (tmp_path / "set" / "solutions").mkdir()
    (tmp_path / "set" / "solutions" / OP_TYPE).write_text("in the way")
    with LoopbackServer([says(RIGHT)] * 2) as server:
        ran = shell.run("generate", *ASKED, "-k", 2, *at(server), "--json")
    assert ran.code == 1
    assert ran.document["files"] == []
    rescued = sorted(shelter.glob("rescued_*.json"))
    assert len(rescued) == 2
    assert all(str(path) in ran.err for path in rescued)


def test_an_interruption_saves_and_names_what_had_arrived(tmp_path: Path) -> None:
    a_traceset(tmp_path / "set", sizes=(3,))
    with LoopbackServer([says(RIGHT), stalls_midway()]) as server:
        program = start("generate", *ASKED, "-k", 2, *at(server), "--json", folder=tmp_path)
        assert program.stderr is not None
        for line in program.stderr:
            if ": read scale_add_" in line:
                break
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=60)
    assert program.returncode == 130, err
    assert "interrupted; what had arrived is saved" in err
    [file] = json.loads(out)["files"]
    assert (tmp_path / file).is_file()
