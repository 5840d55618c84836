"""Connector and Link: from an address to connections that say exactly what happened.

A Link is one connection, used by one thread at a time. The client library makes it (TCP, TLS, unix socket, AUTH,
SELECT); from there on commands are packed and replies parsed in C, written and read here, so that requests can be in
flight and nothing is ever repeated behind our back. After any failure the link is closed for good: the next reply on
it would belong to another command.
"""

import contextlib
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import hiredis
import redis.exceptions
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from pipeline.errors import AccessDeniedError, MillstreamError, NotConnectedError, UnsupportedServerError
from pipeline.server.capabilities import Capabilities, probe
from pipeline.server.embedded import EmbeddedServer
from pipeline.server.error_map import server_error
from pipeline.server.locate import Address, locate
from pipeline.server.replies import Reply
from pipeline.server.scripts import Arg, Script

LOADS = 3
"""So often a script is loaded before it runs: somebody may have the server forget it in between."""
READ_BYTES = 1 << 18
"""Bytes asked of the socket at a time: a reply of 1,000 entries takes a few reads, not hundreds."""
PATIENCE_S = 1.0
"""A read of the socket waits so long at most, in s, and then again: the time of each wait need not be told to it."""


_LATER = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


_END = getattr(
    select, "POLLRDHUP", 0
)  # where it is missing, poll tells all the same once both ways are closed
_TEXTS = frozenset((bytes, str))


Command: TypeAlias = Sequence[Arg] | bytes
"""A command as its words, or packed already."""


def _packed(command: Command) -> bytes:
    """A command in bytes. Numbers are made text here: hiredis crashes if a signal handler raises while it does that."""
    if isinstance(command, bytes):
        return command
    if not _TEXTS.issuperset(map(type, command)):
        command = [arg if isinstance(arg, bytes | str) else str(arg) for arg in command]
    packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]
    return packed


class _ErrorReply(Exception):
    """An error answer as hiredis hands it over; turned into a MillstreamError before anyone sees it."""


