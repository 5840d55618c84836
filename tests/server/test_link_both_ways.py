"""A link writes and reads at the same time: neither side ever waits for the other to be done."""

import os
import signal
import socket
import threading

import pytest

from pipeline.errors import NotConnectedError
from pipeline.server.connect import Link
from tests.conftest import OwnServer, Server
from tests.proxy import Proxy
from tests.until import until


def test_more_than_both_sockets_hold_is_asked_for_in_one_go(link: Link, stream: str) -> None:
    """The server stops reading while its answers are not taken: they are, while the rest is written."""
    body = b"x" * 100_000
    replies = link.calls([("ECHO", body) for _ in range(300)])
    assert all(reply == body for reply in replies)


def test_what_the_socket_does_not_take_is_written_while_the_answer_is_awaited(own_server: OwnServer) -> None:
    """post() returns at once; ready() sees to the rest."""
    server = own_server()
    link = server.connector().link()
    commands = [("ECHO", b"y" * 1_000_000) for _ in range(8)]
    os.kill(server.pid, signal.SIGSTOP)  # it reads nothing meanwhile
    try:
        link.post(*commands)
        left = link.unsent
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert left
    for _ in commands:
        until(lambda: link.ready(1_000))
        assert len(link.read()) == 1_000_000
    assert not link.unsent
    link.close()


def test_answers_that_came_together_are_told(link: Link) -> None:
    """received(): whether one can be read without waiting."""
    assert not link.received()
    link.send(("PING",), ("PING",), ("PING",))
    link.read()
    until(link.received)
    assert [link.read(), link.received(), link.read(), link.received()] == [b"PONG", True, b"PONG", False]


def test_a_wait_for_an_answer_is_ended_by_what_wakes_it(link: Link) -> None:
    """A byte in a pipe; the answer is still to come."""
    read_end, write_end = os.pipe()
    try:
        timer = threading.Timer(0.05, os.write, (write_end, b"w"))
        timer.start()
        assert not link.ready(20_000, wake=read_end)
        timer.join()
        link.send(("PING",))
        until(lambda: link.ready(1_000))
        assert link.read() == b"PONG"
    finally:
        os.close(read_end)
        os.close(write_end)


class SlowSocket:
    """A socket whose send() takes as long as it is told to."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.sending = threading.Event()
        self.go_on = threading.Event()

    def send(self, data: memoryview, flags: int) -> int:
        self.sending.set()
        self.go_on.wait(20)
        return self._sock.send(data, flags)

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)


def test_what_is_posted_is_written_once_though_another_thread_waits_for_answers(link: Link) -> None:
    """Who waits finds something unsent, in the midst of the other's writing it: twice written is twice answered."""
    slow = SlowSocket(link._sock)
    link._sock = slow  # type: ignore[assignment]
    posting = threading.Thread(target=link.post, args=(("ECHO", b"once"),))
    posting.start()
    assert slow.sending.wait(20)
    slow.sending.clear()
    waiting = threading.Thread(target=link.ready, args=(200,))
    waiting.start()
    waiting.join(20)  # it has looked, and not written
    assert not slow.sending.is_set()
    slow.go_on.set()
    posting.join(20)
    assert link.read() == b"once"
    assert not link.ready(100), "and answered once"


def test_a_write_that_breaks_is_told_to_who_waits_for_the_answer(server: Server) -> None:
    """Not to who posts: that may be another thread, under which nothing may be closed."""
    with Proxy(server.address) as proxy:
        connector = server.connector()
        proxied = type(connector)(proxy.url)
        link = proxied.link()
        proxy.cut()

        def broken() -> bool:
            link.post(("PING",))
            return link._failure is not None

        def closed() -> bool:
            return link.closed

        until(broken)
        assert not closed()
        with pytest.raises(NotConnectedError, match="broke"):
            link.ready(1_000)
        assert closed()
        proxied.close()
        connector.close()
