"""Connections on which no request comes: they are closed in time, and are not many."""

import contextlib
import json
import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import pytest

from polytask.serving.app import create_app
from polytask.serving.connections import Connections
from polytask.serving.server import listen, run
from polytask.serving.settings import Settings
from tests.serving.conftest import tiny, until
from tests.serving.test_limits import X

BODY = json.dumps({"prompt": "a", "max_tokens": 2}).encode()
HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
)
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextmanager
def serving(**limits):
    """A server as `polytask serve` runs it, in a thread: its port."""
    app, listener, started = create_app({"tiny": tiny()}, Settings(**limits)), listen("127.0.0.1", 0), threading.Event()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # what a reader does not take is soon noticed
    thread = threading.Thread(target=run, args=(app, listener, lambda _: started.set()), daemon=True)
    thread.start()
    assert started.wait(30)
    try:
        yield listener.getsockname()[1]
    finally:
        app.state.life.draining = True
        thread.join(30)
        assert not thread.is_alive()


def connected(port: int, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(sent)
    return connection


def answer(connection: socket.socket) -> bytes:
    """Up to the end of its JSON."""
    got = b""
    while not got.endswith(b"}"):
        got += (part := connection.recv(9999))
        assert part, got
    return got


def closed(connection: socket.socket, drop: bytes = b"") -> bool:
    """Whether the other end has closed it; `drop` is sent first."""
    connection.settimeout(0.05)
    try:
        connection.sendall(drop)
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nX-Slow: "], ids=["nothing", "a header"])
def test_a_header_has_its_time(sent):
    with serving(header=0.4) as port:
        began, connection = time.monotonic(), connected(port, sent)
        until(lambda: closed(connection, sent and b"a"))
        assert time.monotonic() - began > 0.4
        assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200


def test_the_next_header_has_its_time_too():
    with serving(header=0.4) as port:
        connection = connected(port, HEALTH)
        assert answer(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(HEALTH)  # the same connection, in time
        assert answer(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(HEALTH[:20])
        until(lambda: closed(connection, b"a"))


def test_a_body_has_a_time_of_its_own():
    with serving(header=0.3) as port:
        connection = connected(port, HEAD)
        time.sleep(0.9)
        connection.sendall(BODY)
        assert answer(connection).startswith(b"HTTP/1.1 200")


def test_of_too_many_connections_those_that_wait_longest_are_closed():
    with serving(header=60, connections=4) as port, contextlib.ExitStack() as stack:
        old = [stack.enter_context(connected(port, b"GET ")) for _ in range(4)]
        time.sleep(0.5)
        assert not any(closed(each) for each in old)
        new = [stack.enter_context(connected(port, b"GET ")) for _ in range(4)]
        until(lambda: all(closed(each) for each in old))
        assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
        assert not all(closed(each) for each in new)


class Written:
    """A connection whose answer is complete, of which `left` bytes are still to be read."""

    def __init__(self, left: int):
        self.cycle, self.transport = SimpleNamespace(response_complete=True), self
        self.left, self.aborted = left, False

    def get_write_buffer_size(self) -> int:
        return self.left

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        self.aborted = True


def test_a_reader_has_more_time_than_a_header(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("polytask.serving.connections.time", SimpleNamespace(monotonic=lambda: now[0]))
    connections, idle, stalled, slow = Connections(30, 60, 9), Written(0), Written(9), Written(99)
    for second in range(80):
        now[0], slow.left = float(second), slow.left - 1
        connections.tidy([each for each in (idle, stalled, slow) if not each.aborted])
        assert [idle.aborted, stalled.aborted, slow.aborted] == [second > 30, second > 60, False]


def unread(port: int) -> socket.socket:
    """A connection whose reader takes nothing of a long stream."""
    body = json.dumps({"prompt": "a", "max_tokens": 200, "logit_bias": X, "logprobs": 20, "stream": True}).encode()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.sendall(HEAD.replace(b"%d" % len(BODY), b"%d" % len(body)) + body)
    return connection


def stays(port: int) -> bool:
    """Whether there is room for a connection that waits."""
    with connected(port) as connection:
        time.sleep(0.5)
        return not closed(connection)


def test_a_reader_that_is_cut_off_keeps_no_connection():
    with serving(stall=0.4, connections=1) as port, unread(port):
        assert not stays(port)
        until(lambda: stays(port))


def test_a_reader_that_takes_nothing_does_not_keep_the_server_from_ending():
    with contextlib.ExitStack() as stack, serving(stall=0.4) as port:
        connection = stack.enter_context(unread(port))
        assert connection.recv(1, socket.MSG_PEEK)  # the answer has begun


def test_so_many_requests_are_read_at_once():
    with serving(connections=2) as port:
        held = [connected(port, HEAD) for _ in range(2)]
        until(lambda: httpx.get(f"http://127.0.0.1:{port}/ready").json()["running"] == 2)
        refused = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json={"prompt": "a", "max_tokens": 2})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        for connection in held:
            connection.sendall(BODY)
            assert answer(connection).startswith(b"HTTP/1.1 200")