class Link:
    """One connection to the server. Not for several threads at once but to post, and not across a fork."""

    def __init__(self, connection: AbstractConnection, shown: str, timeout_ms: int) -> None:
        self._connection = connection
        self._shown = shown
        self._timeout_s = timeout_ms / 1_000
        self._pid = os.getpid()
        sock = connection._get_socket()
        assert sock is not None, "the client library connected"
        self._sock: socket.socket = sock
        # A thread that only waits for an answer waits in the read itself: one step into the kernel, and one turn of the
        # interpreter, less than poll and read. TLS may have to write in order to read: there poll does all waiting.
        self._waits_in_read = not isinstance(sock, ssl.SSLSocket)
        self._later_flag = socket.MSG_DONTWAIT if self._waits_in_read else 0
        self._own_ways()
        self._unsent: list[memoryview] = []
        self._writing = threading.Lock()
        """Held by who gives the socket what is unsent; never waited for."""
        self._idle_since_poll = False
        self._failure: OSError | None = None
        self._reader = hiredis.Reader(protocolError=_ErrorReply, replyError=_ErrorReply)
        self._next: Reply = False  # a reply that received() found
        self._buffer = bytearray(READ_BYTES)
        self._view = memoryview(self._buffer)
        self.closed = False

    def call(self, *args: Arg) -> Reply:
        """Send one command and return its reply.

        Raises:
            MillstreamError: the server answered with an error, which left no doubt that nothing was done.
            NotConnectedError: the connection broke; the command may or may not have been carried out.
        """
        self.send(args)
        return self.read()

    def calls(self, commands: Sequence[Command]) -> list[Reply]:
        """Send all commands, then read all replies; an error answer is returned in its place, not raised."""
        self.send(*commands)
        return [self.read_or_error() for _ in commands]

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Arg]) -> Reply:
        """Run a script, loading it first where the server does not know it (it was not run then, so this is safe)."""
        command = script.command(keys, args)
        for _ in range(LOADS):
            reply = self.calls([command])[0]
            if not isinstance(reply, MillstreamError):
                return reply
            if reply.code != "NOSCRIPT":
                raise reply
            self.load(script)
        return self.call(*command)

    def load(self, script: Script) -> None:
        """Make the script known to the server."""
        self.call("SCRIPT", "LOAD", script.text)

    def send(self, *commands: Command) -> None:
        """Write commands without waiting for their replies; read() them later, in order.

        Replies that come meanwhile are taken in: a server that cannot get rid of them would read no further.
        """
        self.post(*commands)
        while self._unsent:
            self._wait(self._timeout_s)

    def post(self, *commands: Command) -> None:
        """send() without waiting for the socket: what it does not take at once is written by ready() and read().

        A connection that breaks here is closed by whoever waits for the answer: that may be another thread.
        """
        if self._failure is not None:
            # Not closed here: another thread may wait for it just now.
            raise NotConnectedError(f"the connection to {self._shown} broke: {self._failure}")
        self._usable()
        # In one piece: each system call may give the processor to the server, which then finds a part of it only.
        data = _packed(commands[0]) if len(commands) == 1 else b"".join([_packed(each) for each in commands])
        sent = 0
        try:
            if not self._unsent:
                # Before others see it: a thread that begins to wait just now writes what it finds unsent.
                try:
                    sent = self._sock.send(data, self._later_flag)
                except _LATER:
                    pass
            if sent < len(data):
                self._unsent.append(memoryview(data)[sent:])
        except OSError as error:
            self._failure = error
        except BaseException as error:  # a signal handler raised: nobody knows what was written
            self.spoil(error)
            raise

    def spoil(self, error: BaseException) -> None:
        """Have whoever uses it next find it broken."""
        self._failure = ConnectionAbortedError(f"interrupted by {type(error).__name__}")

    def fileno(self) -> int:
        """The descriptor of its socket."""
        return self._sock.fileno()

    @property
    def unsent(self) -> bool:
        """Whether the socket has not taken all that was posted."""
        return bool(self._unsent)

    def read(self, timeout_ms: int | None = None) -> Reply:
        """The next reply; its errors are raised. timeout_ms replaces the link's own (for blocking commands)."""
        reply = self.read_or_error(timeout_ms)
        if isinstance(reply, MillstreamError):
            raise reply
        return reply

    def read_or_error(self, timeout_ms: int | None = None) -> Reply:
        """The next reply; an error answer is returned, a broken connection raised."""
        self._usable()
        reply, self._next = self._next, False
        if reply is False:
            reply = self._reply()
        if reply is False:
            timeout_s = self._timeout_s if timeout_ms is None else timeout_ms / 1_000
            if self._waits_in_read and timeout_s >= PATIENCE_S:
                while reply is False and not self._unsent:
                    self._await(timeout_s)
                    reply = self._reply()
            while reply is False:
                if not self._receive():
                    self._wait(timeout_s)
                reply = self._reply()
        return server_error(str(reply)) if isinstance(reply, _ErrorReply) else reply

    def received(self) -> bool:
        """Whether a whole reply has come in with others: read() gives it without waiting."""
        if self._next is False:
            self._next = self._reply()
        return self._next is not False

    def ready(self, timeout_ms: int = 0, wake: int | None = None) -> bool:
        """Whether a reply (or the end of the connection) can be read now, or within timeout_ms.

        What was posted is written meanwhile. wake is a file descriptor that ends the wait when it becomes readable; the
        answer is then False.
        """
        self._usable()
        if self._next is not False or self._reader.has_data() or self._decrypted():
            return True
        until_s = time.monotonic() + timeout_ms / 1_000
        while True:
            readable = self._poll(max(until_s - time.monotonic(), 0), wake)
            if self._sock.fileno() in readable:
                return True
            if (wake is not None and wake in readable) or time.monotonic() >= until_s:
                return False

    def ended(self, timeout_ms: int, *, wake: int) -> bool:
        """Whether the connection ends within timeout_ms, whatever comes over it meanwhile. wake: as for ready()."""
        self._usable()
        poll = select.poll()
        poll.register(self._sock, _END)
        poll.register(wake, select.POLLIN)
        return any(descriptor != wake for descriptor, _ in poll.poll(timeout_ms))

    def _reply(self) -> Reply:
        try:
            return self._reader.gets()
        except _ErrorReply as error:
            raise self._broken(error) from None

    def _wait(self, timeout_s: float) -> None:
        """Wait until the socket can be read or written, and do what can be done."""
        self._usable()
        if not self._decrypted() and self._sock.fileno() not in self._poll(timeout_s, None):
            if self._idle_since_poll:
                raise self._broken(TimeoutError(), timeout_s)
            return
        self._receive()

    def _await(self, timeout_s: float) -> None:
        """Take in what comes next, waiting for it in the read itself."""
        left_s = timeout_s
        while left_s >= PATIENCE_S:
            try:
                size = self._sock.recv_into(self._buffer)
                if not size:
                    raise ConnectionResetError("the server closed the connection")
            except BlockingIOError:  # SO_RCVTIMEO
                left_s -= PATIENCE_S
                continue
            except OSError as error:
                raise self._broken(error) from None
            self._reader.feed(self._view[:size])  # type: ignore[arg-type]
            return
        if left_s <= 0 or not self._poll(left_s, None):
            raise self._broken(TimeoutError(), timeout_s)
        self._receive()

    def _poll(self, timeout_s: float, wake: int | None) -> list[int]:
        """Wait for the socket, and write what it takes; the descriptors that can be read."""
        # poll, not select: a process may have more than 1,024 files open.
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        if wake is not None:
            poll.register(wake, select.POLLIN)
        events = poll.poll(timeout_s * 1_000)
        self._idle_since_poll = not events
        try:
            if any(event & select.POLLOUT for _, event in events):
                self._write()
        except OSError as error:
            raise self._broken(error) from None
        return [descriptor for descriptor, event in events if event & ~select.POLLOUT]

    def _write(self) -> None:
        """Give the socket what it takes.

        Who waits for answers may find what another thread is posting just now: written by both, it would be carried out
        and answered twice. What that one leaves is written by who looks next.
        """
        if not self._writing.acquire(blocking=False):
            return
        try:
            unsent = self._unsent
            while unsent:
                try:
                    sent = self._sock.send(unsent[0], self._later_flag)
                except _LATER:
                    return
                if sent == len(unsent[0]):
                    del unsent[0]
                else:
                    unsent[0] = unsent[0][sent:]
        finally:
            self._writing.release()

    def _receive(self) -> bool:
        """Take in what has come; whether anything has."""
        try:
            size = self._sock.recv_into(self._buffer, 0, self._later_flag)
            if not size:
                raise ConnectionResetError("the server closed the connection")
        except _LATER:
            return False
        except OSError as error:
            raise self._broken(error) from None
        self._reader.feed(self._view[:size])  # type: ignore[arg-type]
        return True

    def _decrypted(self) -> bool:
        """Whether TLS holds bytes that poll does not see."""
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    @contextlib.contextmanager
    def bare(self) -> Iterator[socket.socket]:
        """The socket itself, blocking, while the block runs: for who measures the server without us.

        An exception in the block closes the link: what answers are still to come, nobody knows.
        """
        self._usable()
        self._sock.settimeout(self._timeout_s)
        try:
            yield self._sock
        except BaseException:
            self.close()
            raise
        self._own_ways()

    def _own_ways(self) -> None:
        """Have the socket wait as this class expects it."""
        if self._waits_in_read:
            self._sock.settimeout(None)
            seconds, rest = divmod(PATIENCE_S, 1)
            self._sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(seconds), int(rest * 1e6))
            )
        else:
            self._sock.settimeout(0)

    def close(self) -> None:
        """Close the connection; commands under way may or may not be carried out."""
        self.closed = True
        self._connection.disconnect()

    def _usable(self) -> None:
        if self.closed or self._pid != os.getpid():
            why = "made before a fork" if self._pid != os.getpid() else "closed"
            raise NotConnectedError(f"this connection to {self._shown} was {why}")
        if self._failure is not None:
            raise self._broken(self._failure)

    def _broken(self, error: Exception, timeout_s: float | None = None) -> NotConnectedError:
        self.close()
        if isinstance(error, TimeoutError):
            waited = f" within {timeout_s or self._timeout_s:g} s"
            return NotConnectedError(f"no answer from {self._shown}{waited}")
        return NotConnectedError(
            f"the connection to {self._shown} broke: {str(error) or type(error).__name__}"
        )


