"""A machine on which kernels cannot be isolated: nothing less is used unasked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kernel_generator.sandbox import isolation
from tests.cli.commands import ON_SET, Shell, at
from tests.loopback import LoopbackServer, says
from tests.runs.sets import RIGHT

if TYPE_CHECKING:
    from pathlib import Path

FORBIDDEN = "user namespaces are forbidden here"


@pytest.fixture(autouse=True)
def no_jail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "find_jail", lambda: FORBIDDEN)


def test_optimize_says_so_before_anyone_pays(shell: Shell) -> None:
    with LoopbackServer([says(RIGHT)]) as server:
        ran = shell.run("optimize", "set", *at(server), "--target", "CPU", "-l", "python")
        assert server.keys == set()
    assert ran.code == 2
    [told] = ran.errors
    assert FORBIDDEN in told
    assert "ask for --isolation process" in told


def test_evaluate_says_so(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "k.py").write_text("def run(x):\n    return x * 2\n")
    ran = shell.run("evaluate", *ON_SET, "--target", "CPU", "-s", "k.py")
    assert ran.code == 2
    assert FORBIDDEN in ran.errors[0]


def test_less_is_used_where_it_is_asked_for_by_name(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "k.py").write_text("def run(x):\n    return x * 2 + 1\n")
    asked = ("evaluate", *ON_SET, "--target", "V100", "-s", "k.py", "--json")
    ran = shell.run(*asked, "--isolation", "process")
    assert ran.document["isolation"]["level"] == "process"


def test_generate_runs_nothing_and_needs_none(shell: Shell) -> None:
    with LoopbackServer([says(RIGHT)]) as server:
        ran = shell.run("generate", *ON_SET, *at(server), "--target", "CPU", "-l", "python")
    assert ran.code == 0
