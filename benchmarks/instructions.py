"""Instructions: how many a piece of work takes in this process, as valgrind's callgrind counts them.

They are a fact about the code: the same on a busy machine as on an idle one, with warm caches and cold ones. What they
do not see is waiting, the kernel and the caches' misses. counted() runs a program of ours under callgrind; in there
Instructions tells callgrind where work begins and ends, by the few bytes of machine code that valgrind takes for a
message to it, and which do nothing elsewhere.

Sources: https://valgrind.org/docs/manual/manual-core-adv.html#manual-core-adv.clientreq (client requests),
https://valgrind.org/docs/manual/cl-manual.html (callgrind's requests and options), valgrind.h of Valgrind 3.19.
"""

import ctypes
import gc
import mmap
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from console.processes import environment

OUT = "MILLSTREAM_CALLGRIND_OUT"
"""Where callgrind writes, for the program that it runs: each count goes to this name with .1, .2, … behind it."""
TIMEOUT_S = 600.0
_CODE = bytes.fromhex(
    "4889f8"  # mov rax, rdi: the request and its arguments
    "31d2"  # xor edx, edx: the answer if there is no valgrind
    "48c1c703 48c1c70d 48c1c73d 48c1c733"  # rol rdi by 3, 13, 61 and 51: as it was
    "4887db"  # xchg rbx, rbx: a client request
    "4889d0 c3"  # mov rax, rdx; ret
)
_RUNNING_ON_VALGRIND = 0x1001
_CALLGRIND = ord("C") << 24 | ord("T") << 16
_ZERO_STATS, _DUMP_STATS_AT, _START_INSTRUMENTATION = (_CALLGRIND + at for at in (1, 3, 4))


class CountError(Exception):
    """Instructions could not be counted."""


def unavailable() -> str | None:
    """Why instructions cannot be counted here; None: they can."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"counting is known for Linux on x86_64 only, not for {sys.platform} on {platform.machine()}"
    return None


class Instructions:
    """A meter of instructions of this process, all threads of it. For a program that counted() runs, one at a time.

    Raises:
        CountError: this process does not run under callgrind.
    """

    def __init__(self) -> None:
        self.cost = 0.0
        self._dumps = 0
        self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._page.write(_CODE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self._ask = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)(address)
        self._label = ctypes.create_string_buffer(b"millstream")
        self._out = os.environ.get(OUT, "")
        if not self._out or not self._request(_RUNNING_ON_VALGRIND):
            raise CountError("this process does not run under callgrind: benchmarks.check_speed starts it")
        self._request(_START_INSTRUMENTATION)

    def start(self) -> None:
        """From here on."""
        gc.collect()
        self._request(_ZERO_STATS)

    def stop(self) -> None:
        """Up to here."""
        self._request(_DUMP_STATS_AT, ctypes.addressof(self._label))
        self._dumps += 1
        dump = Path(f"{self._out}.{self._dumps}")
        self.cost = float(total(dump.read_text("utf-8", "replace")))
        dump.unlink()

    def _request(self, number: int, argument: int = 0) -> int:
        asked = (ctypes.c_uint64 * 6)(number, argument)
        return int(self._ask(ctypes.addressof(asked)))


def total(dump: str) -> int:
    """The instructions in a dump of callgrind's.

    Raises:
        CountError: it has no line that says so.
    """
    for line in dump.splitlines():
        word, _, count = line.partition(":")
        if word == "summary" and count.split()[:1]:
            return int(count.split()[0])
    raise CountError("callgrind wrote a dump without a summary")


def counted(program: Sequence[str], given: Mapping[str, str] | None = None) -> str:
    """What a Python program (its arguments for Python) says on stdout, run under callgrind.

    given: environment variables for it beside ours.

    Raises:
        CountError: it failed, with the last of what it had to say; or it took longer than TIMEOUT_S.
    """
    with tempfile.TemporaryDirectory(prefix="millstream-callgrind-") as folder:
        out = f"{folder}/out"
        command = [
            "valgrind", "--tool=callgrind", "--instr-atstart=no", "--fair-sched=try", f"--log-file={folder}/log",
            f"--callgrind-out-file={out}", sys.executable, *program,
        ]  # fmt: skip
        # Sets and dicts of text are walked in the same order each time.
        known = environment() | {"PYTHONHASHSEED": "0", OUT: out} | dict(given or {})
        try:
            ended = subprocess.run(
                command, env=known, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise CountError(f"counting took longer than {TIMEOUT_S:g} s") from error
        if ended.returncode:
            log = Path(f"{folder}/log")
            said = ended.stderr.strip() or (log.read_text() if log.exists() else "")
            raise CountError(f"counting failed with code {ended.returncode}: {said[-2_000:]}")
        return ended.stdout