def ready_any(links: Sequence[Link], timeout_ms: int, wake: Sequence[int] = ()) -> bool:
    """Whether one of the links has a reply (or its end) to be read, now or within timeout_ms; see Link.ready().

    wake: descriptors that end the wait when one becomes readable.
    """
    until_s = time.monotonic() + timeout_ms / 1_000
    while not any(link.ready() for link in links):
        left_ms = (until_s - time.monotonic()) * 1_000
        if left_ms <= 0:
            return False
        poll = select.poll()
        for link in links:
            poll.register(link.fileno(), select.POLLIN | (select.POLLOUT if link.unsent else 0))
        for descriptor in wake:
            poll.register(descriptor, select.POLLIN)
        if any(descriptor in wake for descriptor, _ in poll.poll(left_ms)):
            return False
    return True


class Connector:
    """Makes links to one address. Holds the embedded server while it is open; safe for threads and across a fork."""

    def __init__(
        self, address: Address | str | None = None, *, name: str = "millstream", timeout_ms: int = 5_000
    ) -> None:
        self.address = address if isinstance(address, Address) else locate(address)
        self.timeout_ms = timeout_ms
        self._name = name
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._embedded: EmbeddedServer | None = None
        self._capabilities: Capabilities | None = None

    @property
    def shown(self) -> str:
        """The address without its password."""
        return self.address.shown

    def link(self, purpose: str = "", *, timeout_ms: int | None = None) -> Link:
        """A new connected link; purpose becomes part of the connection's name on the server.

        Raises:
            NotConnectedError: unreachable. AccessDeniedError: password, user or certificate refused.
            UnsupportedServerError: the server is older than Redis 6.2, or shares its slots with other nodes.
        """
        timeout_ms = timeout_ms or self.timeout_ms
        link = self._open(purpose, timeout_ms)
        if self._capabilities is None:
            try:
                capabilities = probe(link.calls)
                if not capabilities.supported:
                    raise UnsupportedServerError(
                        f"{self.shown} is {capabilities.name}: Millstream needs Redis 6.2 or Valkey 7.2, or later"
                    )
                if capabilities.cluster_nodes > 1:
                    raise UnsupportedServerError(
                        f"{self.shown} is one of {capabilities.cluster_nodes} nodes of a cluster, between which this "
                        "version does not route: use a server that is not in a cluster, or a cluster of one node"
                    )
            except MillstreamError:
                link.close()
                raise
            self._capabilities = capabilities
        return link

    def reached(self) -> Address:
        """Where links lead just now: the embedded server's socket, or the primary that Sentinel names."""
        return self._reach()

    def capabilities(self) -> Capabilities:
        """What this server can do and how durable it is, asked once per connector."""
        if self._capabilities is None:
            self.link("probe").close()
        assert self._capabilities is not None, "link() probes"
        return self._capabilities

    def forget_capabilities(self) -> None:
        """Ask again at the next link: after a reconnect the server may be another, or set otherwise."""
        self._capabilities = None

    def wait_until_up(self, timeout_ms: int) -> Link:
        """A link as soon as the server answers and has loaded its data, trying for timeout_ms."""
        deadline = time.monotonic() + timeout_ms / 1_000
        while True:
            try:
                link = self.link("wait")
                link.call("EXISTS", "millstream")  # refused while loading, unlike the handshake
                return link
            except AccessDeniedError:
                raise
            except MillstreamError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def close(self) -> None:
        """Give up the embedded server, if this address has one; links already made stay open."""
        with self._lock:
            embedded, self._embedded = self._embedded, None
            if embedded is not None and self._pid == os.getpid():
                embedded.close()

    @property
    def may_log_in_anew(self) -> bool:
        """Whether a password that was refused may be another by the next try: it is kept in a file."""
        return self.address.password_file is not None

    def _open(self, purpose: str, timeout_ms: int) -> Link:
        password = self._password()
        try:
            return self._connected(purpose, timeout_ms, password)
        except AccessDeniedError:
            anew = self._password()
            if anew == password:
                raise
            return self._connected(purpose, timeout_ms, anew)  # it was changed in between

    def _password(self) -> str | None:
        """The password as it is now."""
        file = self.address.password_file
        if file is None:
            return self.address.password
        try:
            return Path(file).read_text(encoding="utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise AccessDeniedError(f"{self.shown}: password_file={file!r} cannot be read: {error}") from None

    def _connected(self, purpose: str, timeout_ms: int, password: str | None) -> Link:
        address = replace(self._reach(), password=password)
        connection = self._connection(
            address, f"{self._name}:{purpose}" if purpose else self._name, timeout_ms
        )
        try:
            connection.connect()
        except redis.exceptions.RedisError as error:
            raise self._unreachable(error) from None
        except (OSError, ValueError) as error:
            raise NotConnectedError(f"cannot reach {self.shown}: {error}") from None
        return Link(connection, self.shown, timeout_ms)

    def _reach(self) -> Address:
        """The address to connect to just now: the embedded server's socket, or the primary that Sentinel names."""
        if self.address.kind == "embedded":
            with self._lock:
                if self._pid != os.getpid():  # a forked child is a user of its own
                    self._pid, self._embedded = os.getpid(), None
                if self._embedded is None:
                    self._embedded = EmbeddedServer.acquire(
                        self.address.folder, fsync=self.address.fsync, binary=self.address.binary
                    )
                else:
                    self._embedded.ensure_running()
                return self._embedded.address
        if self.address.kind == "sentinel":
            return self.address.with_host(*self._primary())
        return self.address

    def _primary(self) -> tuple[str, int]:
        seconds = self.timeout_ms / 1_000
        options = {
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
            "retry": Retry(NoBackoff(), 0),  # the next sentinel is asked instead
            **self._tls(),
        }
        sentinel = Sentinel(list(self.address.sentinels), sentinel_kwargs=options)
        try:
            host, port = sentinel.discover_master(self.address.service)
        except MasterNotFoundError:
            raise NotConnectedError(
                f"no sentinel of {self.shown} knows a primary named {self.address.service!r}"
            ) from None
        except redis.exceptions.RedisError as error:
            raise self._unreachable(error) from None
        finally:
            for client in sentinel.sentinels:
                client.close()
        return str(host), int(port)

    def _tls(self) -> dict[str, Any]:
        if not self.address.tls:
            return {}
        return {
            "ssl": True,
            "ssl_ca_certs": self.address.ca_file,
            "ssl_certfile": self.address.cert_file,
            "ssl_keyfile": self.address.key_file,
            "ssl_cert_reqs": "none" if self.address.insecure_tls else "required",
            "ssl_check_hostname": not self.address.insecure_tls,
            "ssl_min_version": ssl.TLSVersion.TLSv1_2,
        }

    def _connection(self, address: Address, name: str, timeout_ms: int) -> AbstractConnection:
        seconds = timeout_ms / 1_000
        options: dict[str, Any] = {
            "db": address.db,
            "username": address.username,
            "password": address.password,
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
            "protocol": 2,  # one reply shape on every server and version; pushes have no place in our pipelines
            "driver_info": None,  # CLIENT SETINFO costs two round trips and is unknown below 7.2
        }
        if address.kind == "unix":
            connection: AbstractConnection = UnixDomainSocketConnection(path=address.path, **options)  # type: ignore[abstract]
        elif address.tls:
            tls = {key: value for key, value in self._tls().items() if key != "ssl"}
            connection = SSLConnection(host=address.host, port=address.port, **tls, **options)
        else:
            connection = Connection(host=address.host, port=address.port, **options)
        # The name is a courtesy to whoever reads CLIENT LIST; a user without CLIENT SETNAME may connect all the same.
        connection.redis_connect_func = lambda made: _greet(made, name)  # type: ignore[assignment]
        return connection

    def _unreachable(self, error: redis.exceptions.RedisError) -> MillstreamError:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLError):
                return AccessDeniedError(f"TLS with {self.shown} failed: {cause.reason or cause}")
            cause = cause.__cause__ or cause.__context__
        text = str(error)
        if isinstance(error, redis.exceptions.AuthenticationError):
            return AccessDeniedError(f"{self.shown} refuses the user or password: {text}")
        if isinstance(error, redis.exceptions.BusyLoadingError):
            return server_error(f"LOADING {text}", f"connecting to {self.shown}")
        if isinstance(error, redis.exceptions.ResponseError):
            return server_error(text, f"connecting to {self.shown}")
        return NotConnectedError(f"cannot reach {self.shown}: {text}")


def _greet(connection: Any, name: str) -> None:
    """AUTH and SELECT as the client library does them, then the connection's name, if we may."""
    connection.on_connect()
    with contextlib.suppress(redis.exceptions.ResponseError):
        connection.send_command(
            "CLIENT", "SETNAME", "".join(c if c.isprintable() and c != " " else "-" for c in name)
        )
        connection.read_response()
