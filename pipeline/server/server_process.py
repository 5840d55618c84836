"""ServerProcess: the one server process of a data folder, started, found again and stopped.

Stands on a lock that the server process itself holds for as long as it lives: nothing about process ids, which are
reused, or about files, which a killed server leaves behind, is taken as proof of life. Its callers take turns
(embedded.py). If we are killed while starting it, the server runs on, and the next caller finds it.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import hiredis

from pipeline.errors import NoServerError
from pipeline.server.file_lock import POLL_S, FileLock
from pipeline.server.server_binary import find_binary, version_of

ANSWER_S = 10.0
"""How long a server that lives may be silent before it is said to hang."""
LOADING_S = 60.0
"""How long loading is waited for; after that the caller meets LOADING answers, which pass."""
STOP_S = 15.0
"""How long a server may take to stop before it is killed. Its data is on disk either way."""
_SOCKET_PATH_BYTES = 100  # macOS takes 103, Linux 107
_LOG_BYTES = 4_000_000
_CORRUPT = (
    r"Bad file format|Unexpected end of file|Wrong signature|RDB (?:CRC|checksum)|Internal error in RDB"
    r"|AOF.*(?:corrupt|invalid|format)|Invalid AOF"
)
_CAUSES = {
    r"Address already in use": "port {port} is taken",
    r"No space left on device": "the disk is full",
    _CORRUPT: "its data is corrupt",
    r"Permission denied|Read-only file system": "a file of it cannot be written",
}
"""What the server's log says, and what that means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a server was started; kept beside its data while it runs, for whoever finds it."""

    fsync: Literal["always", "everysec"] = "everysec"
    port: int | None = None
    """Port on the loopback interface, beside the unix socket; None: none."""
    binary: str = ""
    socket: str = ""
    """Path of the unix socket."""

    def with_wishes_of(self, other: "Settings") -> "Settings":
        """These, and what the other asks for beyond them."""
        fsync = other.fsync if self.fsync == "everysec" else self.fsync
        return replace(self, fsync=fsync, port=self.port or other.port, binary=self.binary or other.binary)


