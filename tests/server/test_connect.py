"""Connector and Link: what is refused, what is said, and that no password and no unverified server gets through."""

import logging
import os
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trustme

from pipeline.errors import (
    AccessDeniedError,
    MillstreamError,
    NotConnectedError,
    ServerRefusedError,
    UnsupportedServerError,
    WrongKeyTypeError,
)
from pipeline.server.connect import Connector
from pipeline.server.locate import locate
from pipeline.server.scripts import script
from pipeline.server.server_binary import find_binary
from tests.conftest import BINARY, OwnServer, Server
from tests.until import until

CANARY = "k4nary-Pa55word"


def free_port() -> int:
    """A loopback port that nobody listens on just now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def raw_server(folder: Path, *settings: str, config: str | None = None) -> Iterator[int]:
    """A server process with settings of its own, on a loopback port; yields the port."""
    port = free_port()
    command = [str(find_binary(BINARY))]
    if config is not None:
        file = folder / "server.conf"
        file.write_text(config.format(port=port), encoding="utf-8")
        command += [str(file), *settings]
    else:
        command += ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", *settings]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: answers(port))
        yield port
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    """Whether something listens on the port."""
    with socket.socket() as one:
        one.settimeout(0.5)
        return one.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def tls_before(server: Server, authority: trustme.CA, *names: str) -> Iterator[int]:
    """A loopback port that speaks TLS with a certificate for these names, in front of the server's socket."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    listener = socket.create_server(("127.0.0.1", 0))
    with ExitStack() as stack:
        stack.callback(listener.close)

        def copy(source: socket.socket, target: socket.socket) -> None:
            try:
                while data := source.recv(1 << 16):
                    target.sendall(data)
            except OSError:  # the other side has gone: so do we
                pass
            for one in (source, target):
                one.close()

        def serve() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:  # closed: the test is over
                    return
                try:
                    client = context.wrap_socket(plain, server_side=True)
                except OSError:  # a client that does not trust us
                    plain.close()
                    continue
                upstream = socket.socket(socket.AF_UNIX)
                upstream.connect(server.address.path)
                for pair in ((client, upstream), (upstream, client)):
                    threading.Thread(target=copy, args=pair, daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


@pytest.fixture
def authority(tmp_path: Path) -> tuple[trustme.CA, str]:
    """A certificate authority and the file that holds its certificate."""
    made = trustme.CA()
    file = tmp_path / "ca.pem"
    made.cert_pem.write_to_path(file)
    return made, str(file)


def test_tls_with_a_trusted_certificate_works(server: Server, authority: tuple[trustme.CA, str]) -> None:
    """A certificate of a trusted authority, for the host that was asked for, is accepted."""
    made, file = authority
    with tls_before(server, made, "localhost") as port:
        connector = Connector(f"rediss://localhost:{port}?ssl_ca_certs={file}")
        link = connector.link("tls")
        assert link.calls([("ECHO", "x" * 100_000), ("ECHO", "y")]) == [b"x" * 100_000, b"y"]
        link.close()


@pytest.mark.parametrize(
    ("names", "trusted"),
    [(("localhost",), False), (("elsewhere.example",), True)],
    ids=["unknown authority", "wrong host"],
)
def test_tls_that_cannot_be_verified_fails_closed(
    server: Server, authority: tuple[trustme.CA, str], names: tuple[str, ...], trusted: bool
) -> None:
    """An unknown authority or another host's certificate is refused, and said to be a matter of TLS."""
    made, file = authority
    with tls_before(server, made, *names) as port:
        query = f"?ssl_ca_certs={file}" if trusted else ""
        with pytest.raises(AccessDeniedError, match=r"TLS with rediss://localhost:\d+/0 failed"):
            Connector(f"rediss://localhost:{port}{query}").link()


def test_tls_towards_a_server_without_it_fails_closed(own_server: OwnServer) -> None:
    """A plaintext server on the port is not talked to in plaintext."""
    plain = own_server(port=free_port())
    with pytest.raises(MillstreamError, match="rediss://"):
        Connector(f"rediss://localhost:{plain.embedded.port}", timeout_ms=500).link()


@pytest.mark.parametrize("form", ["unix://:{0}@{1}", "unix://someone:{0}@{1}"])
def test_a_password_is_shown_nowhere(
    own_server: OwnServer, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused password stands in no error, no repr and no log line; neither does one that works."""
    mine = own_server()
    with_password = Connector(mine.address).link()
    with_password.call("CONFIG", "SET", "requirepass", CANARY)
    with caplog.at_level(logging.DEBUG):
        connector = Connector(form.format(f"wrong-{CANARY}", mine.address.path))
        with pytest.raises(AccessDeniedError) as refused:
            connector.link()
        right = Connector(f"unix://:{CANARY}@{mine.address.path}")
        link = right.link()
        link.close()
        with pytest.raises(NotConnectedError) as closed:
            link.call("PING")
    shown = "".join(
        map(str, (refused.value, closed.value, repr(connector.address), right.shown, repr(right.address)))
    )
    assert CANARY not in shown + caplog.text
    with_password.call("CONFIG", "SET", "requirepass", "")
    with_password.close()


def test_a_missing_password_is_said_in_one_line(own_server: OwnServer) -> None:
    """A server that wants a password refuses at the first link, not somewhere later."""
    mine = own_server()
    admin = Connector(mine.address).link()
    admin.call("CONFIG", "SET", "requirepass", CANARY)
    with pytest.raises(AccessDeniedError, match="Authentication required"):
        Connector(mine.address).link()
    admin.call("CONFIG", "SET", "requirepass", "")
    admin.close()


def test_a_server_that_is_too_old_is_refused_in_one_line(tmp_path: Path) -> None:
    """Without XAUTOCLAIM (Redis 6.2, Valkey 7.2) there is no recovery: the first link says so."""
    with raw_server(tmp_path, "--rename-command", "XAUTOCLAIM", "") as port:
        with pytest.raises(
            UnsupportedServerError, match=r"needs Redis 6\.2 or Valkey 7\.2, or later"
        ) as refused:
            Connector(f"redis://127.0.0.1:{port}").link()
        assert "\n" not in str(refused.value)


def test_abilities_are_found_without_info_and_config(own_server: OwnServer) -> None:
    """A user who may not ask INFO and CONFIG gets the same abilities, and an honest `unknown` for durability."""
    mine = own_server()
    admin = Connector(mine.address)
    link = admin.link()
    link.call("ACL", "SETUSER", "few", "on", f">{CANARY}", "~*", "+@all", "-info", "-config", "-xautoclaim")
    few = Connector(f"unix://few:{CANARY}@{mine.address.path}").capabilities()
    assert few.supported
    assert few.waitaof == admin.capabilities().waitaof
    assert (few.aof, few.fsync, few.eviction) == (None, None, None)
    assert "durability unknown" in few.durability_line()
    link.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"appendfsync": "always"}, "every event is on disk before it is confirmed"),
        ({"appendfsync": "everysec"}, "may lose the last second"),
        ({"appendonly": "no"}, "NOT durable"),
        ({"maxmemory-policy": "allkeys-lru"}, "may evict whole streams"),
    ],
)
def test_one_line_says_how_durable_the_server_is(
    own_server: OwnServer, settings: dict[str, str], said: str
) -> None:
    """The line names what a crash or a power cut would cost."""
    mine = own_server()
    link = Connector(mine.address).link()
    for name, value in settings.items():
        link.call("CONFIG", "SET", name, value)
    line = Connector(mine.address).capabilities().durability_line()
    assert said in line
    assert "\n" not in line
    link.close()


def test_sentinel_names_the_primary(own_server: OwnServer, tmp_path: Path) -> None:
    """redis+sentinel:// asks the sentinels where the primary is, and skips those that do not answer."""
    primary = own_server(port=free_port())
    watched = f"sentinel monitor shop 127.0.0.1 {primary.embedded.port} 1"
    config = f"port {{port}}\nbind 127.0.0.1\ndir {tmp_path}\n{watched}\n"
    with raw_server(tmp_path, "--sentinel", config=config) as port:
        connector = Connector(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{port}/shop/0")
        link = connector.link()
        assert b"process_id:%d\r" % primary.pid in link.call("INFO", "server")
        link.close()
        with pytest.raises(NotConnectedError, match=r"no sentinel of .* knows a primary named 'other'"):
            Connector(f"redis+sentinel://127.0.0.1:{port}/other/0").link()


def test_an_unreachable_server_is_said_in_one_line() -> None:
    """Nobody listens: the address without its password, and why."""
    port = free_port()
    with pytest.raises(NotConnectedError, match=rf"cannot reach redis://127\.0\.0\.1:{port}/0: ") as refused:
        Connector(f"redis://:{CANARY}@127.0.0.1:{port}").link()
    assert CANARY not in str(refused.value)


def test_error_answers_are_told_apart_and_leave_the_link_usable(server: Server, stream: str) -> None:
    """Wrong type, unknown command and a good command in one pipeline: each gets its own answer."""
    link = server.connector().link()
    wrong, unknown, good = link.calls(
        [("XADD", stream, "*", "a", "b"), ("NOSUCHCOMMAND",), ("ECHO", "still here")]
    )[0:3]
    assert re.fullmatch(rb"\d+-\d+", wrong)
    assert isinstance(unknown, ServerRefusedError)
    assert good == b"still here"
    link.call("SET", stream + ":text", "x")
    with pytest.raises(WrongKeyTypeError):
        link.call("XADD", stream + ":text", "*", "a", "b")
    assert link.call("ECHO", "on") == b"on"
    link.close()


def test_a_script_the_server_forgot_is_loaded_again(own_server: OwnServer, stream: str) -> None:
    """SCRIPT FLUSH, or a restart, costs one more round trip and nothing else."""
    link = Connector(own_server().address).link()
    link.call("XGROUP", "CREATE", stream, "g", "0", "MKSTREAM")
    for _ in range(2):
        link.call("SCRIPT", "FLUSH")
        assert link.run(script("fetch"), [stream], ["g", "me"]) == []
    link.close()


@pytest.mark.parametrize("timeout_ms", [300, 1_200])
def test_a_silent_server_is_given_up_after_the_timeout(own_server: OwnServer, timeout_ms: int) -> None:
    """No answer in time breaks the link for good: the next answer on it would belong to another command."""
    mine = own_server()
    connector = mine.connector(timeout_ms=timeout_ms)
    link = connector.link()
    link.send(("XREAD", "BLOCK", "4000", "STREAMS", "nothing", "$"))
    began_s = time.monotonic()
    with pytest.raises(NotConnectedError, match=rf"no answer from .* within {timeout_ms / 1_000:g} s"):
        link.read()
    assert timeout_ms / 1_000 - 0.01 < time.monotonic() - began_s < timeout_ms / 1_000 + 0.9
    assert link.closed
    with pytest.raises(NotConnectedError, match="closed"):
        link.call("PING")


def test_a_link_is_not_for_forked_children(server: Server) -> None:
    """A child that uses its parent's link is refused, and the parent's link goes on."""
    link = server.connector().link()
    child = os.fork()
    if not child:
        try:
            link.call("PING")
        except NotConnectedError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert link.call("ECHO", "mine") == b"mine"
    link.close()


def test_an_address_is_asked_for_by_all_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address the error names every way to give one."""
    for name in ("MILLSTREAM_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MillstreamError, match=r"--url.*MILLSTREAM_URL.*REDIS_URL.*embedded://"):
        locate(None)
