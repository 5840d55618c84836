"""compose/logs.yaml: from a clean engine to rows in PostgreSQL and lines in the archive, whatever is stopped or killed.

Every line that the application says it logged is looked for: its lines are numbered by run and way (file, ship).
"""

import json
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Callable

import pytest

from tests.containers.conftest import Project, docker
from tests.until import until

SERVICES = ("redis", "postgres", "shop", "follower", "archive", "database")
ARRIVAL_S = 60
Lines = dict[tuple[str, str], set[int]]
"""The numbers of lines, by run of the application and the way they took."""


@pytest.fixture(scope="module")
def logs(project: Callable[..., Project]) -> Project:
    """All of it, and well. The tests here stand in their order: each goes on with what the one before left."""
    one = project("logs.yaml", ["REDIS_PORT", "SHOP_PORT"])
    one.compose("up", "-d")
    one.until_healthy(*SERVICES)
    return one


def logged(one: Project) -> dict[str, int | str]:
    """What the application says it logged so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{one.ports['SHOP_PORT']}/logged", timeout=10) as answer:
        return dict(json.load(answer))


def numbers(texts: list[str]) -> Lines:
    """The lines' numbers, from rows or lines of JSON."""
    found: Lines = {}
    for text in texts:
        data = json.loads(text)
        if "run" in data:
            found.setdefault((data["run"], data["via"]), set()).add(data["n"])
    return found


def sql(one: Project, statement: str) -> list[str]:
    """Rows of one column."""
    return one.inside("postgres", "psql", "-U", "logs", "-d", "logs", "-tAc", statement).splitlines()


def rows(one: Project) -> Lines:
    """What is in PostgreSQL."""
    return numbers(sql(one, "SELECT data FROM logs"))


def archived(one: Project) -> Lines:
    """What is in the archive."""
    lines = one.inside("archive", "sh", "-c", "cat /data/logs.jsonl*").splitlines()
    return numbers([json.dumps(json.loads(line)["data"]) for line in lines])


def in_the_file(one: Project) -> Lines:
    """What stands in the access log."""
    return numbers(one.inside("shop", "cat", "/var/log/app/access.log").splitlines())


def said(run: str, counts: dict[str, int]) -> Lines:
    """All numbers up to the counts."""
    return {(run, via): set(range(1, counts[via] + 1)) for via in ("file", "ship")}


def missing(wanted: Lines, found: Lines) -> dict[tuple[str, str], int]:
    """How many lines are wanted and not found."""
    counts = {key: len(wanted[key] - found.get(key, set())) for key in wanted}
    return {key: count for key, count in counts.items() if count}


def until_all_arrived(one: Project, wanted: Lines) -> None:
    """Wait until PostgreSQL and the archive have them all."""
    for where in (rows, archived):
        until(
            lambda where=where: not missing(wanted, where(one)),  # type: ignore[misc]
            ARRIVAL_S,
            every_s=0.5,
            what=lambda where=where: f"{where.__name__} lacks {missing(wanted, where(one))}",  # type: ignore[misc]
        )


def test_events_become_visible_in_postgres_and_all_is_green(logs: Project) -> None:
    """Both ways, in both places."""
    until(lambda: len(rows(logs)) == 2, ARRIVAL_S, every_s=0.5, what=lambda: logs.logs("database"))
    until(lambda: len(archived(logs)) == 2, ARRIVAL_S, every_s=0.5, what=lambda: logs.logs("archive"))
    assert {service: logs.health(service) for service in SERVICES} == dict.fromkeys(SERVICES, "healthy")


def test_no_password_shows_anywhere(logs: Project) -> None:
    """Not in what the engine knows, in process lists and environments, in logs, nor in any event."""
    texts = {service: docker("inspect", logs.container(service)) + logs.logs(service) for service in SERVICES}
    for service in SERVICES:
        texts[f"processes of {service}"] = logs.inside(
            service, "sh", "-c", "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline", check=False
        )
    texts["processes"] = subprocess.run(["ps", "axeww"], capture_output=True, text=True, check=True).stdout
    texts["rows"] = "".join(sql(logs, "SELECT logs::text FROM logs LIMIT 1000"))
    assert "millstream" in texts["processes"] and "PGDATA" in texts["processes of postgres"], (
        "it looked at them"
    )
    for secret in (logs.secret("redis_password"), logs.secret("postgres_password")):
        escaped = json.dumps(secret)[1:-1]
        assert [where for where, text in texts.items() if secret in text or escaped in text] == []


def test_a_stop_loses_nothing(logs: Project) -> None:
    """Stopped while it logs, and started again: what the application said at its end is there, by exact count."""
    run = str(logged(logs)["run"])
    logs.compose("stop")
    codes = {service: logs.inspect(service)["State"]["ExitCode"] for service in SERVICES}
    assert codes == dict.fromkeys(SERVICES, 0)
    end = next(
        json.loads(line)
        for line in reversed(logs.logs("shop").splitlines())
        if line.startswith('{"run"') and "logged" in line
    )
    assert end["run"] == run
    assert min(end["logged"].values()) > 50
    logs.compose("up", "-d")
    until_all_arrived(logs, said(run, end["logged"]))
    assert rows(logs)[run, "ship"] == set(range(1, end["logged"]["ship"] + 1))
    assert logged(logs)["run"] != run


@pytest.mark.timeout(400)
def test_kills_lose_nothing(logs: Project) -> None:
    """kill -9 in every container in turn: nothing that stands in the file is missing, nor what was shipped by then."""
    logs.until_healthy("redis", "postgres", "shop")
    run = str(logged(logs)["run"])
    for service in ("database", "archive", "follower"):
        logs.crash(service)
    for service in ("postgres", "redis"):
        before = counts_of(logs)["file"]
        logs.kill(service)
        until(lambda before=before: counts_of(logs)["file"] > before + 20, 30)  # type: ignore[misc]
        logs.start(service)
    logs.until_healthy("redis", "postgres")
    # The application dies last: what it said it had logged is shipped by then, and its file is all there.
    wanted = said(run, counts_of(logs))
    until(lambda: not missing(wanted, rows(logs)), ARRIVAL_S, every_s=0.5)
    logs.crash("shop")
    logs.until_healthy("shop")
    whole = in_the_file(logs)
    assert len(whole) == 3, "three runs of the application"
    until_all_arrived(logs, wanted | whole)
    doubled = [key for key, count in Counter(sql(logs, "SELECT event_id FROM logs")).items() if count > 1]
    assert doubled == []
    each = "SELECT data->>'run', data->>'via', data->>'n' FROM logs GROUP BY 1, 2, 3 HAVING count(*) > 1"
    assert sql(logs, each) == []
    logs.until_healthy(*SERVICES)


def counts_of(one: Project) -> dict[str, int]:
    """How many lines the application has logged by each way."""
    now = logged(one)
    return {via: int(now[via]) for via in ("file", "ship")}


def test_a_new_container_goes_on_where_the_old_one_was(logs: Project) -> None:
    """Its hostname is another one; the position's name and the volumes' owner are not: no line is sent again."""
    logs.compose("up", "-d", "--force-recreate", "--no-deps", "follower", "archive")
    now = logged(logs)
    wanted = {(str(now["run"]), "file"): set(range(1, int(now["file"]) + 1))}
    until_all_arrived(logs, wanted)
    twice = "SELECT data FROM logs WHERE data->>'via' = 'file' GROUP BY data HAVING count(*) > 1"
    assert sql(logs, twice) == []