class ServerProcess:
    """The server of one folder. Only connectable() and known_pid() may be called without having the turn."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "run"
        self.settings = Settings()
        self.pid = 0
        self._life = FileLock(self.run / "life")
        self._log = folder / "server.log"
        self._pid_file, self._settings_file = self.run / "pid", self.run / "settings.json"

    def connectable(self) -> bool:
        """Whether a process listens at the socket; costs next to nothing and changes nothing."""
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.settimeout(1)
                probe.connect(self.settings.socket)
            except OSError:
                return False
        return True

    def find(self) -> bool:
        """Whether the server runs; waits for one that is starting, loading or dying just now.

        Raises:
            NoServerError: it lives and does not answer.
        """
        deadline = time.monotonic() + ANSWER_S
        while True:
            self._read_settings()
            if self._answers():
                return True
            if self._life.try_acquire():
                self._life.release()
                return False
            if self.settings.socket and not Path(self.settings.socket).exists() and self.known_pid():
                self.stop()  # its socket was removed, so nobody can use it: it starts anew
                return False
            if time.monotonic() > deadline:
                raise NoServerError(
                    f"the embedded server of {self.folder} (process {self.known_pid() or 'unknown'}) runs and has not "
                    f"answered for {ANSWER_S:g} s; if it hangs, kill it: its data is safe, and it is started again"
                )
            time.sleep(POLL_S)

    def start(self, wanted: Settings) -> None:
        """Start the server, and wait until it answers.

        Raises:
            NoServerError: it does not start; says why, with the server's own last line.
        """
        binary = find_binary(wanted.binary or None)
        self._check_format(binary)
        if not self._life.acquire(1):  # not at once: somebody may just be looking whether the server lives
            raise NoServerError(f"another server has the data of {self.folder}")
        try:
            self._clear()
            self.settings = Settings(
                fsync=wanted.fsync, port=wanted.port, binary=str(binary), socket=self._socket_path()
            )
            self._write_settings()
            before = self._rotate_log()
            ran = subprocess.run(
                self._command(binary),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=60,
                check=False,
                pass_fds=[self._life.fd],
                # Ctrl-C in our terminal is for us, not for a server that others may share.
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            self._life.release()
            raise NoServerError(f"{binary} has not started within 60 s") from None
        except BaseException:
            self._life.release()
            raise
        self._life.close()  # the server holds it now
        if ran.returncode != 0:
            raise NoServerError(
                self._why(self._logged_since(before) + (ran.stdout + ran.stderr).splitlines())
            )
        self._wait_for_start(before)

    def stop(self) -> None:
        """Stop the server, by force if it does not stop by itself, and wait until it is gone."""
        pid = self.known_pid()
        if pid:
            self._end(pid)
        self._clear()

    def stop_without_folder(self) -> None:
        """Stop the server we know although its folder was removed: else it would run on, for nobody."""
        if self.pid and not self._life.try_acquire():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def forget(self) -> None:
        """Have no more to do with the server."""
        self._life.close()

    def strengthen(self) -> None:
        """Write every event through to the disk from now on."""
        if self._call("CONFIG", "SET", "appendfsync", "always") != b"OK":
            raise NoServerError(f"the embedded server of {self.folder} does not take appendfsync always")
        self.settings = replace(self.settings, fsync="always")
        self._write_settings()

    def _command(self, binary: Path) -> list[str]:
        settings = self.settings
        options = {
            "daemonize": "yes",  # so it is nobody's child: no zombie, and nothing for our caller's os.wait()
            "dir": str(self.folder),
            "logfile": str(self._log),
            "pidfile": str(self._pid_file),
            "unixsocket": settings.socket,
            "unixsocketperm": "700",
            "bind": "127.0.0.1",
            "port": str(settings.port or 0),
            "protected-mode": "yes",
            "appendonly": "yes",
            "appendfsync": settings.fsync,
            "aof-use-rdb-preamble": "yes",
            "save": "",  # the append-only file is all there is to keep
            "maxmemory": "0",
            "maxmemory-policy": "noeviction",
            "always-show-logo": "no",
        }
        return [str(binary), *(word for name, value in options.items() for word in (f"--{name}", value))]

    def _wait_for_start(self, log_bytes: int) -> None:
        deadline = time.monotonic() + LOADING_S
        while not self._answers():
            if self._life.try_acquire():
                self._life.release()
                raise NoServerError(self._why(self._logged_since(log_bytes)))
            if time.monotonic() > deadline:
                self.stop()
                raise NoServerError(self._why(self._logged_since(log_bytes)))
            time.sleep(POLL_S)

    def _answers(self) -> bool:
        """Whether the server answers. While it loads its data it is waited for, as long as LOADING_S."""
        deadline = time.monotonic() + LOADING_S
        while self.settings.socket:
            reply = self._call("PING")
            loading = isinstance(reply, hiredis.ReplyError) and str(reply).startswith("LOADING")
            if reply is None or not loading or time.monotonic() > deadline:
                self._life.watch()
                self.pid = self.known_pid() or self.pid
                return reply is not None
            time.sleep(POLL_S)
        return False

    def _call(self, *command: str) -> object:
        """The reply to one command, an error being a reply too; None if there is none."""
        reader = hiredis.Reader()
        with socket.socket(socket.AF_UNIX) as asking:
            try:
                asking.settimeout(1)
                asking.connect(self.settings.socket)
                asking.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub: tuples of one
                while (reply := reader.gets()) is False:
                    piece = asking.recv(65_536)
                    if not piece:
                        return None
                    reader.feed(piece)
            except (OSError, hiredis.HiredisError):
                return None
        return reply

    def known_pid(self) -> int:
        """Process id that the server wrote down, also one that was killed; 0 if none has."""
        try:
            return int(self._pid_file.read_text("ascii").strip() or 0)
        except (FileNotFoundError, ValueError):
            return 0

    def _end(self, pid: int) -> None:
        """Stop the process that holds the lock, and nobody else: the pid counts only while the lock is held."""
        for ask, patience_s in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, ANSWER_S)):
            if self._life.try_acquire():
                self._life.release()
                return
            with suppress(ProcessLookupError):
                os.kill(pid, ask)
            if self._life.acquire(patience_s):
                self._life.release()
                return
        raise NoServerError(f"the embedded server of {self.folder} (process {pid}) cannot be stopped")

    def _clear(self) -> None:
        """Remove what a server that is gone left behind, its data apart."""
        self._read_settings()
        path = Path(self.settings.socket) if self.settings.socket else self.run / "socket"
        path.unlink(missing_ok=True)
        if path.parent != self.run and path.parent.name.startswith("millstream-"):
            with suppress(OSError):  # its short folder may hold what is not ours
                path.parent.rmdir()
        self._pid_file.unlink(missing_ok=True)
        self._settings_file.unlink(missing_ok=True)
        self.settings = Settings()

    def _socket_path(self) -> str:
        """Beside the data if the path is short enough and sockets can be made there, else in a short folder."""
        path = self.run / "socket"
        if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
            try:
                with socket.socket(socket.AF_UNIX) as trial:
                    trial.bind(str(path))
                path.unlink()
                return str(path)
            except OSError:  # a shared folder of a virtual machine, for one
                path.unlink(missing_ok=True)
        top = tempfile.gettempdir()
        top = top if len(os.fsencode(top)) <= _SOCKET_PATH_BYTES - 30 else "/tmp"
        return str(Path(tempfile.mkdtemp(prefix="millstream-", dir=top)) / "socket")

    def _check_format(self, binary: Path) -> None:
        # Redis 6 takes no notice of the append-only files of later versions: it would start empty, without a word.
        if (self.folder / "appendonlydir").is_dir() and version_of(binary) < (7,):
            raise NoServerError(
                f"{binary} is too old for the data of {self.folder}, which version 7 or later wrote"
            )

    def _read_settings(self) -> None:
        try:
            self.settings = Settings(**json.loads(self._settings_file.read_text("utf-8")))
        except FileNotFoundError:
            self.settings = Settings()
        except (ValueError, TypeError):  # half-written by a full disk; the server it was for did not start
            self.settings = Settings()

    def _write_settings(self) -> None:
        new = self._settings_file.with_suffix(".new")
        new.write_text(json.dumps(asdict(self.settings)), "utf-8")
        new.replace(self._settings_file)

    def _rotate_log(self) -> int:
        """Keep the log bounded; its size now, to tell later lines from earlier ones."""
        size = self._log.stat().st_size if self._log.exists() else 0
        if size > _LOG_BYTES:
            shutil.move(self._log, self._log.with_suffix(".log.old"))
            return 0
        return size

    def _logged_since(self, size: int) -> list[str]:
        try:
            with self._log.open("rb") as log:
                log.seek(size)
                return log.read().decode("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return []

    def _why(self, lines: list[str]) -> str:
        """One line for why the server did not start, ending with its own last words."""
        text = "\n".join(lines)
        cause = next(
            (said for pattern, said in _CAUSES.items() if re.search(pattern, text)), "it does not start"
        )
        words = [line for line in lines if line.strip() and "WARNING" not in line]
        last = (
            re.sub(r"^\d+:\w (?:\d+ \w+ \d+ [\d:.]+ )?[#*.-] ", "", words[-1].strip()) if words else "nothing"
        )
        return f"embedded server in {self.folder}: {cause.format(port=self.settings.port)}; it said: {last}"
