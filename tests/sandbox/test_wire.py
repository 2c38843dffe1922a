"""Frames: what is sent arrives, and nothing else is taken for a frame."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_generator.sandbox import wire

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.fixture
def pair() -> Generator[tuple[socket.socket, socket.socket]]:
    judge, child = socket.socketpair()
    with judge, child:
        yield judge, child


@given(st.integers(0, 255), st.binary(max_size=wire.MAX_ANSWER))
def test_a_frame_arrives_as_it_was_sent(kind: int, payload: bytes) -> None:
    judge, child = socket.socketpair()
    with judge, child:
        wire.send(child, kind, payload, timeout=5.0)
        assert wire.receive_answer(judge, 5.0) == wire.Frame(kind, payload)


def test_a_descriptor_reaches_the_child(pair: tuple[socket.socket, socket.socket]) -> None:
    judge, child = pair
    with open(os.devnull) as file:  # noqa: PTH123 - its descriptor is wanted
        wire.send(judge, wire.Kind.BIND, b"{}", fd=file.fileno())
        frame = wire.receive(child, 5.0)
        assert frame.fd is not None
        assert os.path.sameopenfile(frame.fd, file.fileno())
        os.close(frame.fd)


def test_a_descriptor_sent_by_the_child_is_dropped(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    judge, child = pair
    with open(os.devnull) as file:  # noqa: PTH123 - its descriptor is wanted
        wire.send(child, wire.Kind.DONE, b"", fd=file.fileno())
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        assert wire.receive_answer(judge, 5.0).fd is None
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@given(st.binary(min_size=9, max_size=200).filter(lambda b: not b.startswith(b"KGW1")))
def test_garbage_is_no_frame(garbage: bytes) -> None:
    judge, child = socket.socketpair()
    with judge, child:
        child.sendall(garbage)
        with pytest.raises(wire.NotAFrame):
            wire.receive_answer(judge, 5.0)


def test_an_answer_that_is_announced_too_long_is_no_frame(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    judge, child = pair
    child.sendall(b"KGW1\x66" + (wire.MAX_ANSWER + 1).to_bytes(4, "little"))
    with pytest.raises(wire.NotAFrame):
        wire.receive_answer(judge, 5.0)


@pytest.mark.parametrize("sent", [b"", b"KGW1", b"KGW1\x65\x05\x00\x00\x00ab"])
def test_a_frame_that_does_not_end_times_out(
    pair: tuple[socket.socket, socket.socket], sent: bytes
) -> None:
    judge, child = pair
    child.sendall(sent)
    with pytest.raises(wire.ChannelTimeout):
        wire.receive_answer(judge, 0.01)


@pytest.mark.parametrize("sent", [b"", b"KGW1", b"KGW1\x65\x05\x00\x00\x00ab"])
def test_the_other_sides_end_is_told(
    pair: tuple[socket.socket, socket.socket], sent: bytes
) -> None:
    judge, child = pair
    child.sendall(sent)
    child.close()
    with pytest.raises(wire.ChannelClosed):
        wire.receive_answer(judge, 5.0)


def test_a_reader_that_does_not_read_times_out(pair: tuple[socket.socket, socket.socket]) -> None:
    judge, _ = pair
    with pytest.raises(wire.ChannelTimeout):
        wire.send(judge, wire.Kind.PREPARE, b"x" * 10_000_000, timeout=0.01)


def test_unasked_answers_are_heard(pair: tuple[socket.socket, socket.socket]) -> None:
    judge, child = pair
    assert wire.is_silent(judge)
    wire.send(child, wire.Kind.DONE)
    assert not wire.is_silent(judge)


def test_a_channel_that_was_closed_keeps_nobody_waiting(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    judge, _ = pair
    assert not wire.is_ready(judge, 0.0)
    judge.close()
    assert wire.is_ready(judge, 60.0)
    with pytest.raises(wire.ChannelClosed):
        wire.receive_answer(judge, 60.0)
