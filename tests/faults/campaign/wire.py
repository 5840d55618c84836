"""Wire: the network between a server and everybody else, and what can be done to it.

Where this machine lets us, it is a network namespace of the server's own behind a pair of virtual interfaces, and the
kernel's packet filter loses what is to be lost: real TCP, with its repeats and resets. Elsewhere a proxy stands in.
"""

import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Protocol

from pipeline.server.locate import Address
from tests.proxy import Proxy

PORT = 6379


class Wire(Protocol):
    """What can be done to a network."""

    kind: str
    """What it is made of, for people."""

    def lose(self, *, requests: bool, replies: bool) -> None:
        """Lose all packets in one direction, in both or, with neither, in none from now on."""

    def reset(self, on: bool) -> None:
        """Answer every packet of a connection with RST, as long as this is on."""


class NamespaceWire:
    """A network namespace for the server, made for one row. Needs root, ip and iptables."""

    kind = "network namespace"

    def __init__(self) -> None:
        token = f"{os.getpid() % 10_000}{random.SystemRandom().randrange(1_000)}"
        self._name = f"ms{token}"
        self._ends = (f"ma{token}", f"mb{token}")
        block = random.SystemRandom().randrange(1 << 14)
        self._net = f"10.{200 + block // 4_096 % 40}.{block // 64 % 64}.{block % 64 * 4}"
        first, _, last = self._net.rpartition(".")
        self._here, self.host = f"{first}.{int(last) + 1}", f"{first}.{int(last) + 2}"
        self._rules: list[list[str]] = []

    def __enter__(self) -> "NamespaceWire":
        here, there = self._ends
        _ip("netns", "add", self._name)
        try:
            _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", self._name)
            _ip("addr", "add", f"{self._here}/30", "dev", here)
            _ip("link", "set", here, "up")
            for words in (
                ("addr", "add", f"{self.host}/30", "dev", there),
                ("link", "set", there, "up"),
                ("link", "set", "lo", "up"),
            ):
                _ip("-n", self._name, *words)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        _ip("netns", "del", self._name)  # the interfaces go with it

    @property
    def before(self) -> tuple[str, ...]:
        """What a server is started by, so that it runs there."""
        return ("ip", "netns", "exec", self._name)

    def lose(self, *, requests: bool, replies: bool) -> None:
        """See Wire."""
        rules = []
        if requests:
            rules.append(["INPUT", "-p", "tcp", "-j", "DROP"])
        if replies:
            rules.append(["OUTPUT", "-p", "tcp", "-j", "DROP"])
        self._set(rules)

    def reset(self, on: bool) -> None:
        """See Wire. The server hears nothing of it: it is left with half of each connection."""
        rule = ["INPUT", "-p", "tcp", "--dport", str(PORT), "-j", "REJECT", "--reject-with", "tcp-reset"]
        self._set([rule] if on else [])

    def _set(self, rules: list[list[str]]) -> None:
        for rule in self._rules:
            self._filter("-D", rule)
        for rule in rules:
            self._filter("-A", rule)
        self._rules = rules

    def _filter(self, action: str, rule: list[str]) -> None:
        subprocess.run([*self.before, "iptables", "-w", action, *rule], check=True, capture_output=True)


class ProxyWire:
    """The same by a proxy, which loses bytes and not packets: what was lost is not repeated by TCP."""

    kind = "proxy"

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy

    def lose(self, *, requests: bool, replies: bool) -> None:
        """See Wire. What flowed through the hole is torn: those connections are of no use afterwards."""
        was = self.proxy.deaf or self.proxy.mute
        self.proxy.deaf, self.proxy.mute = requests, replies
        if was and not (requests or replies):
            self.proxy.cut()

    def reset(self, on: bool) -> None:
        """See Wire."""
        self.proxy.refuse = on
        if on:
            self.proxy.cut(reset=True)


@contextlib.contextmanager
def proxied(address: Address) -> Iterator[ProxyWire]:
    """A proxy over TCP before a server that runs already."""
    with Proxy(address, tcp=True) as proxy:
        yield ProxyWire(proxy)


@cache
def no_namespaces() -> str:
    """Why there are no network namespaces here; empty if there are."""
    if os.geteuid() != 0:
        return "not root"
    for program in ("ip", "iptables"):
        if shutil.which(program) is None:
            return f"no {program}"
    try:
        with NamespaceWire() as wire:
            wire.reset(True)
            wire.reset(False)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"refused: {error}"
    return ""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
