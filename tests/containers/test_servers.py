"""compose/redis.yaml and compose/valkey.yaml: what they promise of the server they start."""

import json
import re
import subprocess
from collections.abc import Callable

import pytest

from millstream import Consumer, Producer
from tests.console.command import here
from tests.containers.conftest import Project, code_of, docker
from tests.until import until

SERVERS = {"redis": ("redis.yaml", "REDIS_PORT"), "valkey": ("valkey.yaml", "VALKEY_PORT")}
HEALTH_S = 60


@pytest.fixture(scope="module", params=SERVERS)
def served(request: pytest.FixtureRequest, project: Callable[..., Project]) -> tuple[Project, str]:
    """A project with a server that is well, and the server's name."""
    file, port = SERVERS[request.param]
    one = project(file, [port])
    one.compose("up", "-d")
    one.until_healthy(request.param)
    return one, request.param


def ask(one: Project, name: str, *command: str) -> str:
    """What the server answers to a command, asked from inside with its password."""
    return one.inside(
        name,
        "sh",
        "-c",
        f'REDISCLI_AUTH="$(cat /run/secrets/redis_password)" {name}-cli --json "$@"',
        "-",
        *command,
    ).strip()


def url_of(one: Project) -> str:
    """Its address, for us."""
    return one.url(next(iter(one.ports)))


def test_nothing_confirmed_is_lost_when_the_server_is_killed(served: tuple[Project, str]) -> None:
    """kill -9 of the container behind confirmed sends: all are there once it is back, and the group goes on."""
    one, name = served
    url, stream = url_of(one), "killed"
    with Producer(url) as producer:
        receipts = [producer.send(stream, {"n": n}) for n in range(2_000)]
        for receipt in receipts:
            receipt.result(timeout=30)
    one.kill(name)
    one.start(name)
    one.until_healthy(name)
    with Consumer(stream, group="audit", url=url, timeout_s=2) as consumer:
        assert sorted(delivery.event.data["n"] for delivery in consumer) == list(range(2_000))


def test_the_health_check_fails_without_the_password(served: tuple[Project, str]) -> None:
    """redis-cli ends with 0 on NOAUTH: the check of the compose file does not, and neither is a wrong password well."""
    one, name = served
    check = one.inspect(name)["Config"]["Healthcheck"]["Test"][1]
    container = one.container(name)
    assert code_of("exec", container, "sh", "-c", check) == 0
    assert "NOAUTH" in one.inside(name, f"{name}-cli", "ping")
    assert code_of("exec", container, f"{name}-cli", "ping") == 0, "why the check compares the answer"
    for other in ("/dev/null", "/etc/hostname"):
        assert (
            code_of("exec", container, "sh", "-c", check.replace("/run/secrets/redis_password", other)) == 1
        )


def test_the_password_shows_nowhere(served: tuple[Project, str]) -> None:
    """Not in what the engine says of container and image, nor in process list, environments, logs or configuration."""
    one, name = served
    secret = one.secret("redis_password")
    with Producer(url_of(one)) as producer:
        producer.send("canary", {"n": 1}).result(timeout=30)
    image = one.inspect(name)["Image"]
    shown = {
        "inspect": docker("inspect", one.container(name)),
        "image": docker("inspect", image) + docker("history", "--no-trunc", image),
        "processes": docker("top", one.container(name), "-eo", "pid,args"),
        "of this machine": subprocess.run(["ps", "axeww"], capture_output=True, text=True, check=True).stdout,
        "environment": one.inside(name, "sh", "-c", "tr '\\0' '\\n' < /proc/1/environ; cat /tmp/server.conf"),
        "log": one.logs(name),
        "configuration": ask(one, name, "CONFIG", "GET", "*") + ask(one, name, "ACL", "LIST"),
        "files": one.inside(name, "sh", "-c", "cat /data/*/*"),
    }
    assert [
        where for where, text in shown.items() if secret in text or json.dumps(secret)[1:-1] in text
    ] == []
    assert "server.sh" in shown["inspect"] and f"{name}-server" in shown["processes"], (
        "it looked at the right thing"
    )
    wrong = here("stream", "ls", url=f"redis://:wrong@127.0.0.1:{next(iter(one.ports.values()))}/0")
    assert wrong.code == 1
    assert "wrong" not in wrong.err.replace("wrong password", "").replace("WRONGPASS", ""), wrong.err


def test_the_settings_are_those_of_the_file(served: tuple[Project, str]) -> None:
    """Nothing is evicted, the log is written each second with a snapshot before it, and only this machine gets in."""
    one, name = served

    def setting(key: str) -> str:
        return str(json.loads(ask(one, name, "CONFIG", "GET", key))[key])

    assert {
        key: setting(key) for key in ("maxmemory-policy", "appendonly", "appendfsync", "aof-use-rdb-preamble")
    } == {
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "aof-use-rdb-preamble": "yes",
    }
    found = one.inspect(name)
    assert int(setting("maxmemory")) < found["HostConfig"]["Memory"], (
        "Redis says that it is full before the kernel kills"
    )
    assert [p["HostIp"] for p in found["NetworkSettings"]["Ports"]["6379/tcp"]] == ["127.0.0.1"]
    assert found["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    assert found["HostConfig"]["ReadonlyRootfs"] and found["HostConfig"]["CapDrop"] == ["ALL"]
    # The first lines of the log are the snapshot.
    assert one.inside(name, "sh", "-c", "head -c 5 /data/appendonlydir/*.base.rdb") in ("REDIS", "VALKE")
    assert one.inside(name, "id", "-u").strip() == "999"


def test_a_stop_is_clean(served: tuple[Project, str]) -> None:
    """It ends with 0 within its grace, and says that it saved."""
    one, name = served
    one.compose("stop")
    assert one.inspect(name)["State"]["ExitCode"] == 0
    assert re.search(r"bye bye", one.logs(name))
    one.compose("up", "-d")
    one.until_healthy(name, timeout_s=HEALTH_S)
    until(lambda: ask(one, name, "PING") == '"PONG"')
