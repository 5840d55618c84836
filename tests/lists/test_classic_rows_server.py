"""The classic list queue row by row: durable connections, durable servers, and the kinds of workers."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from consumers.list_queue import ListQueue
from tests.conftest import OwnServer, Server
from tests.console.command import end_all, started
from tests.lists.beside import NAME
from tests.lists.classic import ClassicQueue
from tests.until import until

# Durability.


def test_classic_durability_check_sees_one_setting(own_server: OwnServer) -> None:
    """appendonly=yes is all it asks for: a server that evicts tasks and writes to the disk once in a while passes."""
    with redis.Redis(unix_socket_path=own_server().address.path) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendfsync", "no")
        assert ClassicQueue(client, NAME).is_durable()


def test_classic_durability_check_fails_where_config_is_denied(client: Any, old_server: Server) -> None:
    """Managed services deny CONFIG: the check is an error, not an answer."""
    client.acl_setuser(
        "managed", enabled=True, nopass=True, categories=["+@all"], commands=["-config"], keys=["*"]
    )
    with (
        redis.Redis(unix_socket_path=old_server.address.path, username="managed", password="any") as managed,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        ClassicQueue(managed, NAME).is_durable()


def test_ours_names_what_could_lose_tasks(own_server: OwnServer) -> None:
    """Eviction and the fsync policy are found as well, each with what it means and its remedy."""
    server = own_server()
    with redis.Redis(unix_socket_path=server.address.path) as client, ListQueue(NAME, server.url) as queue:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", "1gb")
        client.config_set("appendfsync", "no")
        found = {finding.what: finding for finding in queue.check_durable()}
        assert found["maxmemory-policy"].grade == "loses"
        assert found["appendfsync"].grade in ("loses", "risks")
        assert all(finding.remedy for finding in found.values() if finding.grade in ("loses", "risks"))


def test_ours_says_what_a_managed_service_hides(old_server: Server, client: Any) -> None:
    """Where CONFIG is denied, INFO tells the most of it, and what nobody tells is said to be unknown."""
    client.acl_setuser(
        "managed", enabled=True, passwords=["+secret"], categories=["+@all"], commands=["-config"], keys=["*"]
    )
    url = f"unix://managed:secret@{old_server.address.path}"
    with ListQueue(NAME, url) as queue:
        found = queue.check_durable()
    assert found
    assert any(finding.grade == "unknown" for finding in found)
    assert not any(finding.what == "appendonly" and finding.grade == "loses" for finding in found)


# Durable servers, and workers.


APP = """
import asyncio, os, threading
from millstream import Pipeline

app = Pipeline()

def note(kind, event):
    os.write(file, f"{{kind}} {{os.getpid()}} {{threading.get_native_id()}} {{event.data}}\\n".encode())

file = os.open({account!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@app.consumer(list="threads", concurrency=20)
def io_bound(event):
    threading.Event().wait(0.05)
    note("threads", event)

@app.consumer(list="asyncio", concurrency=500)
async def massive(event):
    await asyncio.sleep(0.05)
    note("asyncio", event)
"""


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """Nothing that a failed test started runs on."""
    yield
    end_all()


@pytest.mark.campaign
def test_ours_durable_server_runs_each_kind_of_worker(tmp_path: Path) -> None:
    """`server --fsync always` has the classic settings; `run --processes 2` supervises threads and asyncio handlers."""
    account = tmp_path / "account"
    (tmp_path / "mail_app.py").write_text(APP.format(account=str(account)), encoding="utf-8")
    server = started("server", "--dir", str(tmp_path / "data"), "--port", "0", "--fsync", "always", "--json")
    assert server.stdout is not None
    text = ""
    while not text.endswith("}\n"):
        text += server.stdout.readline().decode()
    facts = json.loads(text)
    with redis.Redis(unix_socket_path=facts["socket"]) as client:
        settings: Any = client.config_get("*")
        assert settings["appendonly"] == "yes"
        assert settings["appendfsync"] == "always"
        assert settings["aof-use-rdb-preamble"] == "yes"
        assert settings["auto-aof-rewrite-percentage"] == "100"
        assert int(settings["auto-aof-rewrite-min-size"]) == 64 << 20
        old = {name: ClassicQueue(client, name) for name in ("threads", "asyncio")}
        workers = started("run", "mail_app:app", "--processes", "2", "--url", facts["url"], cwd=tmp_path)
        members = "{threads}:tasks:members:workers"
        until(lambda: client.hlen(members) == 2, 20)
        for number in range(200):
            for queue in old.values():
                queue.push(f"mail-{number}")
        until(lambda: account.exists() and account.read_bytes().count(b"\n") == 400, 20)
        lines = [line.split() for line in account.read_text(encoding="utf-8").splitlines()]
        for kind in old:
            of_kind = [line for line in lines if line[0] == kind]
            assert sorted(line[3] for line in of_kind) == sorted(f"mail-{number}" for number in range(200))
        threads_of = {kind: {(pid, thread) for one, pid, thread, _ in lines if one == kind} for kind in old}
        pids_of = {kind: {pid for pid, _ in threads_of[kind]} for kind in old}
        assert len(pids_of["threads"]) == 2, "both processes worked"
        assert len(threads_of["threads"]) > 2
        assert len(threads_of["asyncio"]) == len(pids_of["asyncio"]), "one event loop in each process"
        until(lambda: not client.exists(*old), 5)
        for process in (workers, server):
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)
            assert process.returncode == 0
